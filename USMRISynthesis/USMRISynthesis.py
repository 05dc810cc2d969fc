"""Slicer module: MR-like volumes from fetal brain ultrasound. The work is in USMRISynthesisScene."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)


class USMRISynthesis(ScriptedLoadableModule):
    """What Slicer shows in its module list and Help section."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("USMRISynthesis")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Image Synthesis")]
        parent.dependencies = []
        parent.contributors = ["USMRISynthesis contributors (USMRISynthesis)"]
        parent.helpText = _(
            "Turns ultrasound of the fetal head, a 3D volume or a single frame with a known pixel size, into an "
            "MR-like image in the same place: for viewing, and for registration.<br><br>"
            "<b>The images are synthetic and not for diagnosis.</b> The networks learned from averages and from "
            "simulated ultrasound: they may show structures that do not exist, and miss structures that exist.<br><br>"
            "The module needs the PyTorch extension. "
            '<a href="https://github.com/USMRISynthesis/SlicerUSMRISynthesis#readme">Documentation</a>'
        )
        parent.acknowledgementText = _(
            "The method follows Jiao et al., Anatomy-aware self-supervised fetal MRI synthesis from unpaired "
            "ultrasound images (MLMI 2019), and Self-supervised ultrasound to MRI fetal brain image synthesis "
            "(IEEE Transactions on Medical Imaging 2020)."
        )
        slicer.app.connect("startupCompleted()", onStartupCompleted)


def onStartupCompleted() -> None:
    """Prepare to mark synthetic images, and register the samples. Nothing large is imported."""
    from USMRISynthesisScene.setup.startup import activate_on_first_image

    activate_on_first_image()
    registerSampleData()


def registerSampleData() -> None:
    """Offer the sample images in the Sample Data module, where that is available."""
    try:
        from USMRISynthesisScene.files.sample_data import register_sample_data

        register_sample_data()
    except ImportError:
        pass


class USMRISynthesisFileReader:
    """Accepts Kretz files that no installed module can read, in order to explain what can read them."""

    def __init__(self, parent: Any) -> None:
        self.parent = parent

    def description(self) -> str:
        return _("GE Kretz ultrasound (needs SlicerHeart)")

    def fileType(self) -> str:
        return "VolumeFile"  # slicer.util.loadVolume uses readers of this type only

    def extensions(self) -> list[str]:
        from USMRISynthesisScene.files.kretz import EXTENSIONS

        return EXTENSIONS

    def canLoadFile(self, filePath: str) -> bool:
        from USMRISynthesisScene.files.kretz import is_unreadable_kretz

        return is_unreadable_kretz(filePath)

    def load(self, properties: dict[str, Any]) -> bool:
        from USMRISynthesisScene.files.kretz import kretz_advice

        self.parent.userMessages().AddMessage(vtk.vtkCommand.ErrorEvent, kretz_advice(properties["fileName"]))
        return False


