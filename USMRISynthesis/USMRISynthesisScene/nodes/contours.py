"""The MR-like image's contours as a label map, to be outlined over the ultrasound."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
from scipy import ndimage

from USMRISynthesisScene.nodes import nodes

CONTOUR_ROLE = "USMRISynthesis.Contours"
LEVELS = (1.0, 250.0, 450.0, 700.0)  # of 0-1000: the head's edge, tissue, brighter tissue, fluid


def tissue_zones(values: np.ndarray, spacing_kji: tuple[float, float, float]) -> np.ndarray:
    """(k, j, i) uint8: 0 outside, then one zone between each two of LEVELS.

    Smoothed by 1 mm first, within the head only, so that remaining speckle draws no islands.
    """
    inside = values > 0
    sigma = [0.0 if size == 1 else 1.0 / spacing for size, spacing in zip(values.shape, spacing_kji, strict=True)]
    weight = ndimage.gaussian_filter(inside.astype(np.float32), sigma)
    smooth = ndimage.gaussian_filter(values.astype(np.float32), sigma) / np.maximum(weight, 1e-3)
    return np.where(inside, np.maximum(np.digitize(smooth, LEVELS), 1), 0).astype(np.uint8)


def contours_of(output: slicer.vtkMRMLScalarVolumeNode) -> Any:
    """Make or update the label map node of an MR-like volume from its voxels."""
    node = output.GetNodeReference(CONTOUR_ROLE)
    if node is None:
        node = output.GetScene().AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", f"{output.GetName()} contours")
        output.SetNodeReferenceID(CONTOUR_ROLE, node.GetID())
    spacing = output.GetSpacing()[::-1]
    slicer.util.updateVolumeFromArray(node, tissue_zones(slicer.util.arrayFromVolume(output), spacing))
    node.CopyOrientation(output)
    node.SetAndObserveTransformNodeID(output.GetTransformNodeID())
    node.SetNodeReferenceID(nodes.SOURCE_ROLE, nodes.require_source(output).GetID())
    node.SetAttribute(nodes.SYNTHETIC_ATTRIBUTE, nodes.SYNTHETIC)
    if node.GetDisplayNode() is None:
        node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetAndObserveColorNodeID("vtkMRMLColorTableNodeLabels")
    return node


def remove_contours(output: slicer.vtkMRMLScalarVolumeNode | None) -> None:
    node = output.GetNodeReference(CONTOUR_ROLE) if output is not None else None
    if node is not None:
        node.GetScene().RemoveNode(node)
