"""Tests of the module that run inside Slicer (ctest, or Reload and Test), and in the test host as well.

They use the sample images and the installed default model, so they need PyTorch.
"""

from __future__ import annotations

import json

import slicer
import vtk
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleTest


class USMRISynthesisModuleTest(ScriptedLoadableModuleTest):
    """Geometry, marking and refusal, by the logic that the console uses; and the panel, by clicks."""

    model = "default"

    def setUp(self) -> None:
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        for name in sorted(name for name in dir(self) if name.startswith("test_")):
            self.setUp()
            getattr(self, name)()

    def test_volume_keeps_its_grid_and_its_parent_transform(self) -> None:
        ultrasound = self._load("FetalHeadSimulated")
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        ultrasound.SetAndObserveTransformNodeID(transform.GetID())
        mr = self._synthesize(ultrasound)
        self._assert_same_grid(mr, ultrasound)
        self.assertEqual(mr.GetTransformNodeID(), transform.GetID())
        voxels = slicer.util.arrayFromVolume(mr)
        self.assertGreaterEqual(voxels.min(), 0)
        self.assertLessEqual(voxels.max(), 1000)
        self.assertGreater((voxels > 0).mean(), 0.02)

    def test_frame_stays_a_frame(self) -> None:
        ultrasound = self._load("FetalHeadHC18")
        mr = self._synthesize(ultrasound)
        self._assert_same_grid(mr, ultrasound)
        self.assertGreater(slicer.util.arrayFromVolume(mr).max(), 0)

    def test_result_is_marked_as_synthetic(self) -> None:
        ultrasound = self._load("FetalHeadHC18")
        mr = self._synthesize(ultrasound)
        self.assertIn("SYNTHETIC - not for diagnosis", mr.GetName())
        self.assertIn("model", json.loads(mr.GetAttribute("USMRISynthesis.Provenance")))
        self.assertIs(mr.GetNodeReference("USMRISynthesis.SourceUltrasound"), ultrasound)

    def test_panel_opens_and_makes_a_volume_by_clicks(self) -> None:
        from USMRISynthesis import USMRISynthesisTest

        ultrasound = self._load("FetalHeadHC18")
        mr = USMRISynthesisTest().madeByClicks(ultrasound, self.model)
        self._assert_same_grid(mr, ultrasound)

    def test_panel_that_was_opened_without_an_image_asks_for_one(self) -> None:
        from USMRISynthesis import USMRISynthesisTest

        ui = USMRISynthesisTest().openedPanel().ui
        self.assertFalse(ui.runButton.enabled)
        self.assertIsNone(ui.inputSelector.currentNode())
        self._load("FetalHeadHC18")
        slicer.app.processEvents()
        self.assertTrue(ui.runButton.enabled)

    def test_empty_volume_is_refused(self) -> None:
        from USMRISynthesisLib.errors import Refused

        empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Empty")
        with self.assertRaises(Refused):
            self._synthesize(empty)

    def _load(self, name: str) -> slicer.vtkMRMLScalarVolumeNode:
        from USMRISynthesisScene.files.sample_data import sample_file

        return slicer.util.loadVolume(str(sample_file(name)), {"name": name, "singleFile": True})

    def _synthesize(self, ultrasound: slicer.vtkMRMLScalarVolumeNode) -> slicer.vtkMRMLScalarVolumeNode:
        from USMRISynthesis import USMRISynthesisLogic

        logic = USMRISynthesisLogic()
        try:
            return logic.synthesize(ultrasound, model=self.model, device="cpu")
        finally:
            logic.synthesizer.close()

    def _assert_same_grid(self, one: slicer.vtkMRMLScalarVolumeNode, other: slicer.vtkMRMLScalarVolumeNode) -> None:
        self.assertEqual(one.GetImageData().GetDimensions(), other.GetImageData().GetDimensions())
        matrices = []
        for node in (one, other):
            matrix = vtk.vtkMatrix4x4()
            node.GetIJKToRASMatrix(matrix)
            matrices.append([matrix.GetElement(row, column) for row in range(4) for column in range(4)])
        for a, b in zip(*matrices, strict=True):
            self.assertAlmostEqual(a, b, places=6)
