"""The Batch section: a folder of images in, a folder of results out, and the state of every image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _
from USMRISynthesisLib.batch.folder import Batch, Case
from USMRISynthesisLib.errors import Refused, USMRIError

from USMRISynthesisScene.panel.context import PanelContext, RunSection
from USMRISynthesisScene.panel.model_choice import planes_to_run
from USMRISynthesisScene.panel.parameters import age_of
from USMRISynthesisScene.panel.slots import WAIT, allow
from USMRISynthesisScene.runs.batch import BatchReports, BatchRun
from USMRISynthesisScene.setup.openvino_install import ensure_openvino

_WORDS = {
    "waiting": _("waiting"),
    "running": _("running"),
    "done": _("done"),
    "kept": _("done before"),
    "refused": _("refused"),
    "failed": _("failed"),
    "cancelled": _("cancelled"),
    "held": _("in work elsewhere"),
}


class BatchSection(RunSection):
    """Starts, shows and cancels a batch."""

    def __init__(self, ui: Any, panel: PanelContext) -> None:
        super().__init__(ui, panel)
        self._batch: Batch | None = None
        self._rows: dict[str, int] = {}
        ui.batchButton.connect("clicked(bool)", self.on_button)

    def refresh(self, busy: bool) -> None:
        """Update the widgets; busy: another run uses the worker."""
        allow([self.ui.batchButton], self.running or not busy, WAIT)
        self.ui.batchButton.text = _("Cancel batch") if self.running else _("Run batch")
        for widget in (self.ui.batchInputButton, self.ui.batchOutputButton, self.ui.batchFreshCheckBox):
            widget.enabled = not self.running

    def begin(self, parameters: Any, trust: bool) -> None:
        """Start a batch with the chosen folders."""
        source, target = self.ui.batchInputButton.directory, self.ui.batchOutputButton.directory
        if source == target:  # as they are before the user has chosen any
            raise Refused(
                "same-folder",
                _("Both folders are the same."),
                _("Choose the folder of the images and another one for the results."),
            )
        self._panel.prepare()
        ensure_openvino(parameters.device)
        batch = Batch(
            Path(source),
            Path(target),
            model=parameters.model,
            device=parameters.device,
            planes=planes_to_run(parameters),
            fresh=self.ui.batchFreshCheckBox.checked,
            allow_low_confidence=parameters.goOnUnreliable,
            any_content=parameters.goOnUnreliable,
            gestational_age=age_of(parameters),
        )
        self._fill(batch)
        self._batch, self._run = batch, BatchRun(self._panel.worker())
        self._panel.show(0.0, _("Batch of {n} images").format(n=len(batch.cases)))
        self._run.start(batch, BatchReports(self.on_progress, self._on_settled, self._on_finished), trust=trust)

    def _fill(self, batch: Batch) -> None:
        table = self.ui.batchTable
        table.rowCount = 0
        table.rowCount = len(batch.cases)
        self._rows = {case.name: row for row, case in enumerate(batch.cases)}
        for name, row in self._rows.items():
            table.setItem(row, 0, qt.QTableWidgetItem(name))
            table.setItem(row, 1, qt.QTableWidgetItem(_WORDS["waiting"]))

    def _on_settled(self, case: Case) -> None:
        if self._batch is None:
            return
        text = case_text(self._batch.states[case.name])
        item = qt.QTableWidgetItem(text)
        item.setToolTip(text)
        self.ui.batchTable.setItem(self._rows[case.name], 1, item)
        self.ui.batchTable.scrollToItem(item)

    def _on_finished(self, error: USMRIError | None) -> None:
        batch = self._batch
        assert batch is not None
        for case in batch.cases:
            self._on_settled(case)
        self.end(f"{error} {batch.summary()}" if error is not None else batch.summary(), error)


def case_text(state: dict[str, Any]) -> str:
    """The state of a case as text: "done, 4 s", "refused: The image is 5 mm wide. Correct the spacing." """
    text = _WORDS[state["status"]]
    if "message" in state:
        return f"{text}: {state['message']} {state['remedy']}".rstrip()
    if "seconds" in state and state["status"] == "done":
        text += _(", {n:.0f} s").format(n=state["seconds"])
    return " ".join([text + ("." if state.get("warnings") else ""), *state.get("warnings", [])])
