"""The section Reduce slice spacing: a volume of thick slices in, one of thin slices beside it."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _
from USMRISynthesisLib.errors import USMRIError

from USMRISynthesisScene.process import WorkerProtocol
from USMRISynthesisScene.progress import ProgressWords
from USMRISynthesisScene.respacing import RespaceOptions, RespaceRun
from USMRISynthesisScene.worker_run import Reports


class SpacingSection:
    """Starts, shows and cancels a run.

    Args:
        parameters: the scene's parameters, for the device, or None while there are none.
        worker: the process to use; asked for at each start.
        prepare: makes torch available, or raises.
        show: (value 0-1 or None when it ends, text) for the panel's status line and bar.
        message: (level, text) for the log.
        changed: called when a run begins or ends.
    """

    def __init__(self, ui: Any, parameters: Callable[[], Any], worker: Callable[[], WorkerProtocol],
                 prepare: Callable[[], None], show: Callable[[float | None, str], None],
                 message: Callable[[str, str], None], changed: Callable[[], None]) -> None:
        self.ui = ui
        self._parameters, self._worker, self._prepare = parameters, worker, prepare
        self._show, self._message, self._changed = show, message, changed
        self._run: RespaceRun | None = None
        self._words = ProgressWords()
        ui.respaceButton.connect("clicked(bool)", self.on_button)
        ui.respaceSelector.connect("currentNodeChanged(vtkMRMLNode*)", lambda node: self._changed())

    @property
    def running(self) -> bool:
        return self._run is not None and self._run.running

    def refresh(self, busy: bool) -> None:
        """`busy`: the worker is needed elsewhere."""
        chosen = self.ui.respaceSelector.currentNode() is not None
        self.ui.respaceButton.enabled = self.running or (chosen and not busy)
        self.ui.respaceButton.text = _("Cancel") if self.running else _("Reduce slice spacing")
        for widget in (self.ui.respaceSelector, self.ui.respaceSpacingSpinBox, self.ui.respaceConsistencyCheckBox):
            widget.enabled = not self.running

    def on_button(self, checked: bool = False) -> None:
        if self.running:
            self.close()
        else:
            self.start()

    def start(self) -> None:
        """Begin with what is chosen."""
        parameters = self._parameters()
        if parameters is None:
            return
        try:
            self._prepare()
        except USMRIError as error:
            self._show(None, str(error))
            return
        options = RespaceOptions(self.ui.respaceSpacingSpinBox.value or None,
                                 self.ui.respaceConsistencyCheckBox.checked, device=parameters.device)
        self._words = ProgressWords()
        self._run = RespaceRun(self._worker())
        self._show(0.0, _("Starting"))
        self._run.start(self.ui.respaceSelector.currentNode(), options,
                        Reports(self._on_progress, self._message, self._on_finished))
        self._changed()

    def close(self) -> None:
        """Cancel what runs."""
        if self._run is not None:
            self._run.cancel()

    def _on_progress(self, value: float, stage: str) -> None:
        self._show(value, self._words.say(value, stage))

    def _on_finished(self, node: Any, error: USMRIError | None) -> None:
        self._show(None, str(error) if error is not None else _("Done: {name}").format(name=node.GetName()))
        self._changed()
