"""The sample's MR-like volume of the installed model, registered to a real atlas MR from its nodes as they are."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
from scenery import ijk_to_ras, put_under_a_transform
from USMRISynthesisScene.files.sample_data import SIMULATED, sample_file
from USMRISynthesisScene.nodes import nodes, registration

ATLAS = Path(os.environ.get("USMRI_DATA", "../shared/data")) / "fetal-mr-atlas" / "GA26-operated" / "t2.nii.gz"
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

pytestmark = pytest.mark.skipif(
    not ATLAS.is_file() or not sample_file(SIMULATED).is_file(), reason="the atlas or the sample is not here"
)


def image_of(node: Any, world: np.ndarray) -> sitk.Image:
    """A volume node under a transform to the world, as registration sees it."""
    image = sitk.GetImageFromArray(slicer.util.arrayFromVolume(node).astype(np.float32))
    matrix = LPS @ world @ ijk_to_ras(node)
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((matrix[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(matrix[:3, 3].tolist())
    return image


def likeness(fixed: sitk.Image, moving: sitk.Image, transform: sitk.Transform) -> float:
    """NCC where both have brain."""
    one = sitk.GetArrayFromImage(fixed)
    other = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform))
    both = (one > 0) & (other > 0)
    assert both.mean() > 0.03
    return float(np.corrcoef(one[both], other[both])[0, 1])


def start_from(output: Any, parent: np.ndarray, fixed: sitk.Image) -> sitk.Euler3DTransform:
    """Fixed to moving, LPS: the rotation of the canonical transform node, the heads' centres on each other."""
    canonical = slicer.util.arrayFromTransformMatrix(output.GetNodeReference(nodes.TRANSFORM_ROLE))
    to_world = LPS @ parent @ np.linalg.inv(canonical) @ LPS
    start = sitk.Euler3DTransform()
    start.SetMatrix((to_world[:3, :3] / np.cbrt(np.linalg.det(to_world[:3, :3]))).ravel().tolist(), 1e-6)
    there = np.argwhere(sitk.GetArrayViewFromImage(fixed) > 0).mean(axis=0)[::-1]
    start.SetCenter(fixed.TransformContinuousIndexToPhysicalPoint(there.tolist()))
    start.SetTranslation((to_world[:3, 3] - start.GetCenter()).tolist())
    return start


def registered(fixed: sitk.Image, moving: sitk.Image, transform: sitk.Transform, step_mm: float) -> sitk.Transform:
    """Registration by mutual information from that start."""
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricFixedMask(fixed > 0)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.1, 1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(step_mm, 1e-3, 60)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([2])
    method.SetSmoothingSigmasPerLevel([1])
    method.SetInitialTransform(transform, inPlace=False)
    return method.Execute(fixed, moving)


def test_rigid_and_elastic_registration_to_an_atlas_runs_from_the_nodes_as_left(module: Any) -> None:
    source = slicer.util.loadVolume(str(sample_file(SIMULATED)), {"name": SIMULATED, "singleFile": True})
    put_under_a_transform(source)
    parent = slicer.util.arrayFromTransformMatrix(source.GetParentTransformNode())
    logic = sys.modules["USMRISynthesis"].USMRISynthesisLogic()
    try:
        output = logic.synthesize(source, device="cpu")
    finally:
        logic.synthesizer.close()
    atlas = slicer.util.loadVolume(str(ATLAS), {"name": "Atlas", "singleFile": True})
    fixed, moving = image_of(atlas, np.eye(4)), image_of(output, parent)
    start = start_from(output, parent, fixed)
    rigid = registered(fixed, moving, start, 1.0)
    spline = sitk.BSplineTransformInitializer(fixed, [5, 5, 5], 3)
    elastic = registered(fixed, sitk.Resample(moving, fixed, rigid), spline, 1.0)
    seen = [
        likeness(fixed, moving, start),
        likeness(fixed, moving, rigid),
        likeness(fixed, moving, sitk.CompositeTransform([rigid, elastic])),
    ]
    print("NCC in the brain: start, rigid, elastic:", np.round(seen, 3))
    assert seen[0] < seen[1] < seen[2] and seen[1] > 0.2

    # Where a rigid registration module leaves its result: over what the moving volume lay under before.
    found = np.eye(4)
    found[:3, 3] = rigid.TransformPoint((0.0, 0.0, 0.0))
    found[:3, :3] = np.stack([rigid.TransformPoint(axis) for axis in np.eye(3).tolist()], axis=1) - found[:3, 3:]
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Registration")
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(LPS @ np.linalg.inv(found) @ LPS @ parent))
    output.SetAndObserveTransformNodeID(node.GetID())
    assert source in registration.share_transform(output)
    moved = slicer.util.arrayFromTransformMatrix(node)
    assert abs(likeness(fixed, image_of(output, moved), sitk.Transform()) - seen[1]) < 0.02
