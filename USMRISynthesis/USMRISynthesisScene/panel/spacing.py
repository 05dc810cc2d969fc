"""The section Reduce slice spacing: from a volume with thick slices to a new one with thin slices."""

from __future__ import annotations

from typing import Any

from slicer.i18n import tr as _
from USMRISynthesisLib.errors import USMRIError

from USMRISynthesisScene.panel.context import PanelContext, RunSection
from USMRISynthesisScene.panel.slots import WAIT, allow
from USMRISynthesisScene.runs.respacing import RespaceOptions, RespaceRun
from USMRISynthesisScene.runs.run import Reports


class SpacingSection(RunSection):
    """Starts, shows and cancels a run."""

    def __init__(self, ui: Any, panel: PanelContext) -> None:
        super().__init__(ui, panel)
        ui.respaceButton.connect("clicked(bool)", self.on_button)
        ui.respaceSelector.connect("currentNodeChanged(vtkMRMLNode*)", lambda node: panel.changed())

    def refresh(self, busy: bool) -> None:
        """Update the widgets; busy: another run uses the worker."""
        chosen = self.ui.respaceSelector.currentNode() is not None
        allow(
            [self.ui.respaceButton],
            self.running or (chosen and not busy),
            WAIT if busy else _("Select an MR volume under Thick slices first."),
        )
        self.ui.respaceButton.text = _("Cancel") if self.running else _("Reduce slice spacing")
        for widget in (self.ui.respaceSelector, self.ui.respaceSpacingSpinBox, self.ui.respaceConsistencyCheckBox):
            widget.enabled = not self.running

    def begin(self, parameters: Any, trust: bool) -> None:
        """Start a run with the chosen volume."""
        self._panel.prepare()
        options = RespaceOptions(
            self.ui.respaceSpacingSpinBox.value or None,
            self.ui.respaceConsistencyCheckBox.checked,
            device=device_for_spacing(parameters.device),
            trust=trust,
        )
        self._run = RespaceRun(self._panel.worker())
        self._panel.show(0.0, _("Starting"))
        self._run.start(
            self.ui.respaceSelector.currentNode(),
            options,
            Reports(self.on_progress, self._panel.message, self._on_finished),
        )

    def _on_finished(self, node: Any, error: USMRIError | None) -> None:
        self.end(str(error) if error is not None else _("Done: {name}").format(name=node.GetName()), error)


def device_for_spacing(device: str) -> str:
    """OpenVINO runs the generators only: slices are spaced on the device that `auto` finds then."""
    return "auto" if device.startswith("openvino") else device
