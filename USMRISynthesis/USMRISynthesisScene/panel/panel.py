"""The module panel: connects the widgets of the .ui file to a synthesizer.

Every run ends with one sentence in the status line; details go to the log under Advanced. Dialogs open only for
consent: to install PyTorch or packages, and to run a foreign model.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from USMRISynthesisLib.errors import Cancelled, USMRIError

from USMRISynthesisScene.nodes import nodes
from USMRISynthesisScene.nodes.node_observer import NodeObserver
from USMRISynthesisScene.panel.advanced import AdvancedSection
from USMRISynthesisScene.panel.alignment import CONTENT, AlignmentSection
from USMRISynthesisScene.panel.batch import BatchSection
from USMRISynthesisScene.panel.context import PanelContext
from USMRISynthesisScene.panel.display import DisplaySection
from USMRISynthesisScene.panel.export import ExportSection
from USMRISynthesisScene.panel.inputs import InputsSection
from USMRISynthesisScene.panel.live import LiveSection
from USMRISynthesisScene.panel.model_choice import planes_to_run
from USMRISynthesisScene.panel.parameters import age_of, remember_choices
from USMRISynthesisScene.panel.progress import ProgressText
from USMRISynthesisScene.panel.registration import RegistrationSection
from USMRISynthesisScene.panel.scene_connection import SceneConnection
from USMRISynthesisScene.panel.spacing import SpacingSection
from USMRISynthesisScene.runs.run import Reports
from USMRISynthesisScene.runs.sequence import SequenceRun, frame_count
from USMRISynthesisScene.runs.synthesis import SynthesizerProtocol
from USMRISynthesisScene.setup.openvino_install import ensure_openvino
from USMRISynthesisScene.setup.packages import ensure_packages
from USMRISynthesisScene.setup.torch_install import TorchState, ensure_torch

log = logging.getLogger(__name__)

_READY = _("Not for diagnosis: the images are synthetic.")
_PYTHON_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class SynthesisPanel:
    """The panel's behaviour, and its choices in the scene's parameter node.

    panel = SynthesisPanel(ui, logic.synthesizer, logic.getParameterNode)
    panel.connect_scene()      # each time the module is opened
    panel.close()
    """

    def __init__(
        self,
        ui: Any,
        synthesizer: SynthesizerProtocol,
        parameter_node: Callable[[], Any],
        prepare: Callable[[], None] = ensure_torch,
    ) -> None:
        self.ui = ui
        self._synthesizer = synthesizer
        self._prepare = prepare
        self._scene = SceneConnection(ui, parameter_node, self.refresh, self._on_scene_closing)
        # A volume is filled after it has been selected, and other modules can change its spacing.
        self._source = NodeObserver(
            self.refresh, vtk.vtkCommand.ModifiedEvent, slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent
        )
        self._last_output_id = ""
        self._warnings: list[str] = []
        self._progress = ProgressText()
        ui.runButton.connect("clicked(bool)", self.on_run_button)
        self.inputs = InputsSection(ui, lambda: self._parameters, self._set_status)
        self.alignment = AlignmentSection(ui, lambda: self._parameters, self._comparable, self._set_status)
        self.display = DisplaySection(ui, self._comparable, self._set_status)
        self.registration = RegistrationSection(ui, self._comparable, self._set_status)
        self.export = ExportSection(ui, self._comparable, self._set_status, ensure_packages)
        self.advanced = AdvancedSection(ui, lambda: self._parameters, self._comparable)
        context = PanelContext(
            lambda: self._parameters,
            lambda: self._synthesizer.worker,
            prepare,
            self._show_run,
            self._on_message,
            self._request_consent,
            self.refresh,
        )
        self.batch, self.spacing = BatchSection(ui, context), SpacingSection(ui, context)
        self.live = LiveSection(ui, context)
        torch = self.advanced.check_torch()
        try:
            self.connect_scene()
        except Exception:
            self._scene.removeObservers()  # a panel that was not built is never closed
            raise
        model = self.advanced.read_model()
        problems = [
            text
            for text, is_problem in (
                (ui.torchLabel.text, torch is not TorchState.READY),
                (model.description, not model.usable),
            )
            if is_problem
        ]
        self._show_idle("\n".join([_READY, *problems]))

    @property
    def _parameters(self) -> Any:
        """The scene's parameters; None while a scene is closed or loaded."""
        return self._scene.parameters

    def connect_scene(self) -> None:
        """Use the scene's parameters and, where the user has not chosen one, the most likely ultrasound."""
        self._scene.connect()

    def _on_scene_closing(self) -> None:
        """Cancel runs on the scene that is closed, and clear the status about it."""
        busy = self._synthesizer.running or self.spacing.running or self.batch.running
        self._synthesizer.cancel()
        self.spacing.close()
        self.live.close()
        self._last_output_id = ""  # the next scene uses the same ids for other nodes
        if not busy:
            self._set_status(_READY)

    def refresh(self, caller: Any = None, event: Any = None) -> None:
        """Enable what can be used now."""
        source = self._parameters.inputVolume if self._parameters else None
        self._source.observe(source)
        running, batch, respacing = self._synthesizer.running, self.batch.running, self.spacing.running
        self.ui.runButton.enabled = running or (source is not None and not batch and not respacing)
        if running:
            self.ui.runButton.toolTip = _("Stop the synthesis; the scene stays as it is.")
        elif batch:
            self.ui.runButton.toolTip = _("Wait for the batch, or cancel it.")
        elif respacing:
            self.ui.runButton.toolTip = _("Wait until the slice spacing is reduced, or cancel that.")
        elif source is not None:
            self.ui.runButton.toolTip = _("Make an MR-like volume from the ultrasound.")
        else:
            self.ui.runButton.toolTip = _("Select an ultrasound volume first.")
        self.inputs.refresh(running)
        self.alignment.refresh(running)
        self.display.refresh()
        self.registration.refresh()
        self.export.refresh()
        self.batch.refresh(running or respacing)
        self.spacing.refresh(running or batch)
        self.advanced.refresh(running)

    def on_run_button(self, checked: bool = False) -> None:
        """Start a run, or cancel the current one."""
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
            ensure_openvino(parameters.device)
        except USMRIError as error:
            self._on_message("error", str(error))
            self._show_idle(str(error))
            return
        finally:
            self.advanced.check_torch()
        self.advanced.read_model()
        parameters.inputConfirmed = True
        remember_choices(parameters)
        self._progress = ProgressText()
        self.ui.runButton.text = _("Cancel")
        self.ui.progressBar.visible = True
        self._on_progress(0.0, _("Starting"))
        self._set_choices_enabled(False)
        options = {
            "model": parameters.model,
            "device": parameters.device,
            "planes": planes_to_run(parameters),
            "transform": parameters.alignment,
            "trust": trust,
            "support": parameters.makeSupport,
            "masks": parameters.makeMasks,
            "unreliable": parameters.goOnUnreliable,
            "gestational_age": age_of(parameters),
            "reports": Reports(self._on_progress, self._on_message, self._on_finished),
        }
        if parameters.allFrames and frame_count(parameters.inputVolume) > 1:
            SequenceRun(self._synthesizer).start(parameters.inputVolume, **options)
        else:
            self._synthesizer.start(parameters.inputVolume, parameters.outputVolume, **options)
        self.refresh()

    def leave(self) -> None:
        """Another module is opened: runs continue, but placing landmarks and the live view end."""
        self.alignment.stop_placing()
        self.live.close()

    def close(self) -> None:
        """The panel is removed: cancel everything that runs."""
        self._scene.close()
        self.alignment.close()
        self.display.close()
        self.batch.close()
        self.spacing.close()
        self.live.close()
        self._synthesizer.close()

    def _comparable(self) -> Any:
        """A result of the chosen ultrasound, never of another: the chosen output, else the newest result."""
        source = self._parameters.inputVolume if self._parameters is not None else None
        if source is None:
            return None
        for node in (self._parameters.outputVolume, slicer.mrmlScene.GetNodeByID(self._last_output_id)):
            if nodes.source_of(node) is source:
                return node
        return nodes.result_of(source)

    def _on_progress(self, value: float, stage: str) -> None:
        self.ui.statusLabel.text = self._progress.line(value, stage)
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
                self._parameters.outputVolume = None  # a sequence never goes into the chosen volume
            self.display.on_window(self.ui.windowComboBox.currentIndex)  # apply the chosen window
            done = _("Done: {name}").format(name=node.GetName())
            # The warnings stay visible, so that an unreliable result is not taken for a reliable one.
            self._show_idle("\n".join([done, *self._warnings]))
            if self._parameters is not None and self._parameters.showComparison:
                self.display.on_compare()
            self.refresh()
            self.alignment.on_result()
            return
        self._show_idle(self.alignment.explain(error) or str(error))
        if error.kind == "consent":
            self._request_consent(error, lambda: self.run(trust=True))
        elif not isinstance(error, Cancelled) and error.kind not in ("unreliable", *CONTENT):
            self.ui.advancedCollapsibleButton.collapsed = False  # shows the details

    def _request_consent(self, error: USMRIError, then: Callable[[], None]) -> None:
        def ask() -> None:
            # Not where the user has started something else meanwhile.
            if self._scene.closed or self._synthesizer.running or self.batch.running or self.spacing.running:
                return
            if error.message not in self.advanced.declined:
                if slicer.util.confirmOkCancelDisplay(f"{error}\n\n" + _("Run it?"), _("Model from outside")):
                    then()
                    return
                self.advanced.declined.add(error.message)
            self._set_status(
                " ".join(
                    [
                        error.message,
                        _(
                            "You chose not to run it. Choose another model under Advanced, "
                            "or choose this one again to confirm it."
                        ),
                    ]
                )
            )

        # Not within the worker's signal: a dialog there would block its further messages.
        qt.QTimer.singleShot(0, ask)

    def _show_run(self, value: float | None, text: str) -> None:
        """Show the progress of a batch or of slice spacing; value None: it has ended."""
        self.ui.statusLabel.text = text
        self.ui.progressBar.visible = value is not None
        self.ui.progressBar.value = round(100 * (value or 0.0))

    def _set_status(self, text: str) -> None:
        self.ui.statusLabel.text = text

    def _show_idle(self, text: str) -> None:
        self.ui.runButton.text = _("Synthesize MR")
        self.ui.progressBar.visible = False
        self.ui.statusLabel.text = text
        self._set_choices_enabled(True)
        self.refresh()

    def _set_choices_enabled(self, enabled: bool) -> None:
        """Choices cannot be changed during a run; the log can still be read."""
        for widget in (
            self.ui.inputSelector,
            self.ui.outputSelector,
            self.ui.deviceComboBox,
            self.ui.alignmentSelector,
            self.ui.makeReliabilityCheckBox,
            self.ui.makeMasksCheckBox,
            self.ui.unreliableCheckBox,
            self.ui.ageSpinBox,
        ):
            widget.enabled = enabled
