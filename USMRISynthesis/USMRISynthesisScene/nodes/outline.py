"""Outline of the head for an alignment: an ellipsoid over the ultrasound that follows the transform."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk
from USMRISynthesisLib.alignment.skull.fit import ELLIPSOID_LENGTH_MM, ELLIPSOID_Z_MM
from USMRISynthesisLib.alignment.skull.template import RATIOS

from USMRISynthesisScene.nodes import nodes

OUTLINE_ROLE = "USMRISynthesis.HeadOutline"


def head_ellipsoid(to_canonical: np.ndarray) -> vtk.vtkPolyData:
    """Outer skull of average proportions, in the space from which `to_canonical` (4, 4) leads to canonical space."""
    sphere = vtk.vtkSphereSource()
    sphere.SetRadius(1.0)
    sphere.SetThetaResolution(64)
    sphere.SetPhiResolution(64)
    ellipsoid = np.eye(4)
    ellipsoid[:3, :3] = np.diag([RATIOS[3][0], 1.0, RATIOS[3][1]]) * ELLIPSOID_LENGTH_MM / 2
    ellipsoid[2, 3] = ELLIPSOID_Z_MM
    transform = vtk.vtkTransform()
    transform.SetMatrix((np.linalg.inv(to_canonical) @ ellipsoid).ravel().tolist())
    placed = vtk.vtkTransformPolyDataFilter()
    placed.SetTransform(transform)
    placed.SetInputConnection(sphere.GetOutputPort())
    placed.Update()
    return placed.GetOutput()


def alignment_of(source: slicer.vtkMRMLScalarVolumeNode, transform: slicer.vtkMRMLLinearTransformNode) -> np.ndarray:
    """(4, 4) from the volume's local RAS to canonical space, from its own transform node or that of one of its results.

    A result has the voxels of its source, but another local RAS after a transform was hardened on one of the two.
    Raises Refused for a transform that a matrix cannot express.
    """
    matrix = nodes.read_transform(transform)
    assert matrix is not None
    for output in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
        if output.GetNodeReference(nodes.TRANSFORM_ROLE) is transform and nodes.source_of(output) is source:
            return np.asarray(matrix @ nodes.grid_of(output) @ np.linalg.inv(nodes.grid_of(source)))
    return matrix


def show_outline(source: slicer.vtkMRMLScalarVolumeNode, to_canonical: np.ndarray) -> Any:
    """Make or update the outline of a volume's head, under the volume's own parent transform."""
    node = source.GetNodeReference(OUTLINE_ROLE)
    if node is None:
        node = source.GetScene().AddNewNodeByClass("vtkMRMLModelNode", f"{source.GetName()} head outline")
        source.SetNodeReferenceID(OUTLINE_ROLE, node.GetID())
        node.CreateDefaultDisplayNodes()
        display = node.GetDisplayNode()
        display.SetColor(1.0, 0.85, 0.2)
        display.SetOpacity(0.3)
        display.SetSliceIntersectionThickness(2)
        display.SetVisibility2D(True)
    node.SetAndObservePolyData(head_ellipsoid(to_canonical))
    if node.GetTransformNodeID() != source.GetTransformNodeID():
        node.SetAndObserveTransformNodeID(source.GetTransformNodeID())
    return node


def remove_outline(source: slicer.vtkMRMLScalarVolumeNode | None) -> None:
    node = source.GetNodeReference(OUTLINE_ROLE) if source is not None else None
    if node is not None:
        node.GetScene().RemoveNode(node)
