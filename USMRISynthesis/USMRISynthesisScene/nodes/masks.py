"""Masks of a result for registration: the fan, and the head in the fan, as a segmentation node."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk
from USMRISynthesisLib.io.volume import Volume
from vtk.util.numpy_support import numpy_to_vtk

from USMRISynthesisScene.nodes import nodes

SEGMENTATION_ROLE = "USMRISynthesis.Masks"
FAN, HEAD = 1, 2  # labels in the worker's mask volume; the head's part lies inside the fan
# The mark is in the names because Slicer's DICOM export of a segmentation keeps nothing else of ours.
_MARK = nodes.SYNTHETIC.split()[0]
FAN_SEGMENT, HEAD_SEGMENT = f"Fan ({_MARK})", f"Head in the fan ({_MARK})"
SEGMENTS = {FAN_SEGMENT: (FAN, HEAD), HEAD_SEGMENT: (HEAD,)}
_COLOURS = {FAN_SEGMENT: (0.3, 0.6, 0.9), HEAD_SEGMENT: (0.95, 0.8, 0.2)}


def write_masks(masks: Volume, output: slicer.vtkMRMLScalarVolumeNode) -> Any:
    """Make or update the segmentation of a result: same grid, same parent transform, hidden at first."""
    source = nodes.require_source(output)
    node = output.GetNodeReference(SEGMENTATION_ROLE)
    if node is None:
        node = output.GetScene().AddNewNodeByClass("vtkMRMLSegmentationNode")
        output.SetNodeReferenceID(SEGMENTATION_ROLE, node.GetID())
        node.CreateDefaultDisplayNodes()
        node.GetDisplayNode().SetVisibility(False)
    # The mark first: DICOM cuts a series description after 64 characters.
    node.SetName(f"{nodes.SYNTHETIC}: fan and head of {source.GetName()}")
    node.GetSegmentation().RemoveAllSegments()
    node.SetReferenceImageGeometryParameterFromVolumeNode(source)
    for name, labels in SEGMENTS.items():
        node.AddSegmentFromBinaryLabelmapRepresentation(
            _oriented(np.isin(masks.array, labels), masks.ijk_to_ras), name, list(_COLOURS[name])
        )
    node.SetAndObserveTransformNodeID(output.GetTransformNodeID())
    node.SetNodeReferenceID(nodes.SOURCE_ROLE, source.GetID())
    nodes.place_beside(node, source)
    return node


def _oriented(mask: np.ndarray, ijk_to_ras: np.ndarray) -> slicer.vtkOrientedImageData:
    """A (k, j, i) bool array as the image data that segmentation nodes use."""
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(*mask.shape[::-1])
    values = numpy_to_vtk(mask.astype(np.uint8).ravel(), deep=True, array_type=vtk.VTK_UNSIGNED_CHAR)
    image.GetPointData().SetScalars(values)
    image.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(ijk_to_ras))
    return image
