"""What the user clicks: the widgets of the .ui file on one side, a synthesizer on the other.

Every run ends in one sentence on the status line; everything else that is said goes to the log under Advanced.
Nothing pops up except the questions that need an answer: installing torch, trusting a foreign model.
"""
from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin
from USMRISynthesisLib.errors import Cancelled, USMRIError

from USMRISynthesisScene.nodes import inputs, nodes
from USMRISynthesisScene.nodes.node_observer import Watch
from USMRISynthesisScene.panel.advanced import AdvancedSection
from USMRISynthesisScene.panel.alignment import AlignmentSection
from USMRISynthesisScene.panel.batch import BatchSection
from USMRISynthesisScene.panel.context import Surroundings
from USMRISynthesisScene.panel.display import DisplaySection
from USMRISynthesisScene.panel.export import ExportSection
from USMRISynthesisScene.panel.handoff import HandoffSection
from USMRISynthesisScene.panel.inputs import InputsSection
from USMRISynthesisScene.panel.model_choice import planes_to_run
from USMRISynthesisScene.panel.parameters import age_of, remember_choices
from USMRISynthesisScene.panel.progress import ProgressWords
from USMRISynthesisScene.panel.spacing import SpacingSection
from USMRISynthesisScene.runs.run import Reports
from USMRISynthesisScene.runs.sequence import SequenceRun, frame_count
from USMRISynthesisScene.runs.synthesis import SynthesizerProtocol
from USMRISynthesisScene.setup.packages import ensure_packages
from USMRISynthesisScene.setup.torch_install import TorchState, ensure_torch

log = logging.getLogger(__name__)

_READY = _("Not for diagnosis: the images are synthetic.")
_PYTHON_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING,
                  "error": logging.ERROR}


