"""Slicer module: MR-like volumes from fetal brain ultrasound. The work is in USMRISynthesisScene."""
from __future__ import annotations

import sys
from typing import Any

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
        parent.title = _("US to MRI Synthesis")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Image Synthesis")]
        parent.dependencies = []
        parent.contributors = ["USMRISynthesis contributors"]
        parent.helpText = _(
            "Turns ultrasound of the fetal head, a 3D volume or a single frame with a known pixel size, into an "
            "MR-like image in the same place: for looking at, and for registration.<br><br>"
            "<b>The images are synthetic and not for diagnosis.</b> The networks learned from averages and from "
            "simulated ultrasound: what they show need not be there, and what is there need not show.<br><br>"
            "The module needs the PyTorch extension.")
        parent.acknowledgementText = _(
            "The method follows Jiao et al., Anatomy-aware self-supervised fetal MRI synthesis from unpaired "
            "ultrasound images (MLMI 2019), and Self-supervised ultrasound to MRI fetal brain image synthesis "
            "(IEEE Transactions on Medical Imaging 2020).")
        slicer.app.connect("startupCompleted()", onStartupCompleted)


def onStartupCompleted() -> None:
    """Mark synthetic images wherever they are shown, saved and exported, also those from elsewhere; offer samples."""
    from USMRISynthesisScene.dicom_plugin import register_dicom_plugin
    from USMRISynthesisScene.marking import keep_marked
    from USMRISynthesisScene.saving import follow_saves

    keep_marked()
    follow_saves()
    register_dicom_plugin()
    registerSampleData()


def registerSampleData() -> None:
    """Offer the sample images in the Sample Data module, which may be switched off."""
    try:
        from USMRISynthesisScene.sample_data import register_sample_data

        register_sample_data()
    except ImportError:
        pass


class USMRISynthesisFileReader:
    """Claims the Kretz files that nothing else here can read, in order to say what reads them."""

    def __init__(self, parent: Any) -> None:
        self.parent = parent

    def description(self) -> str:
        return _("GE Kretz ultrasound (needs SlicerHeart)")

    def fileType(self) -> str:
        return "USMRISynthesisKretz"

    def extensions(self) -> list[str]:
        from USMRISynthesisScene.kretz import EXTENSIONS

        return EXTENSIONS

    def canLoadFile(self, filePath: str) -> bool:
        from USMRISynthesisScene.kretz import is_unreadable_kretz

        return is_unreadable_kretz(filePath)

    def load(self, properties: dict[str, Any]) -> bool:
        from USMRISynthesisScene.kretz import kretz_advice

        self.parent.userMessages().AddMessage(vtk.vtkCommand.ErrorEvent, kretz_advice(properties["fileName"]))
        return False


class USMRISynthesisWidget(ScriptedLoadableModuleWidget):
    """The module panel: loads the .ui file and leaves the rest to SynthesisPanel."""

    def setup(self) -> None:
        """Called once, when the user opens the module for the first time."""
        from USMRISynthesisScene.marking import keep_marked
        from USMRISynthesisScene.panel import SynthesisPanel
        from USMRISynthesisScene.saving import follow_saves

        keep_marked()
        follow_saves()
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/USMRISynthesis.ui"))
        self.layout.addWidget(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        self.logic = USMRISynthesisLogic()
        self.panel = SynthesisPanel(self.ui, self.logic.synthesizer, self.logic.getParameterNode)

    def enter(self) -> None:
        """Called each time the module is opened."""
        self.panel.connect_scene()

    def cleanup(self) -> None:
        """Called when Slicer exits or the module is reloaded."""
        self.panel.close()

    def onReload(self) -> None:
        """Reload the packages as well, not only this file."""
        from USMRISynthesisScene.marking import stop_marking
        from USMRISynthesisScene.saving import stop_following

        stop_marking()
        stop_following()
        for name in [name for name in sys.modules if name.split(".")[0] in (
                "USMRISynthesisScene", "USMRISynthesisLib")]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)