class USMRISynthesisWidget(ScriptedLoadableModuleWidget):
    """The module panel: loads the .ui file and leaves the rest to SynthesisPanel.

    Attributes:
        panel: None where it could not be built; then `failureLabel` gives the reason.
    """

    ui: Any = None
    panel: Any = None
    failureLabel: Any = None
    _uiWidget: Any = None

    def setup(self) -> None:
        """Called once, when the user opens the module for the first time."""
        ScriptedLoadableModuleWidget.setup(self)
        try:
            self._build()
        except Exception as error:
            logging.exception("The panel of USMRISynthesis could not be built.")
            self._showFailure(error)

    def _build(self) -> None:
        from USMRISynthesisScene.panel.panel import SynthesisPanel
        from USMRISynthesisScene.setup.startup import activate

        activate()
        self._uiWidget = slicer.util.loadUI(self.resourcePath("UI/USMRISynthesis.ui"))
        self.layout.addWidget(self._uiWidget)
        self._uiWidget.setMRMLScene(slicer.mrmlScene)
        self.ui = slicer.util.childWidgetVariables(self._uiWidget)
        self.logic = USMRISynthesisLogic()
        self.panel = SynthesisPanel(self.ui, self.logic.synthesizer, self.logic.getParameterNode)

    def _showFailure(self, error: Exception) -> None:
        """Show the reason in place of buttons that would not work."""
        if self._uiWidget is not None:
            self._uiWidget.hide()
        self.failureLabel = qt.QLabel(
            _(
                "This panel could not be opened: {reason}\n\nRestart Slicer. If it happens again, install the "
                "extension again; View > Error Log has the details."
            ).format(reason=error)
        )
        self.failureLabel.wordWrap = True
        self.layout.addWidget(self.failureLabel)

    def enter(self) -> None:
        """Called each time the module is opened."""
        if self.panel is not None:
            self.panel.connect_scene()

    def exit(self) -> None:
        """Called each time another module is opened."""
        if self.panel is not None:
            self.panel.leave()

    def cleanup(self) -> None:
        """Called when Slicer exits or the module is reloaded."""
        if self.panel is not None:
            self.panel.close()

    def onReload(self) -> None:
        """Reload the packages as well, not only this file."""
        from USMRISynthesisScene.files.saving import stop_following
        from USMRISynthesisScene.nodes.companions import stop_keeping
        from USMRISynthesisScene.setup.startup import cancel_activation
        from USMRISynthesisScene.views.marking import stop_marking

        cancel_activation()
        stop_marking()
        stop_keeping()
        stop_following()
        for name in [
            name for name in sys.modules if name.split(".")[0] in ("USMRISynthesisScene", "USMRISynthesisLib")
        ]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)


class USMRISynthesisLogic(ScriptedLoadableModuleLogic):
    """Synthesis from Python, without a main window and without dialogs.

    import USMRISynthesis
    mrVolume = USMRISynthesis.USMRISynthesisLogic().synthesize(slicer.util.getNode("Fetal head"))
    """

    def __init__(self) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        from USMRISynthesisScene.runs.synthesis import Synthesizer

        self.synthesizer = Synthesizer()

    def getParameterNode(self) -> Any:
        from USMRISynthesisScene.panel.parameters import parameters_of

        return parameters_of(super().getParameterNode())

    def synthesize(
        self,
        usVolumeNode: slicer.vtkMRMLScalarVolumeNode,
        outputVolumeNode: slicer.vtkMRMLScalarVolumeNode | None = None,
        model: str = "default",
        device: str = "auto",
        planes: str | None = None,
        transform: Any = None,
        progress: Any = None,
        support: bool = False,
        masks: bool = False,
        unreliable: bool = False,
        gestational_age: float | None = None,
        allow_low_confidence: bool = False,
        reliability_map: bool = False,
    ) -> slicer.vtkMRMLScalarVolumeNode:
        """Make an MR-like volume and return its node. Blocks until it is done.

        :param usVolumeNode: greyscale ultrasound of the head, a 3D volume or one frame
        :param outputVolumeNode: volume to write into; by default a new one beside the input
        :param model: name of an installed model, or path of a model folder
        :param device: auto, cpu, cuda or mps
        :param planes: planes of the slices that the network processes: axial; where the model supports them, coronal,
            sagittal or all three combined; by default all, if the model supports it
        :param transform: linear transform node or 4x4 array to canonical fetal space, instead of the automatic one
        :param progress: called as progress(fraction, stage)
        :param reliability_map: also add the reliability map: for every voxel, the estimated probability that the grey
            value is right; for a frame, where the beam reached the head
        :param support: the former name of ``reliability_map``
        :param masks: also add a segmentation of the fan and the head
        :param allow_low_confidence: continue when the head was not found reliably, or no
            brain was seen, which is refused otherwise
        :param unreliable: the former name of ``allow_low_confidence``
        :param gestational_age: weeks (14 to 42) where it is known, a prior for the size of the head
        :raises USMRISynthesisLib.errors.USMRIError: Refused, Failed or Cancelled; the message names the remedy
        """
        from USMRISynthesisScene.runs.run import Reports
        from USMRISynthesisScene.setup.torch_install import require_torch

        require_torch()
        self.synthesizer.start(
            usVolumeNode,
            outputVolumeNode,
            model=model,
            device=device,
            planes=planes,
            transform=transform,
            support=support or reliability_map,
            masks=masks,
            unreliable=unreliable or allow_low_confidence,
            gestational_age=gestational_age,
            reports=Reports(progress=progress) if progress else Reports(),
        )
        return self.synthesizer.wait()

    def respace(
        self,
        mrVolumeNode: slicer.vtkMRMLScalarVolumeNode,
        spacing: float | None = None,
        consistency: bool = False,
        model: str = "spacing",
        device: str = "auto",
        progress: Any = None,
    ) -> slicer.vtkMRMLScalarVolumeNode:
        """Make a volume with thinner slices from an MR volume and return its node. Blocks until it is done.

        :param mrVolumeNode: MR with thick slices: their spacing is 1.5 to 6 times the pixel size
        :param spacing: new slice spacing in mm; by default the pixel size
        :param consistency: project the result, so that averaging it over the thick slices gives the input
        :param model: name of an installed model for slice spacing, or path of a model folder
        :param device: auto, cpu, cuda or mps
        :param progress: called as progress(fraction, stage)
        :raises USMRISynthesisLib.errors.USMRIError: Refused, Failed or Cancelled; the message names the remedy
        """
        from USMRISynthesisScene.runs.respacing import RespaceOptions, RespaceRun
        from USMRISynthesisScene.runs.run import Reports
        from USMRISynthesisScene.setup.torch_install import require_torch

        require_torch()
        run = RespaceRun(self.synthesizer.worker)
        run.start(
            mrVolumeNode,
            RespaceOptions(spacing, consistency, model, device),
            Reports(progress=progress) if progress else Reports(),
        )
        return run.wait()


