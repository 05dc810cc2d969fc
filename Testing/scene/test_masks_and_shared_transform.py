"""Masks and the shared transform, and a registration that uses the nodes as the module leaves them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from scenery import add_head, ijk_to_ras, is_idle, play, put_under_a_transform, scene_state, spin_until
from USMRISynthesisScene.nodes.masks import FAN_SEGMENT, HEAD_SEGMENT, SEGMENTATION_ROLE, SEGMENTS
from vtk.util.numpy_support import vtk_to_numpy

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def run(panel: Any, ui: Any) -> Any:
    play(panel, "copy")
    spin_until(lambda: is_idle(ui))
    assert ui.statusLabel.text.startswith("Done"), ui.statusLabel.text
    return slicer.mrmlScene.GetNodeByID(panel.panel._last_output_id)


def segment_array(segmentation: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(k, j, i) voxels and ijk_to_ras of a segment in the node."""
    image = segmentation.GetBinaryLabelmapInternalRepresentation(
        segmentation.GetSegmentation().GetSegmentIdBySegmentName(name)
    )
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    extent = image.GetExtent()
    shape = [extent[2 * axis + 1] - extent[2 * axis] + 1 for axis in (2, 1, 0)]
    shift = np.eye(4)
    shift[:3, 3] = extent[::2]
    voxels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(shape)
    return voxels, slicer.util.arrayFromVTKMatrix(matrix) @ shift


def world(node: Any) -> np.ndarray:
    """ijk to world, with the parent transform."""
    parent = node.GetParentTransformNode()
    if parent is None:
        return ijk_to_ras(node)
    matrix = vtk.vtkMatrix4x4()
    parent.GetMatrixTransformToWorld(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix) @ ijk_to_ras(node)


def sitk_image(array: np.ndarray, ijk_to_world: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    matrix = LPS @ ijk_to_world
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((matrix[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(matrix[:3, 3].tolist())
    return image


def test_masks_come_as_a_hidden_segmentation_on_the_same_grid(panel: Any, ui: Any) -> None:
    source = add_head()
    parent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    source.SetAndObserveTransformNodeID(parent.GetID())
    segmentation = run(panel, ui).GetNodeReference(SEGMENTATION_ROLE)
    assert segmentation.GetName() == "SYNTHETIC - not for diagnosis: fan and head of Fetal head"
    assert not segmentation.GetDisplayNode().GetVisibility()
    assert segmentation.GetTransformNodeID() == parent.GetID()
    assert segmentation.GetSegmentation().GetNumberOfSegments() == len(SEGMENTS)
    voxels = slicer.util.arrayFromVolume(source)
    for name, expected in ((FAN_SEGMENT, voxels > 0), (HEAD_SEGMENT, voxels > 60)):
        mask, matrix = segment_array(segmentation, name)
        corner = np.rint(np.linalg.inv(ijk_to_ras(source)) @ matrix)[:3, 3].astype(int)[::-1]
        where = tuple(slice(start, start + size) for start, size in zip(corner, mask.shape, strict=True))
        assert mask.sum() == expected.sum()
        np.testing.assert_array_equal(mask > 0, expected[where])


def test_masks_can_be_left_out(panel: Any, ui: Any) -> None:
    add_head()
    ui.makeMasksCheckBox.checked = False
    assert run(panel, ui).GetNodeReference(SEGMENTATION_ROLE) is None


def test_second_run_into_the_same_volume_keeps_its_segmentation(panel: Any, ui: Any) -> None:
    add_head()
    output = run(panel, ui)
    first = output.GetNodeReference(SEGMENTATION_ROLE)
    panel.logic.getParameterNode().outputVolume = output
    again = run(panel, ui)
    assert again.GetNodeReference(SEGMENTATION_ROLE) is first
    assert first.GetSegmentation().GetNumberOfSegments() == len(SEGMENTS)


def test_status_explains_that_the_transform_is_shared_already(panel: Any, ui: Any) -> None:
    add_head()
    run(panel, ui)
    before = scene_state()
    ui.shareTransformButton.click()
    assert ui.statusLabel.text == (
        "The ultrasound lies under the transform of the MR-like volume already. Register "
        "the MR-like volume first, so that it has a transform of its own."
    )
    assert scene_state() == before


@pytest.mark.parametrize("moved", [False, True], ids=["top-level", "under-a-transform"])
def test_registration_uses_the_nodes_as_they_are_and_moves_the_ultrasound_too(moved: bool, panel: Any, ui: Any) -> None:
    source = add_head()
    if moved:
        put_under_a_transform(source)
    output = run(panel, ui)
    segmentation = output.GetNodeReference(SEGMENTATION_ROLE)
    # An atlas: the same head elsewhere, by a transform that is to be found again.
    truth = sitk.Euler3DTransform([0.0, 0.0, 0.0], 0.06, -0.05, 0.08, (5.0, -4.0, 3.0))
    moving = sitk_image(slicer.util.arrayFromVolume(output).astype(np.float32), world(output))
    fixed = sitk.Resample(moving, moving, truth)
    mask, matrix = segment_array(segmentation, FAN_SEGMENT)
    to_world = world(output) @ np.linalg.inv(ijk_to_ras(output))
    registration = sitk.ImageRegistrationMethod()
    registration.SetMetricAsMeanSquares()
    registration.SetMetricMovingMask(sitk_image(mask, to_world @ matrix))
    registration.SetInterpolator(sitk.sitkLinear)
    registration.SetOptimizerAsRegularStepGradientDescent(2.0, 1e-3, 120)
    registration.SetOptimizerScalesFromPhysicalShift()
    registration.SetShrinkFactorsPerLevel([2, 1])
    registration.SetSmoothingSigmasPerLevel([2, 0])
    centre = fixed.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in fixed.GetSize()])
    start = sitk.Euler3DTransform()
    start.SetCenter(centre)
    registration.SetInitialTransform(start, inPlace=True)
    registration.Execute(fixed, moving)
    # As a registration module leaves it: moving to fixed in RAS, over what the moving volume lay under before.
    found = np.eye(4)
    found[:3, :3] = np.reshape(start.GetMatrix(), (3, 3))
    found[:3, 3] = np.array(start.TransformPoint((0.0, 0.0, 0.0)))
    moving_to_fixed = LPS @ np.linalg.inv(found) @ LPS
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Registration")
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(moving_to_fixed @ to_world))
    output.SetAndObserveTransformNodeID(node.GetID())
    ui.shareTransformButton.click()
    assert ui.statusLabel.text == (
        "Now under the transform of the MR-like volume: Fetal head, SYNTHETIC - not for diagnosis: fan and head of "
        "Fetal head."
    )
    np.testing.assert_allclose(world(source), world(output))
    assert segmentation.GetTransformNodeID() == node.GetID()
    # Places of the head in the ultrasound now lie where the atlas has them.
    for index in ((28, 30, 24), (20, 40, 20), (38, 22, 30)):
        there = (LPS @ world(source) @ [*index, 1])[:3]
        wanted = truth.GetInverse().TransformPoint((LPS @ to_world @ ijk_to_ras(source) @ [*index, 1])[:3])
        assert np.linalg.norm(there - wanted) < 1.0
