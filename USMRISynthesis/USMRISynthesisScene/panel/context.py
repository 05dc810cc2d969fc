"""What the sections with a run of their own have in common: one button that starts it and cancels it, one at a time."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from USMRISynthesisLib.errors import USMRIError

from USMRISynthesisScene.panel.progress import ProgressWords
from USMRISynthesisScene.runs.worker_process import WorkerProtocol


class Run(Protocol):
    """What is started and cancelled."""

    @property
    def running(self) -> bool: ...

    def cancel(self) -> None: ...


@dataclass(frozen=True)
class Surroundings:
    """What such a section is given of the panel.

    Attributes:
        parameters: the scene's parameters, or None while there are none.
        worker: the process to use; asked for at each start.
        prepare: makes torch available, or raises.
        show: (value 0-1 or None when it ends, text) for the panel's status line and bar.
        message: (level, text) for the log.
        confirm: asks whether a foreign model may run: (error, what to do then).
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
    """Follows the run that `begin` makes; `begin` raises where there is nothing to start."""

    def __init__(self, ui: Any, panel: Surroundings) -> None:
        self.ui, self._panel = ui, panel
        self._run: Run | None = None
        self._words = ProgressWords()

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
        """Begin with what is chosen; trust: the user has agreed to run a model from outside."""
        parameters = self._panel.parameters()
        if parameters is None:
            return
        self._words = ProgressWords()
        try:
            self.begin(parameters, trust)
        except USMRIError as error:
            self._panel.show(None, str(error))
            return
        self._panel.changed()

    def close(self) -> None:
        """Cancel what runs."""
        if self._run is not None:
            self._run.cancel()

    def on_progress(self, value: float, stage: str) -> None:
        self._panel.show(value, self._words.say(value, stage))

    def end(self, text: str, error: USMRIError | None) -> None:
        """The last word of a run."""
        self._panel.show(None, text)
        if error is not None and error.kind == "consent":
            self._panel.confirm(error, lambda: self.start(trust=True))
        self._panel.changed()