class USMRISynthesisTest(ScriptedLoadableModuleTest):
    """The test that "Reload and Test" runs."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        self.setUp()
        self.test_clicks_make_a_volume_that_keeps_its_geometry()

    def openedPanel(self) -> USMRISynthesisWidget:
        """The module's panel, opened as the user opens it."""
        if slicer.util.mainWindow() is not None:
            slicer.util.selectModule("USMRISynthesis")
        widget = slicer.util.getModuleWidget("USMRISynthesis")
        self.assertIsNotNone(widget.panel, widget.failureLabel.text if widget.failureLabel is not None else None)
        return widget

    def madeByClicks(
        self, ultrasound: slicer.vtkMRMLScalarVolumeNode, model: str = "default", seconds: float = 1800
    ) -> slicer.vtkMRMLScalarVolumeNode:
        """Choose the ultrasound and the model, press Synthesize MR, wait, and return the MR-like volume."""
        from USMRISynthesisScene.nodes.nodes import result_of
        from USMRISynthesisScene.setup.torch_install import require_torch

        require_torch()  # the button would open a dialog where it is missing
        widget = self.openedPanel()
        widget.ui.inputSelector.setCurrentNode(ultrasound)
        widget.ui.modelComboBox.setCurrentText(model)
        self.assertTrue(widget.ui.runButton.enabled, widget.ui.runButton.toolTip)
        widget.ui.runButton.click()
        end = time.monotonic() + seconds
        while widget.logic.synthesizer.running and time.monotonic() < end:
            slicer.app.processEvents()
            time.sleep(0.01)
        mr = result_of(ultrasound)
        assert mr is not None, widget.ui.statusLabel.text
        return mr

    def test_clicks_make_a_volume_that_keeps_its_geometry(self) -> None:
        from USMRISynthesisScene.files.sample_data import SIMULATED, sample_file

        ultrasound = slicer.util.loadVolume(str(sample_file(SIMULATED)))
        mr = self.madeByClicks(ultrasound)
        self.assertEqual(mr.GetImageData().GetDimensions(), ultrasound.GetImageData().GetDimensions())
        self.assertEqual(mr.GetOrigin(), ultrasound.GetOrigin())
        self.assertEqual(mr.GetSpacing(), ultrasound.GetSpacing())
        self.assertGreater(slicer.util.arrayFromVolume(mr).max(), 0)
        self.delayDisplay("Test passed")
