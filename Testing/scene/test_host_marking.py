"""The stand-in shows slices in 3D as Slicer does: when visible, in the named views, below the view's annotation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import slicer
import vtk
from scenery import add_head
from slicer_standin.slice_view import picture_of_3d


@pytest.fixture
def red() -> Iterator[Any]:
    """The red slice view with a head in it, beside two 3D views."""
    manager = slicer.app.layoutManager()
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutDual3DView)
    widget = manager.sliceWidget("Red")
    widget.mrmlSliceCompositeNode().SetBackgroundVolumeID(add_head().GetID())
    widget.sliceLogic().FitSliceToAll()
    yield widget
    widget.mrmlSliceNode().SetSliceVisible(False)
    widget.mrmlSliceNode().RemoveAllThreeDViewIDs()
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)


def views() -> list[Any]:
    manager = slicer.app.layoutManager()
    return [manager.threeDWidget(index) for index in range(manager.threeDViewCount)]


def test_slice_is_seen_in_3d_while_its_eye_is_open(red: Any) -> None:
    assert picture_of_3d(views()[0]).max() == 0
    red.mrmlSliceNode().SetSliceVisible(True)
    assert (picture_of_3d(views()[0]).max(axis=2) > 30).mean() > 0.05
    red.mrmlSliceNode().SetSliceVisible(False)
    assert picture_of_3d(views()[0]).max() == 0


def test_slice_is_seen_in_the_3d_views_that_it_names_alone(red: Any) -> None:
    first, second = views()[:2]
    red.mrmlSliceNode().AddThreeDViewID(second.mrmlViewNode().GetID())
    red.mrmlSliceNode().SetSliceVisible(True)
    assert picture_of_3d(first).max() == 0
    assert picture_of_3d(second).max() > 100


def test_text_of_a_3d_view_is_seen_over_the_slice(red: Any) -> None:
    red.mrmlSliceNode().SetSliceVisible(True)
    view = views()[0].threeDView()
    before = picture_of_3d(views()[0])
    view.cornerAnnotation().SetText(vtk.vtkCornerAnnotation.UpperEdge, "Seen")
    after = picture_of_3d(views()[0])
    view.cornerAnnotation().SetText(vtk.vtkCornerAnnotation.UpperEdge, "")
    rows = np.nonzero((before != after).any(axis=(1, 2)))[0]
    assert len(rows) and rows.max() < before.shape[0] / 4


def test_method_of_the_3d_view_that_is_not_emulated_raises(red: Any) -> None:
    with pytest.raises(NotImplementedError, match="does not play"):
        views()[0].threeDView().rotateToViewAxis(0)
