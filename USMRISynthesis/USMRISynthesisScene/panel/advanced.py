"""The Advanced section: model and planes, the state of PyTorch, and the device of the last run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
from slicer.i18n import tr as _

from USMRISynthesisScene.files.export import provenance_of
from USMRISynthesisScene.nodes.nodes import is_frame
from USMRISynthesisScene.panel import model_choice
from USMRISynthesisScene.panel.model_choice import PLANE_NAMES, ModelChoice
from USMRISynthesisScene.panel.slots import allow
from USMRISynthesisScene.setup.offline import offline_hint
from USMRISynthesisScene.setup.torch_install import TorchState, explanation, torch_state, torch_version


class AdvancedSection:
    """Choices that most users never need, and information for finding out why a run did not go as expected.

    Args:
        parameters: the scene's parameters, or None while there are none.
        result: the current MR-like volume, or None.
    """

    def __init__(self, ui: Any, parameters: Callable[[], Any], result: Callable[[], Any]) -> None:
        self.ui = ui
        self._parameters, self._result = parameters, result
        self._read: tuple[str, ModelChoice] | None = None  # so that a refresh does not read the manifest again
        self.declined: set[str] = set()  # consent messages that the user declined
        ui.modelComboBox.addItems(model_choice.installed())
        ui.modelComboBox.connect("currentTextChanged(QString)", self.on_model)
        ui.modelComboBox.connect("activated(int)", self.on_model_chosen)
        ui.modelFolderButton.connect("clicked(bool)", self.on_model_folder)
        ui.planesComboBox.connect("activated(int)", self.on_planes)
        ui.offlineButton.connect("clicked(bool)", self.on_offline)

    def check_torch(self) -> TorchState:
        """Show whether PyTorch is ready, and return its state."""
        state = torch_state()
        self.ui.torchLabel.text = (
            _("PyTorch {version} is installed.").format(version=torch_version())
            if state is TorchState.READY
            else str(explanation(state))
        )
        allow(
            [self.ui.offlineButton],
            state is not TorchState.READY,
            _("PyTorch is installed: nothing has to be copied to this computer."),
        )
        return state

    def read_model(self) -> ModelChoice:
        """Read the chosen model's manifest again: its folder may have changed."""
        self._read = None
        self._show_model()
        return self._model()

    def refresh(self, running: bool) -> None:
        self.ui.deviceReasonLabel.text = device_text(self._result())
        for widget in (self.ui.modelComboBox, self.ui.modelFolderButton):
            widget.enabled = not running
        self._show_model()
        self._show_planes(running)

    def on_model(self, text: str) -> None:
        parameters = self._parameters()
        if parameters is not None and text.strip():
            if parameters.model != text.strip():
                self.declined.clear()
            parameters.model = text.strip()

    def on_model_chosen(self, index: int) -> None:
        """The user chose a model, perhaps the same one: a declined model may be confirmed now."""
        self.declined.clear()

    def on_model_folder(self, checked: bool = False) -> None:
        folder = qt.QFileDialog.getExistingDirectory(self.ui.modelFolderButton, _("Folder of a model"))
        if folder:
            self.declined.clear()
            self.ui.modelComboBox.setCurrentText(folder)

    def on_planes(self, index: int) -> None:
        parameters = self._parameters()
        if parameters is not None:
            parameters.planes = self._model().planes[index]

    def on_offline(self, checked: bool = False) -> None:
        self.ui.logTextBox.appendPlainText(offline_hint())

    def _model(self) -> ModelChoice:
        parameters = self._parameters()
        name = parameters.model if parameters is not None else self.ui.modelComboBox.currentText
        if self._read is None or self._read[0] != name:
            self._read = name, model_choice.describe_model(name)
        return self._read[1]

    def _show_model(self) -> None:
        parameters, text = self._parameters(), self.ui.modelComboBox.currentText.strip()
        if parameters is not None and text and text != parameters.model:  # the user is typing where it is empty
            self.ui.modelComboBox.setCurrentText(parameters.model)
        self.ui.modelLabel.text = self._model().description

    def _show_planes(self, running: bool) -> None:
        """Offer what the model supports; a choice made for another model is kept."""
        parameters, box, offered = self._parameters(), self.ui.planesComboBox, self._model().planes
        if [box.itemText(index) for index in range(box.count)] != [PLANE_NAMES[one] for one in offered]:
            box.clear()
            box.addItems([PLANE_NAMES[one] for one in offered])
        wanted = parameters.planes if parameters is not None else offered[0]
        frame = parameters is not None and is_frame(parameters.inputVolume)
        box.currentIndex = offered.index(wanted) if wanted in offered and not frame else 0
        box.enabled = len(offered) > 1 and not frame and not running
        if len(offered) == 1:
            box.toolTip = _("This model supports one plane only.")
        elif frame:
            box.toolTip = _("A frame is a single slice: there is no plane to choose.")
        else:
            box.toolTip = _(
                "Plane of the slices that the network processes. One plane takes a third of the time of all three "
                "combined, and looks torn into stripes in the other views. That the planes agree does not mean that "
                "the image is right."
            )


def device_text(output: Any) -> str:
    """Where a result was computed, and why that device was used."""
    provenance = provenance_of(output) if output is not None else {}
    device = provenance.get("device", {})
    if not device.get("name"):
        return _("After a run, the device that was used and the reason are shown here.")
    return " ".join(
        [
            _("Last run on {name}.").format(name=device["name"]),
            device.get("reason", ""),
            provenance.get("precision", {}).get("reason", ""),
        ]
    ).strip()
