"""Alignment by hand: three landmarks in the ultrasound become the transform to canonical fetal space."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.geometry.landmarks import similarity_from_landmarks

from USMRISynthesisScene.nodes import nodes

LANDMARKS = ("Front", "Back", "Top")
LANDMARKS_ROLE = "USMRISynthesis.Landmarks"


def landmarks_of(source: slicer.vtkMRMLScalarVolumeNode) -> Any:
    """The landmark list of a volume, made where there is none: three named points, placed one after another.

    It is under the volume's own parent transform, so that it stays on the head when that moves.
    """
    node = source.GetNodeReference(LANDMARKS_ROLE)
    if node is None:
        node = source.GetScene().AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", f"{source.GetName()} landmarks")
        node.CreateDefaultDisplayNodes()
        node.SetMaximumNumberOfControlPoints(len(LANDMARKS))
        source.SetNodeReferenceID(LANDMARKS_ROLE, node.GetID())
        for index, name in enumerate(LANDMARKS):
            node.AddControlPoint(vtk.vtkVector3d(0, 0, 0), name)
            node.UnsetNthControlPointPosition(index)
    if node.GetTransformNodeID() is None:
        _put_under(node, source.GetTransformNodeID())
    return node


def all_placed(landmarks: slicer.vtkMRMLMarkupsFiducialNode) -> bool:
    """Whether all points are placed; a further click in place mode would start another list."""
    return landmarks.GetNumberOfDefinedControlPoints() >= len(LANDMARKS)


def _put_under(landmarks: slicer.vtkMRMLMarkupsFiducialNode, transform_id: str | None) -> None:
    """Give the landmarks a parent transform; placed points keep their world position."""
    defined = [
        index
        for index in range(landmarks.GetNumberOfControlPoints())
        if landmarks.GetNthControlPointPositionStatus(index) == landmarks.PositionDefined
    ]
    positions = [landmarks.GetNthControlPointPositionWorld(index) for index in defined]
    landmarks.SetAndObserveTransformNodeID(transform_id)
    for index, position in zip(defined, positions, strict=True):
        landmarks.SetNthControlPointPositionWorld(index, position)


def start_placing(landmarks: slicer.vtkMRMLMarkupsFiducialNode) -> None:
    """Enter place mode: the next clicks in a view place the missing points. `stop_placing` leaves it.

    Slicer stays in place mode after the last point and puts further clicks into a new list.
    """
    selection, interaction = _place_mode_nodes()
    if selection is not None and interaction is not None:
        selection.SetReferenceActivePlaceNodeClassName(landmarks.GetClassName())
        selection.SetActivePlaceNodeID(landmarks.GetID())
        interaction.SwitchToPersistentPlaceMode()


def stop_placing(landmarks: slicer.vtkMRMLMarkupsFiducialNode | None) -> None:
    """Leave place mode, unless it places another node by now."""
    selection, interaction = _place_mode_nodes()
    if (
        landmarks is not None
        and selection is not None
        and interaction is not None
        and interaction.GetCurrentInteractionMode() == interaction.Place
        and selection.GetActivePlaceNodeID() == landmarks.GetID()
    ):
        interaction.SwitchToViewTransformMode()
        interaction.SetPlaceModePersistence(0)


def _place_mode_nodes() -> tuple[Any, Any]:
    """The selection node (what a click places) and the interaction node (whether it places anything)."""
    return tuple(slicer.mrmlScene.GetNodeByID(f"vtkMRML{name}NodeSingleton") for name in ("Selection", "Interaction"))


def align_by_landmarks(source: slicer.vtkMRMLScalarVolumeNode, alignment: Any = None) -> Any:
    """Write the alignment by landmarks into `alignment` or a new linear transform node, and return that.

    Raises Refused where landmarks are missing or cannot be those of a fetal head.
    """
    landmarks = source.GetNodeReference(LANDMARKS_ROLE)
    placed = 0 if landmarks is None else landmarks.GetNumberOfDefinedControlPoints()
    if landmarks is None or placed < len(LANDMARKS):
        raise Refused(
            "landmarks",
            _("{n} of {all} landmarks are placed.").format(n=placed, all=len(LANDMARKS)),
            _("Press Place landmarks and click Front, Back and Top of the head in the views."),
        )
    to_local = vtk.vtkGeneralTransform()
    world: Any = None  # no transform node means world
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(world, source.GetParentTransformNode(), to_local)
    points = [
        np.array(to_local.TransformPoint(point))
        for point in slicer.util.arrayFromMarkupsControlPoints(landmarks, world=True)[:3]
    ]
    matrix = similarity_from_landmarks(*points)
    if alignment is None:
        alignment = source.GetScene().AddNewNodeByClass(
            "vtkMRMLLinearTransformNode", f"{source.GetName()} manual alignment"
        )
        alignment.SetNodeReferenceID(nodes.SOURCE_ROLE, source.GetID())
    alignment.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    return alignment
