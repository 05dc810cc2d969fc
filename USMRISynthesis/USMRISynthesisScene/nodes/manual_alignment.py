"""Alignment by hand: three landmarks in the ultrasound become the transform to canonical fetal space."""
from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.geometry.canonical import HEAD_LENGTH_MM

from USMRISynthesisScene.nodes import nodes

LANDMARKS = ("Front", "Back", "Top")
LANDMARKS_ROLE = "USMRISynthesis.Landmarks"
_MIN_LENGTH_MM, _MAX_LENGTH_MM = 15.0, 200.0     # of a fetal head from 10 weeks to term, and more
_MIN_ANGLE_DEG = 25.0


def similarity_from_landmarks(front: np.ndarray, back: np.ndarray, top: np.ndarray) -> np.ndarray:
    """(4, 4), mm to canonical mm, from three points on the outer skull.

    Front and back are the ends of the head along the midline: they give the place, the direction to anterior and the
    scale (`HEAD_LENGTH_MM` between them). The top, anywhere on the crown, gives the direction to superior.
    """
    along = np.asarray(front, dtype=float) - back
    length = float(np.linalg.norm(along))
    if not _MIN_LENGTH_MM <= length <= _MAX_LENGTH_MM:
        raise Refused("landmarks", _("Front and Back are {mm:.0f} mm apart, which no fetal head is.").format(mm=length),
                      _("Move them to the two ends of the head."))
    anterior = along / length
    upwards = np.asarray(top, dtype=float) - (np.asarray(front) + back) / 2
    across = upwards - anterior * (upwards @ anterior)
    if np.linalg.norm(across) < np.sin(np.radians(_MIN_ANGLE_DEG)) * max(np.linalg.norm(upwards), 0.1 * length):
        raise Refused("landmarks", _("Top lies on the line from Back to Front."),
                      _("Move it to the crown of the head."))
    superior = across / np.linalg.norm(across)
    matrix = np.eye(4)
    matrix[:3, :3] = HEAD_LENGTH_MM / length * np.stack([np.cross(anterior, superior), anterior, superior])
    matrix[:3, 3] = -matrix[:3, :3] @ (np.asarray(front) + back) / 2
    return matrix


def landmarks_of(source: slicer.vtkMRMLScalarVolumeNode) -> Any:
    """The landmark list of a volume, made when there is none: three named points, to be placed one after another.

    It lies under the volume's own parent transform, so that it stays on the head when that moves.
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
    """Whether none is missing: a click in place mode would begin another list."""
    return landmarks.GetNumberOfDefinedControlPoints() >= len(LANDMARKS)


def _put_under(landmarks: slicer.vtkMRMLMarkupsFiducialNode, transform_id: str | None) -> None:
    """Give the landmarks a parent transform without moving those that are placed."""
    defined = [index for index in range(landmarks.GetNumberOfControlPoints())
               if landmarks.GetNthControlPointPositionStatus(index) == landmarks.PositionDefined]
    positions = [landmarks.GetNthControlPointPositionWorld(index) for index in defined]
    landmarks.SetAndObserveTransformNodeID(transform_id)
    for index, position in zip(defined, positions, strict=True):
        landmarks.SetNthControlPointPositionWorld(index, position)


def start_placing(landmarks: slicer.vtkMRMLMarkupsFiducialNode) -> None:
    """The next clicks in a view place the points that are missing; `stop_placing` gives the mouse back.

    Slicer stays in this mode after the last point and puts further clicks into a new list.
    """
    selection, interaction = _mouse_nodes()
    if selection is not None and interaction is not None:
        selection.SetReferenceActivePlaceNodeClassName(landmarks.GetClassName())
        selection.SetActivePlaceNodeID(landmarks.GetID())
        interaction.SwitchToPersistentPlaceMode()


def stop_placing(landmarks: slicer.vtkMRMLMarkupsFiducialNode | None) -> None:
    """Give the mouse back, unless it places something else by now."""
    selection, interaction = _mouse_nodes()
    if (landmarks is not None and selection is not None and interaction is not None
            and interaction.GetCurrentInteractionMode() == interaction.Place
            and selection.GetActivePlaceNodeID() == landmarks.GetID()):
        interaction.SwitchToViewTransformMode()
        interaction.SetPlaceModePersistence(0)


def _mouse_nodes() -> tuple[Any, Any]:
    """What clicks place, and whether they do."""
    return tuple(slicer.mrmlScene.GetNodeByID(f"vtkMRML{name}NodeSingleton") for name in ("Selection", "Interaction"))


def align_by_landmarks(source: slicer.vtkMRMLScalarVolumeNode, alignment: Any = None) -> Any:
    """The linear transform node, `alignment` or a new one, that the landmarks of the volume give."""
    landmarks = source.GetNodeReference(LANDMARKS_ROLE)
    placed = 0 if landmarks is None else landmarks.GetNumberOfDefinedControlPoints()
    if landmarks is None or placed < len(LANDMARKS):
        raise Refused("landmarks", _("{n} of {all} landmarks are placed.").format(n=placed, all=len(LANDMARKS)),
                      _("Press Place landmarks and click Front, Back and Top of the head in the views."))
    to_local = vtk.vtkGeneralTransform()
    world: Any = None  # as a transform node: none
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(world, source.GetParentTransformNode(), to_local)
    points = [np.array(to_local.TransformPoint(point))
              for point in slicer.util.arrayFromMarkupsControlPoints(landmarks, world=True)[:3]]
    matrix = similarity_from_landmarks(*points)
    if alignment is None:
        alignment = source.GetScene().AddNewNodeByClass("vtkMRMLLinearTransformNode",
                                                        f"{source.GetName()} manual alignment")
        alignment.SetNodeReferenceID(nodes.SOURCE_ROLE, source.GetID())
    alignment.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    return alignment
