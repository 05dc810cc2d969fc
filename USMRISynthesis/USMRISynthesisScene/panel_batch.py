"""The Batch section: a folder in, a folder out, and what became of each image."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _
from USMRISynthesisLib.batch import Batch, Case
from USMRISynthesisLib.errors import Refused, USMRIError

from USMRISynthesisScene.batch import BatchReports, BatchRun
from USMRISynthesisScene.model_choice import planes_to_run
from USMRISynthesisScene.parameters import age_of
from USMRISynthesisScene.process import WorkerProtocol
from USMRISynthesisScene.progress import ProgressWords

_WORDS = {"waiting": _("waiting"), "running": _("running"), "done": _("done"), "kept": _("done before"),
          "refused": _("refused"), "failed": _("failed"), "cancelled": _("cancelled")}


class BatchSection:
    """Starts, shows and cancels a batch.

    Args:
        parameters: the scene's parameters, for model and device, or None while there are none.
        worker: the process to use; asked for at each start.
        prepare: makes torch available, or raises.
        show: (value 0-1 or None when it ends, text) for the panel's status line and bar.
        confirm: asks whether a foreign model may run: (error, what to do then).
        changed: called when a batch begins or ends.
    """

    def __init__(self, ui: Any, parameters: Callable[[], Any], worker: Callable[[], WorkerProtocol],
                 prepare: Callable[[], None], show: Callable[[float | None, str], None],
                 confirm: Callable[[USMRIError, Callable[[], None]], None], changed: Callable[[], None]) -> None:
        self.ui = ui
        self._parameters, self._worker, self._prepare = parameters, worker, prepare
        self._show, self._confirm, self._changed = show, confirm, changed
        self._run: BatchRun | None = None
        self._batch: Batch | None = None
        self._rows: dict[str, int] = {}
        self._words = ProgressWords()
        ui.batchButton.connect("clicked(bool)", self.on_button)

    @property
    def running(self) -> bool:
        return self._run is not None and self._run.running

    def refresh(self, busy: bool) -> None:
        """`busy`: the worker is needed elsewhere."""
        self.ui.batchButton.enabled = self.running or not busy
        self.ui.batchButton.text = _("Cancel batch") if self.running else _("Run batch")
        for widget in (self.ui.batchInputButton, self.ui.batchOutputButton, self.ui.batchFreshCheckBox):
            widget.enabled = not self.running

    def on_button(self, checked: bool = False) -> None:
        if self.running:
            self.close()
        else:
            self.start()

    def start(self, trust: bool = False) -> None:
        """Begin with the folders that are chosen."""
        parameters = self._parameters()
        if parameters is None:
            return
        try:
            source, target = self.ui.batchInputButton.directory, self.ui.batchOutputButton.directory
            if source == target:    # as they are before anybody has chosen
                raise Refused("same-folder", _("Both folders are the same."),
                              _("Choose the folder of the images and another one for the results."))
            self._prepare()
            self._batch = Batch(Path(source), Path(target), model=parameters.model, device=parameters.device,
                                planes=planes_to_run(parameters), fresh=self.ui.batchFreshCheckBox.checked,
                                unreliable=parameters.goOnUnreliable, gestational_age=age_of(parameters))
        except USMRIError as error:
            self._show(None, str(error))
            return
        self._fill(self._batch)
        self._words = ProgressWords()
        self._run = BatchRun(self._worker())
        self._run.start(self._batch, BatchReports(self._on_progress, self._on_settled, self._on_finished), trust=trust)
        self._show(0.0, _("Batch of {n} images").format(n=len(self._batch.cases)))
        self._changed()

    def close(self) -> None:
        """Cancel what runs."""
        if self._run is not None:
            self._run.cancel()

    def _fill(self, batch: Batch) -> None:
        table = self.ui.batchTable
        table.rowCount = 0
        table.rowCount = len(batch.cases)
        self._rows = {case.name: row for row, case in enumerate(batch.cases)}
        for name, row in self._rows.items():
            table.setItem(row, 0, qt.QTableWidgetItem(name))
            table.setItem(row, 1, qt.QTableWidgetItem(_WORDS["waiting"]))

    def _on_progress(self, value: float, stage: str) -> None:
        self._show(value, self._words.say(value, stage))

    def _on_settled(self, case: Case) -> None:
        if self._batch is None:
            return
        text = in_words(self._batch.states[case.name])
        item = qt.QTableWidgetItem(text)
        item.setToolTip(text)
        self.ui.batchTable.setItem(self._rows[case.name], 1, item)
        self.ui.batchTable.scrollToItem(item)

    def _on_finished(self, error: USMRIError | None) -> None:
        batch = self._batch
        assert batch is not None
        for case in batch.cases:
            self._on_settled(case)
        if error is not None and error.kind == "consent":
            self._confirm(error, lambda: self.start(trust=True))
        self._show(None, f"{error} {batch.summary()}" if error is not None else batch.summary())
        self._changed()


def in_words(state: dict[str, Any]) -> str:
    """A case's state for the table: "done, 4 s", "refused: The image is 5 mm wide. Correct the spacing." """
    text = _WORDS[state["status"]]
    if "message" in state:
        return f"{text}: {state['message']} {state['remedy']}"
    if "seconds" in state and state["status"] == "done":
        text += _(", {n:.0f} s").format(n=state["seconds"])
    return " ".join([text + ("." if state.get("warnings") else ""), *state.get("warnings", [])])
