"""Registration modules open with their inputs selected; elastix itself runs on these nodes."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from scenery import (
    PICTURES,
    add_head,
    add_result,
    is_idle,
    play,
    put_under_a_transform,
    scene_state,
    spin_until,
)
from USMRISynthesisScene.nodes import nodes, registration


class Selector:
    """A node selector of another module."""

    def __init__(self) -> None:
        self.node: Any = None

    def setCurrentNode(self, node: Any) -> None:
        self.node = node


ELASTIX = ("fixedVolumeSelector", "movingVolumeSelector", "initialTransformSelector", "outputTransformSelector")


@pytest.fixture
def modules(host: Any) -> Iterator[dict[str, Any]]:
    """Installs stand-ins for Elastix, ANTs and BRAINS before the panel is opened."""
    made = {
        "Elastix": types.SimpleNamespace(**{name: Selector() for name in ELASTIX}),
        "ANTsRegistration": types.SimpleNamespace(
            **{
                name: Selector()
                for name in ("fixedImageNodeComboBox", "movingImageNodeComboBox", "outputForwardTransformComboBox")
            }
        ),
    }
    for name, ui in made.items():
        host.add_module(name, ui)
    host.add_module("BRAINSFit")
    yield made
    for name in (*made, "BRAINSFit"):
        host.remove_module(name)


@pytest.fixture
def atlas(modules: Any, panel: Any, ui: Any) -> Any:
    """A finished result, and an MR selected as the target."""
    source = add_head()
    play(panel, "copy")
    spin_until(lambda: is_idle(ui))
    one = slicer.util.addVolumeFromArray(slicer.util.arrayFromVolume(source).astype(np.int16), name="Atlas")
    ui.fixedSelector.setCurrentNode(one)
    return one


def output_of(panel: Any) -> Any:
    return slicer.mrmlScene.GetNodeByID(panel.panel._last_output_id)


def test_only_modules_that_are_there_are_offered(modules: Any, panel: Any, ui: Any) -> None:
    names = [ui.registrationComboBox.itemText(index) for index in range(ui.registrationComboBox.count)]
    assert names == ["General Registration (Elastix)", "ANTs Registration", "General Registration (BRAINS)"]
    assert not ui.openRegistrationButton.enabled  # there is no result yet


def test_tooltip_names_the_modules_to_install(panel: Any, ui: Any) -> None:
    add_head()
    play(panel, "copy")
    spin_until(lambda: is_idle(ui))
    assert ui.registrationComboBox.currentText == "No module is installed"
    assert not ui.openRegistrationButton.enabled
    assert ui.openRegistrationButton.toolTip.startswith("Install SlicerElastix, ANTs or BRAINSTools")


def test_elastix_is_opened_with_fixed_moving_and_output(
    host: Any, modules: Any, atlas: Any, panel: Any, ui: Any
) -> None:
    ui.openRegistrationButton.click()
    chosen, output = modules["Elastix"], output_of(panel)
    made = output.GetNodeReference(registration.RESULT_ROLE)
    assert host.selected_module() == "Elastix"
    assert chosen.fixedVolumeSelector.node is atlas and chosen.movingVolumeSelector.node is output
    assert chosen.outputTransformSelector.node is made and made.GetName() == "Fetal head registration"
    assert chosen.initialTransformSelector.node is None
    assert ui.statusLabel.text == (
        "General Registration (Elastix) is open; its result goes to Fetal head "
        "registration. Then come back and apply it to the ultrasound."
    )
    ui.canonicalCheckBox.checked = True
    ui.openRegistrationButton.click()
    assert chosen.initialTransformSelector.node is output.GetNodeReference(nodes.TRANSFORM_ROLE)
    assert output.GetNodeReference(registration.RESULT_ROLE) is made  # no second one
    panel.parent.resize(420, 900)
    ui.registrationCollapsibleButton.collapsed = False
    for _ in range(4):
        slicer.app.processEvents()
    PICTURES.mkdir(parents=True, exist_ok=True)
    panel.parent.grab().save(str(PICTURES / "panel-registration.png"))


def test_ants_is_opened_with_its_own_selectors(host: Any, modules: Any, atlas: Any, panel: Any, ui: Any) -> None:
    ui.registrationComboBox.currentIndex = 1
    ui.openRegistrationButton.click()
    chosen = modules["ANTsRegistration"]
    assert host.selected_module() == "ANTsRegistration"
    assert chosen.fixedImageNodeComboBox.node is atlas
    assert chosen.movingImageNodeComboBox.node is output_of(panel)
    assert chosen.outputForwardTransformComboBox.node.GetName() == "Fetal head registration"


def test_brains_is_opened_with_a_parameter_node(
    modules: Any, atlas: Any, panel: Any, ui: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, Any]] = []
    fake = types.ModuleType("slicer.cli")
    fake.createNode = lambda module, parameters: made.append({"module": module.name, **parameters}) or "node"  # type: ignore
    monkeypatch.setitem(sys.modules, "slicer.cli", fake)
    monkeypatch.setattr(slicer, "cli", fake, raising=False)
    ui.registrationComboBox.currentIndex = 2
    ui.canonicalCheckBox.checked = True
    ui.openRegistrationButton.click()
    output = output_of(panel)
    assert slicer.app._opened[-1] == "node"
    assert made == [
        {
            "module": "BRAINSFit",
            "fixedVolume": atlas.GetID(),
            "movingVolume": output.GetID(),
            "linearTransform": output.GetNodeReference(registration.RESULT_ROLE).GetID(),
            "useRigid": True,
            "initializeTransformMode": "Off",
            "initialTransform": output.GetNodeReference(nodes.TRANSFORM_ROLE).GetID(),
        }
    ]


def test_missing_target_is_reported_and_adds_no_node(atlas: Any, panel: Any, ui: Any, host: Any) -> None:
    ui.fixedSelector.setCurrentNode(None)
    before = scene_state()
    ui.openRegistrationButton.click()
    assert ui.statusLabel.text == "There is no volume to register to. Choose an MR or an atlas under Register to."
    ui.fixedSelector.setCurrentNode(atlas)
    host.set_main_window(False)
    try:
        ui.openRegistrationButton.click()
    finally:
        host.set_main_window(True)
    assert ui.statusLabel.text.startswith("Slicer has no main window")
    assert scene_state() == before


@pytest.mark.parametrize("moved", [False, True], ids=["top-level", "under-a-transform"])
def test_elastic_registration_by_elastix_moves_the_ultrasound_too(
    moved: bool, panel: Any, ui: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Register as SlicerElastix does: from files of the nodes; the result becomes the moving volume's parent."""
    itk = pytest.importorskip("itk")
    pytest.importorskip("itk.itkElastixRegistrationMethodPython", reason="itk-elastix is not installed")
    itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(1)  # threads that wait for each other on a busy machine
    monkeypatch.chdir(tmp_path)  # where it leaves a file of its own
    source = add_head()
    if moved:
        put_under_a_transform(source)
    play(panel, "copy")
    spin_until(lambda: is_idle(ui))
    output = output_of(panel)
    slicer.util.updateVolumeFromArray(output, slicer.util.arrayFromVolume(add_result(source)).astype(np.int16))
    slicer.util.saveNode(output, str(tmp_path / "moving.mha"))
    moving = sitk.ReadImage(str(tmp_path / "moving.mha"), sitk.sitkFloat32)
    truth = warp_of(moving)
    sitk.WriteImage(sitk.Resample(moving, moving, truth), str(tmp_path / "fixed.mha"))
    parameters = itk.ParameterObject.New()
    for kind, spacing in (("rigid", 0.0), ("bspline", 24.0)):
        parameters.AddParameterMap(parameters.GetDefaultParameterMap(kind, 2, *([spacing] if spacing else [])))
    parameters.SetParameter("MaximumNumberOfIterations", "60")
    parameters.SetParameter("RandomSeed", "1")
    found = itk.ElastixRegistrationMethod.New(
        itk.imread(str(tmp_path / "fixed.mha"), itk.F), itk.imread(str(tmp_path / "moving.mha"), itk.F)
    )
    found.SetParameterObject(parameters)
    found.SetLogToConsole(False)
    found.UpdateLargestPossibleRegion()
    field = itk.transformix_deformation_field(
        itk.imread(str(tmp_path / "moving.mha"), itk.F), found.GetTransformParameterObject()
    )
    itk.imwrite(field, str(tmp_path / "field.mha"))
    warp = sitk.DisplacementFieldTransform(sitk.ReadImage(str(tmp_path / "field.mha"), sitk.sitkVectorFloat64))
    sitk.WriteTransform(warp, str(tmp_path / "result.h5"))
    storage, result = slicer.vtkMRMLTransformStorageNode(), slicer.vtkMRMLTransformNode()
    result.SetName("Result")
    slicer.mrmlScene.AddNode(result)
    storage.SetFileName(str(tmp_path / "result.h5"))
    assert storage.ReadData(result)
    output.SetAndObserveTransformNodeID(result.GetID())
    ui.shareTransformButton.click()
    assert ui.statusLabel.text.startswith("Now under the transform of the MR-like volume: Fetal head")
    assert source.GetTransformNodeID() == result.GetID()
    to_world = vtk.vtkGeneralTransform()
    source.GetParentTransformNode().GetTransformToWorld(to_world)
    errors, before = [], []
    for index in ((28, 30, 24), (20, 40, 20), (38, 22, 30), (28, 14, 24), (14, 30, 24), (28, 30, 34)):
        here = moving.TransformContinuousIndexToPhysicalPoint(index)  # LPS, on the ultrasound's own grid
        there = np.array(to_world.TransformPoint((-here[0], -here[1], here[2]))) * (-1, -1, 1)
        errors.append(np.linalg.norm(np.array(truth.TransformPoint(there)) - here))
        before.append(np.linalg.norm(np.array(truth.TransformPoint(here)) - here))
    assert np.mean(before) > 4 and np.mean(errors) < 1.2 and np.max(errors) < 2.5


def warp_of(image: sitk.Image) -> sitk.Transform:
    """Fixed to moving: a small rigid motion and a smooth warp of a few mm."""
    spline = sitk.BSplineTransformInitializer(image, [4, 4, 4], 3)
    count = len(spline.GetParameters())
    spline.SetParameters((4 * np.random.default_rng(2).uniform(-1, 1, count)).tolist())
    centre = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
    rigid = sitk.Euler3DTransform(centre, 0.05, -0.04, 0.06, (4.0, -3.0, 2.0))
    return sitk.CompositeTransform([spline, rigid])