class SynthesisPanel(VTKObservationMixin):
    """The panel's behaviour, and its choices in the scene's parameter node.

        panel = SynthesisPanel(ui, logic.synthesizer, logic.getParameterNode)
        panel.connect_scene()      # each time the module is opened
        panel.close()
    """

    def __init__(self, ui: Any, synthesizer: SynthesizerProtocol, parameter_node: Callable[[], Any],
                 prepare: Callable[[], None] = ensure_torch) -> None:
        super().__init__()
        self.ui = ui
        self._synthesizer = synthesizer
        self._parameter_node = parameter_node
        self._prepare = prepare
        self._parameters: Any = None
        # Loading fills a node after it has been selected; its spacing can be corrected elsewhere, too.
        self._source = Watch(self.refresh, vtk.vtkCommand.ModifiedEvent,
                             slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent)
        self._choices = Watch(self.refresh, vtk.vtkCommand.ModifiedEvent)
        self._closed = self._looking_later = False
        self._gui_tag: int | None = None
        self._last_output_id = ""
        self._warnings: list[str] = []
        self._words = ProgressWords()
        ui.runButton.connect("clicked(bool)", self.on_run_button)
        self.inputs = InputsSection(ui, lambda: self._parameters, self._say)
        self.alignment = AlignmentSection(ui, lambda: self._parameters, self._comparable, self._say)
        self.display = DisplaySection(ui, self._comparable, self._say)
        self.handoff = HandoffSection(ui, self._comparable, self._say)
        self.export = ExportSection(ui, self._comparable, self._say, ensure_packages)
        self.advanced = AdvancedSection(ui, lambda: self._parameters, self._comparable)
        surroundings = Surroundings(lambda: self._parameters, lambda: self._synthesizer.worker, prepare,
                                    self._show_run, self._on_message, self._ask_for_trust, self.refresh)
        self.batch, self.spacing = BatchSection(ui, surroundings), SpacingSection(ui, surroundings)
        ui.inputSelector.connect("nodeActivated(vtkMRMLNode*)", self._on_input_chosen)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self._on_scene_start_close)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self._on_scene_ready)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.NodeAddedEvent, self._on_node_added)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.NodeAboutToBeRemovedEvent, self._on_node_about_to_go)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.NodeRemovedEvent, self._on_node_removed)
        # While a scene is loaded, the selectors would write what they see into its parameter node.
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartImportEvent, self._on_scene_start_import)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self._on_scene_end_import)
        torch = self.advanced.look_for_torch()
        try:
            self.connect_scene()
        except Exception:
            self.removeObservers()      # nobody would close a panel that was never there
            raise
        model = self.advanced.look_at_model()
        hindrances = [text for text, hinders in ((ui.torchLabel.text, torch is not TorchState.READY),
                                                 (model.words, not model.usable)) if hinders]
        self._show_idle("\n".join([_READY, *hindrances]))

    def connect_scene(self) -> None:
        """Use the scene's parameter node; choose the likely ultrasound unless the user has chosen, to save a click."""
        parameters = self._parameter_node()
        if not (parameters.inputVolume and parameters.inputConfirmed):
            parameters.inputVolume = inputs.likely_ultrasound(slicer.mrmlScene, parameters.inputVolume)
        self._set_parameters(parameters)

    def _set_parameters(self, parameters: Any) -> None:
        if self._parameters is not None:
            self._parameters.disconnectGui(self._gui_tag)
        self._parameters = parameters
        self._choices.follow(parameters)
        if parameters is not None:
            self._gui_tag = parameters.connectGui(self.ui)
            self.ui.modelComboBox.setCurrentText(parameters.model)
        self.refresh()

    def _on_scene_start_close(self, caller: Any, event: Any) -> None:
        """What runs belongs to the scene that goes away, and so does what was said of it."""
        busy = self._synthesizer.running or self.spacing.running or self.batch.running
        self._synthesizer.cancel()
        self.spacing.close()
        self._last_output_id = ""       # the next scene gives the same names to other nodes
        self._set_parameters(None)
        if not busy:
            self._say(_READY)

    def _on_scene_start_import(self, caller: Any, event: Any) -> None:
        self._set_parameters(None)

    def _on_scene_ready(self, caller: Any, event: Any) -> None:
        self.connect_scene()

    def _on_scene_end_import(self, caller: Any, event: Any) -> None:
        # The selectors learn of the new nodes a moment later than this event.
        qt.QTimer.singleShot(0, lambda: None if self._closed else self.connect_scene())

    def _on_node_added(self, caller: Any, event: Any) -> None:
        """Where no ultrasound is selected, it may be one. Its voxels come later than this event."""
        if self._parameters is not None and self._parameters.inputVolume is None:
            self._refresh_later()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _on_node_about_to_go(self, caller: Any, event: Any, node: Any) -> None:
        """Left alone, a selector takes the node beside the one that goes: the MR-like volume as the ultrasound.

        This comes first: the selectors observe the event with a lower priority.
        """
        parameters = self._parameters
        if parameters is None or slicer.mrmlScene.IsClosing():
            return
        for selector in (self.ui.outputSelector, self.ui.alignmentSelector, self.ui.fixedSelector,
                         self.ui.respaceSelector):
            if selector.currentNode() is node:
                selector.setCurrentNode(None)
        if parameters.inputVolume is node:
            parameters.inputConfirmed = False
            parameters.inputVolume = inputs.likely_ultrasound(slicer.mrmlScene, without=node)

    def _on_node_removed(self, caller: Any, event: Any) -> None:
        """It may have been the result at hand. Looked at later: now others may refer to the node that goes."""
        if not slicer.mrmlScene.IsBatchProcessing():
            self._refresh_later()

    def _refresh_later(self) -> None:
        if not self._looking_later:
            self._looking_later = True
            qt.QTimer.singleShot(0, self._look_again)

    def _look_again(self) -> None:
        self._looking_later = False
        if self._closed:
            return
        if self._parameters is not None and self._parameters.inputVolume is None:
            self._parameters.inputVolume = inputs.likely_ultrasound(slicer.mrmlScene)
        self.refresh()

    def _on_input_chosen(self, node: Any) -> None:
        if self._parameters is not None and node is not None:
            self._parameters.inputConfirmed = True

    def refresh(self, caller: Any = None, event: Any = None) -> None:
        """What can be clicked now."""
        source = self._parameters.inputVolume if self._parameters else None
        self._source.follow(source)
        running, batch, respacing = self._synthesizer.running, self.batch.running, self.spacing.running
        self.ui.runButton.enabled = running or (source is not None and not batch and not respacing)
        if running:
            self.ui.runButton.toolTip = _("Stop the synthesis; the scene stays as it is")
        elif batch:
            self.ui.runButton.toolTip = _("Wait for the batch, or cancel it")
        elif respacing:
            self.ui.runButton.toolTip = _("Wait until the slice spacing is reduced, or cancel that")
        elif source is not None:
            self.ui.runButton.toolTip = _("Make an MR-like volume from the ultrasound volume")
        else:
            self.ui.runButton.toolTip = _("Select an ultrasound volume first")
        self.inputs.refresh(running)
        self.alignment.refresh(running)
        self.display.refresh()
        self.handoff.refresh()
        self.export.refresh()
        self.batch.refresh(running or respacing)
        self.spacing.refresh(running or batch)
        self.advanced.refresh(running)

    def on_run_button(self, checked: bool = False) -> None:
        """Start, or cancel what runs."""
        if self._synthesizer.running:
            self._synthesizer.cancel()
        else:
            self.run()

    def run(self, trust: bool = False) -> None:
        """Start a run with the choices of the parameter node."""
        parameters = self._parameters
        if parameters is None:
            return
        self.ui.logTextBox.clear()
        self._warnings = []
        try:
            self._prepare()
        except USMRIError as error:
            self._on_message("error", str(error))
            self._show_idle(str(error))
            return
        finally:
            self.advanced.look_for_torch()
        self.advanced.look_at_model()
        parameters.inputConfirmed = True
        remember_choices(parameters)
        self._words = ProgressWords()
        self.ui.runButton.text = _("Cancel")
        self.ui.progressBar.visible = True
        self._on_progress(0.0, _("Starting"))
        self._set_choices_enabled(False)
        options = {"model": parameters.model, "device": parameters.device, "planes": planes_to_run(parameters),
                   "transform": parameters.alignment, "trust": trust, "support": parameters.makeSupport,
                   "masks": parameters.makeMasks, "unreliable": parameters.goOnUnreliable,
                   "gestational_age": age_of(parameters),
                   "reports": Reports(self._on_progress, self._on_message, self._on_finished)}
        if parameters.allFrames and frame_count(parameters.inputVolume) > 1:
            SequenceRun(self._synthesizer).start(parameters.inputVolume, **options)
        else:
            self._synthesizer.start(parameters.inputVolume, parameters.outputVolume, **options)
        self.refresh()

    def leave(self) -> None:
        """Another module is opened. What runs goes on; a mouse that places landmarks is given back."""
        self.alignment.stop_placing()

    def close(self) -> None:
        """The panel goes away: nothing may go on in the background."""
        self._closed = True
        self._set_parameters(None)
        self.removeObservers()
        self.alignment.close()
        self.display.close()
        self.batch.close()
        self.spacing.close()
        self._synthesizer.close()

    def _comparable(self) -> Any:
        """A result of the chosen ultrasound, never that of another patient: the chosen one, else the last."""
        source = self._parameters.inputVolume if self._parameters is not None else None
        if source is None:
            return None
        for node in (self._parameters.outputVolume, slicer.mrmlScene.GetNodeByID(self._last_output_id)):
            if nodes.source_of(node) is source:
                return node
        return nodes.result_of(source)

    def _on_progress(self, value: float, stage: str) -> None:
        self.ui.statusLabel.text = self._words.say(value, stage)
        self.ui.progressBar.value = round(100 * value)

    def _on_message(self, level: str, text: str) -> None:
        log.log(_PYTHON_LEVELS.get(level, logging.INFO), text)
        if level == "warning":
            self._warnings.append(text)
        self.ui.logTextBox.appendPlainText(text if level == "info" else f"{level}: {text}")

    def _on_finished(self, node: Any, error: USMRIError | None) -> None:
        if error is None:
            self._last_output_id = node.GetID()
            if self._parameters is not None and self._parameters.outputVolume not in (None, node):
                self._parameters.outputVolume = None     # a sequence is never written into the volume that was chosen
            self.display.on_window(self.ui.windowComboBox.currentIndex)      # the one that is chosen still holds
            done = _("Done: {name}").format(name=node.GetName())
            self._show_idle("\n".join([done, *self._warnings]))   # a doubtful result must not look like a good one
            if self._parameters is not None and self._parameters.showComparison:
                self.display.on_compare()
            self.refresh()
            self.alignment.on_result()
            return
        self._show_idle(self.alignment.answer(error) or str(error))
        if error.kind == "consent":
            self._ask_for_trust(error, lambda: self.run(trust=True))
        elif not isinstance(error, Cancelled) and error.kind != "unreliable":
            self.ui.advancedCollapsibleButton.collapsed = False   # where the details are

    def _ask_for_trust(self, error: USMRIError, then: Callable[[], None]) -> None:
        def ask() -> None:      # unless the user has gone on meanwhile
            if self._closed or self._synthesizer.running or self.batch.running or self.spacing.running:
                return
            if error.message not in self.advanced.declined:
                if slicer.util.confirmOkCancelDisplay(f"{error}\n\n" + _("Run it?"), _("Model from outside")):
                    then()
                    return
                self.advanced.declined.add(error.message)
            self._say(" ".join([error.message, _("You chose not to run it. Choose another model under Advanced, or "
                                                 "this one again to be asked again.")]))

        # Not from within the worker's signal: a dialog there would hold up what it still has to say.
        qt.QTimer.singleShot(0, ask)

    def _show_run(self, value: float | None, text: str) -> None:
        """Progress of what is no synthesis, or its end (None)."""
        self.ui.statusLabel.text = text
        self.ui.progressBar.visible = value is not None
        self.ui.progressBar.value = round(100 * (value or 0.0))

    def _say(self, text: str) -> None:
        self.ui.statusLabel.text = text

    def _show_idle(self, text: str) -> None:
        self.ui.runButton.text = _("Synthesize MR")
        self.ui.progressBar.visible = False
        self.ui.statusLabel.text = text
        self._set_choices_enabled(True)
        self.refresh()

    def _set_choices_enabled(self, enabled: bool) -> None:
        """Choices cannot be changed under a running job; the log can be opened and read."""
        for widget in (self.ui.inputSelector, self.ui.outputSelector, self.ui.deviceComboBox, self.ui.alignmentSelector,
                       self.ui.makeSupportCheckBox, self.ui.makeMasksCheckBox,
                       self.ui.unreliableCheckBox, self.ui.ageSpinBox):
            widget.enabled = enabled
