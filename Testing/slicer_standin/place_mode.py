"""Clicks in place mode, handled as Slicer's markups do.

The mode stays after a point where it is persistent, unless the list has a fixed number of points and all are placed. A
full list is not continued: the next mouse move over a view starts a new list.
"""

from __future__ import annotations

from typing import Any

import slicer


def is_placing() -> bool:
    """Whether the next click places a point."""
    interaction = _node("vtkMRMLInteractionNodeSingleton")
    return interaction.GetCurrentInteractionMode() == interaction.Place


def move_mouse_in_view() -> None:
    """The mouse moves over a view."""
    if is_placing():
        _list_to_place_in()


def click_in_view(*ras: float) -> None:
    """A click at a place in world coordinates, mm."""
    if not is_placing():
        return
    points = _list_to_place_in()
    unset = [
        index
        for index in range(points.GetNumberOfControlPoints())
        if points.GetNthControlPointPositionStatus(index) == points.PositionUndefined
    ]
    if unset:
        points.SetNthControlPointPositionWorld(unset[0], *ras)
    else:
        points.AddControlPointWorld(*ras)
    interaction = _node("vtkMRMLInteractionNodeSingleton")
    complete = points.GetFixedNumberOfControlPoints() and not points.GetNumberOfUndefinedControlPoints()
    if complete or not interaction.GetPlaceModePersistence():
        interaction.SetCurrentInteractionMode(interaction.ViewTransform)


def _list_to_place_in() -> Any:
    selection = _node("vtkMRMLSelectionNodeSingleton")
    kind = selection.GetActivePlaceNodeClassName()
    points = slicer.mrmlScene.GetNodeByID(selection.GetActivePlaceNodeID() or "")
    if points is not None and points.GetClassName() == kind:
        most = points.GetMaximumNumberOfControlPoints()
        if most < 0 or points.GetNumberOfDefinedControlPoints() < most:
            return points
    points = slicer.app.moduleLogic("Markups").AddNewMarkupsNode(kind)
    selection.SetReferenceActivePlaceNodeID(points.GetID())
    return points


def _node(node_id: str) -> Any:
    return slicer.mrmlScene.GetNodeByID(node_id)