class USMRISynthesisLogic(ScriptedLoadableModuleLogic):
    """Synthesis from Python, with no window and no questions.

        import USMRISynthesis
        mrVolume = USMRISynthesis.USMRISynthesisLogic().synthesize(slicer.util.getNode("Fetal head"))
    """

    def __init__(self) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        from USMRISynthesisScene.synthesis import Synthesizer

        self.synthesizer = Synthesizer()

    def getParameterNode(self) -> Any:
        from USMRISynthesisScene.parameters import parameters_of

        return parameters_of(super().getParameterNode())

    def synthesize(self, usVolumeNode: slicer.vtkMRMLScalarVolumeNode,
                   outputVolumeNode: slicer.vtkMRMLScalarVolumeNode | None = None, model: str = "default",
                   device: str = "auto", planes: str = "axial", transform: Any = None,
                   progress: Any = None, support: bool = False, masks: bool = False,
                   unreliable: bool = False, gestational_age: float | None = None,
                   allow_low_confidence: bool = False) -> slicer.vtkMRMLScalarVolumeNode:
        """Make an MR-like volume and return its node. Blocks until it is done.

        :param usVolumeNode: greyscale ultrasound of the head, a 3D volume or one frame
        :param outputVolumeNode: volume to write into; by default a new one beside the input
        :param model: name of an installed model, or path of a model folder
        :param device: auto, cpu, cuda or mps
        :param planes: along which slices the network goes: axial; where the model knows them coronal or sagittal; or
            all, for the median of the three
        :param transform: linear transform node or 4x4 array to canonical fetal space, instead of the automatic one
        :param progress: called as progress(fraction, stage)
        :param support: also add the map of how probable it is that the grey is right; of a frame, where the beam was
        :param masks: also add a segmentation of the fan and the head
        :param allow_low_confidence: go on although the head was not found reliably, which is refused otherwise;
            ``unreliable`` is its former name
        :param gestational_age: weeks (14 to 42) where it is known, a prior for the head's size
        :raises USMRISynthesisLib.errors.USMRIError: Refused, Failed or Cancelled; the message names the remedy
        """
        from USMRISynthesisScene.torch_install import require_torch
        from USMRISynthesisScene.worker_run import Reports

        require_torch()
        self.synthesizer.start(usVolumeNode, outputVolumeNode, model=model, device=device, planes=planes,
                               transform=transform, support=support, masks=masks,
                               unreliable=unreliable or allow_low_confidence, gestational_age=gestational_age,
                               reports=Reports(progress=progress) if progress else Reports())
        return self.synthesizer.wait()

    def respace(self, mrVolumeNode: slicer.vtkMRMLScalarVolumeNode, spacing: float | None = None,
                consistency: bool = False, model: str = "spacing", device: str = "auto",
                progress: Any = None) -> slicer.vtkMRMLScalarVolumeNode:
        """Make a volume of thinner slices beside an MR volume and return its node. Blocks until it is done.

        :param mrVolumeNode: MR in thick slices, 1.5 to 6 times as far apart as its pixels
        :param spacing: mm between slices afterwards; by default the pixel's side
        :param consistency: project, so that the result seen through thick slices is the input
        :param model: name of an installed slice-spacing model, or path of a model folder
        :param device: auto, cpu, cuda or mps
        :param progress: called as progress(fraction, stage)
        :raises USMRISynthesisLib.errors.USMRIError: Refused, Failed or Cancelled; the message names the remedy
        """
        from USMRISynthesisScene.respacing import RespaceOptions, RespaceRun
        from USMRISynthesisScene.torch_install import require_torch
        from USMRISynthesisScene.worker_run import Reports

        require_torch()
        run = RespaceRun(self.synthesizer.worker)
        run.start(mrVolumeNode, RespaceOptions(spacing, consistency, model, device),
                  Reports(progress=progress) if progress else Reports())
        return run.wait()


class USMRISynthesisTest(ScriptedLoadableModuleTest):
    """What "Reload and Test" runs; Testing/Python has the rest."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        self.setUp()
        self.test_sample_volume_keeps_its_geometry()

    def test_sample_volume_keeps_its_geometry(self) -> None:
        from USMRISynthesisScene.sample_data import SIMULATED, sample_file

        ultrasound = slicer.util.loadVolume(str(sample_file(SIMULATED)))
        mr = USMRISynthesisLogic().synthesize(ultrasound)
        self.assertEqual(mr.GetImageData().GetDimensions(), ultrasound.GetImageData().GetDimensions())
        self.assertEqual(mr.GetOrigin(), ultrasound.GetOrigin())
        self.assertEqual(mr.GetSpacing(), ultrasound.GetSpacing())
        self.assertGreater(slicer.util.arrayFromVolume(mr).max(), 0)
        self.delayDisplay("Test passed")
