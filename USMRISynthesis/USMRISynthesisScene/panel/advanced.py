"""The Advanced section: model and planes, what PyTorch there is, where the networks ran and why."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
from slicer.i18n import tr as _

from USMRISynthesisScene.files.export import provenance_of
from USMRISynthesisScene.nodes.nodes import is_frame
from USMRISynthesisScene.panel import model_choice
from USMRISynthesisScene.panel.model_choice import PLANE_WORDS, ModelChoice
from USMRISynthesisScene.panel.slots import allow
from USMRISynthesisScene.setup.offline import offline_hint
from USMRISynthesisScene.setup.torch_install import TorchState, explanation, torch_state, torch_version


class AdvancedSection:
    """What most users never need to choose, and what they want to know when something is not as they expect.

    Args:
        parameters: the scene's parameters, or None while there are none.
        result: the MR-like volume at hand, or None.
    """

    def __init__(self, ui: Any, parameters: Callable[[], Any], result: Callable[[], Any]) -> None:
        self.ui = ui
        self._parameters, self._result = parameters, result
        self._seen: tuple[str, ModelChoice] | None = None    # a manifest is not read again at every refresh
        self.declined: set[str] = set()     # questions whether a model may run that were answered with no
        ui.modelComboBox.addItems(model_choice.installed())
        ui.modelComboBox.connect("currentTextChanged(QString)", self.on_model)
        ui.modelComboBox.connect("activated(int)", self.on_model_chosen)
        ui.modelFolderButton.connect("clicked(bool)", self.on_model_folder)
        ui.planesComboBox.connect("activated(int)", self.on_planes)
        ui.offlineButton.connect("clicked(bool)", self.on_offline)

    def look_for_torch(self) -> TorchState:
        """Say on its line what there is of PyTorch."""
        state = torch_state()
        self.ui.torchLabel.text = (_("PyTorch {version} is installed.").format(version=torch_version())
                                   if state is TorchState.READY else str(explanation(state)))
        allow([self.ui.offlineButton], state is not TorchState.READY, _("PyTorch is there: nothing has to be brought."))
        return state

    def look_at_model(self) -> ModelChoice:
        """Read the chosen model's manifest again: its folder may have changed."""
        self._seen = None
        self._show_model()
        return self._model()

    def refresh(self, running: bool) -> None:
        self.ui.deviceReasonLabel.text = device_in_words(self._result())
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
        """By the user, and be it the same one: whoever declined it may think again."""
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
        if self._seen is None or self._seen[0] != name:
            self._seen = name, model_choice.look_at(name)
        return self._seen[1]

    def _show_model(self) -> None:
        parameters, text = self._parameters(), self.ui.modelComboBox.currentText.strip()
        if parameters is not None and text and text != parameters.model:    # an empty one is being typed into
            self.ui.modelComboBox.setCurrentText(parameters.model)
        self.ui.modelLabel.text = self._model().words

    def _show_planes(self, running: bool) -> None:
        """Only what the model knows; what was chosen for another model is kept for it."""
        parameters, box, offered = self._parameters(), self.ui.planesComboBox, self._model().planes
        if [box.itemText(index) for index in range(box.count)] != [PLANE_WORDS[one] for one in offered]:
            box.clear()
            box.addItems([PLANE_WORDS[one] for one in offered])
        wanted = parameters.planes if parameters is not None else offered[0]
        frame = parameters is not None and is_frame(parameters.inputVolume)
        box.currentIndex = offered.index(wanted) if wanted in offered and not frame else 0
        box.enabled = len(offered) > 1 and not frame and not running
        if len(offered) == 1:
            box.toolTip = _("This model knows one kind of slices only.")
        elif frame:
            box.toolTip = _("A frame is one slice: there is nothing to choose.")
        else:
            box.toolTip = _("Along which slices of the head the network goes. All three take three times as long and "
                            "are smoother; that they agree does not make them right.")


def device_in_words(output: Any) -> str:
    """Where a result was computed and why there."""
    provenance = provenance_of(output) if output is not None else {}
    device = provenance.get("device", {})
    if not device.get("name"):
        return _("Which device was used, and why, is told here after a run.")
    return " ".join([_("Last run on {name}.").format(name=device["name"]), device.get("reason", ""),
                     provenance.get("precision", {}).get("reason", "")]).strip()
