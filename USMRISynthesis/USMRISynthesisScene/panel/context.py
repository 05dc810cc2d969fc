"""Sections that have a run of their own: one button that starts and cancels it, and what they use of the panel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from USMRISynthesisLib.errors import USMRIError

from USMRISynthesisScene.panel.progress import ProgressText
from USMRISynthesisScene.runs.worker_process import WorkerProtocol


class Run(Protocol):
    """A run that can be cancelled."""

    @property
    def running(self) -> bool: ...

    def cancel(self) -> None: ...


@dataclass(frozen=True)
class PanelContext:
    """What a section with its own run uses of the panel.

    Attributes:
        parameters: the scene's parameters, or None while there are none.
        worker: returns the process to use; called at each start.
        prepare: makes torch available, or raises.
        show: (value 0-1 or None when it ends, text) for the panel's status line and bar.
        message: (level, text) for the log.
        confirm: requests consent for a foreign model: (error, called on consent).
        changed: called when a run begins or ends.
    """

    parameters: Callable[[], Any]
    worker: Callable[[], WorkerProtocol]
    prepare: Callable[[], None]
    show: Callable[[float | None, str], None]
    message: Callable[[str, str], None]
    confirm: Callable[[USMRIError, Callable[[], None]], None]
    changed: Callable[[], None]


class RunSection:
    """Shows the run that `begin` starts; `begin` raises USMRIError where it cannot start one."""

    def __init__(self, ui: Any, panel: PanelContext) -> None:
        self.ui, self._panel = ui, panel
        self._run: Run | None = None
        self._progress = ProgressText()

    @property
    def running(self) -> bool:
        return self._run is not None and self._run.running

    def begin(self, parameters: Any, trust: bool) -> None:
        """Set `_run` and start it."""
        raise NotImplementedError

    def on_button(self, checked: bool = False) -> None:
        if self.running:
            self.close()
        else:
            self.start()

    def start(self, trust: bool = False) -> None:
        """Begin with the current choices; trust: the user has agreed to run a model from outside."""
        parameters = self._panel.parameters()
        if parameters is None:
            return
        self._progress = ProgressText()
        try:
            self.begin(parameters, trust)
        except USMRIError as error:
            self._panel.show(None, str(error))
            return
        self._panel.changed()

    def close(self) -> None:
        """Cancel the run."""
        if self._run is not None:
            self._run.cancel()

    def on_progress(self, value: float, stage: str) -> None:
        self._panel.show(value, self._progress.line(value, stage))

    def end(self, text: str, error: USMRIError | None) -> None:
        """Show how the run ended; request consent where that was missing."""
        self._panel.show(None, text)
        if error is not None and error.kind == "consent":
            self._panel.confirm(error, lambda: self.start(trust=True))
        self._panel.changed()
