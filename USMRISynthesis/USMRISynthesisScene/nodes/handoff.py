"""What registration needs of a result: masks as a segmentation, and one transform for all that belongs together."""
from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.volume import Volume
from vtk.util.numpy_support import numpy_to_vtk

from USMRISynthesisScene.nodes import companions, nodes
from USMRISynthesisScene.nodes.contours import CONTOUR_ROLE

SEGMENTATION_ROLE = "USMRISynthesis.Masks"
FAN, HEAD = 1, 2     # labels in the worker's mask volume; the head's part lies inside the fan
# Slicer's own export writes these names and the node's, and nothing else of ours, into a DICOM segmentation.
_MARK = nodes.SYNTHETIC.split()[0]
FAN_SEGMENT, HEAD_SEGMENT = f"Fan ({_MARK})", f"Head in the fan ({_MARK})"
SEGMENTS = {FAN_SEGMENT: (FAN, HEAD), HEAD_SEGMENT: (HEAD,)}
_COLOURS = {FAN_SEGMENT: (0.3, 0.6, 0.9), HEAD_SEGMENT: (0.95, 0.8, 0.2)}


def write_masks(masks: Volume, output: slicer.vtkMRMLScalarVolumeNode) -> Any:
    """The segmentation that belongs to a result, on the same grid and under the same transform; hidden at first."""
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
            _oriented(np.isin(masks.array, labels), masks.ijk_to_ras), name, list(_COLOURS[name]))
    node.SetAndObserveTransformNodeID(output.GetTransformNodeID())
    node.SetNodeReferenceID(nodes.SOURCE_ROLE, source.GetID())
    nodes.place_beside(node, source)
    return node


def share_transform(output: slicer.vtkMRMLScalarVolumeNode) -> list[Any]:
    """Put the ultrasound, and all that was made with it, under the transform of the MR-like volume.

    Returns the nodes that were moved. Nothing is hardened.
    """
    source = nodes.require_source(output)
    roles = (nodes.SUPPORT_ROLE, CONTOUR_ROLE, SEGMENTATION_ROLE)
    family = [source, *(output.GetNodeReference(role) for role in roles)]
    family += [node for node in (source.GetNodeReference(role) for role in companions.ROLES)
               if node is not None and node.GetTransformNodeID() == source.GetTransformNodeID()]
    apart = [node for node in family if node is not None and node.GetTransformNodeID() != output.GetTransformNodeID()]
    if not apart:
        raise Refused("same-transform", _("The ultrasound lies under the transform of the MR-like volume already."),
                      _("Register the MR-like volume first, so that it has a transform of its own."))
    for node in apart:
        node.SetAndObserveTransformNodeID(output.GetTransformNodeID())
    return apart


def _oriented(mask: np.ndarray, ijk_to_ras: np.ndarray) -> slicer.vtkOrientedImageData:
    """(k, j, i) bool on its grid, as segmentations hold it."""
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(*mask.shape[::-1])
    values = numpy_to_vtk(mask.astype(np.uint8).ravel(), deep=True, array_type=vtk.VTK_UNSIGNED_CHAR)
    image.GetPointData().SetScalars(values)
    image.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(ijk_to_ras))
    return image
