"""A synthetic slice in a 3D view is marked there, in any order of events; an ultrasound slice is not."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import slicer
from scenery import PICTURES, add_head, add_result
from slicer_standin.slice_view import picture_of_3d, write_png
from USMRISynthesisScene.nodes import nodes
from USMRISynthesisScene.views import marking

STEPS = ("eye", "layer", "mark")


@pytest.fixture(autouse=True)
def two_3d_views() -> Iterator[None]:
    manager = slicer.app.layoutManager()
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutDual3DView)
    marking.keep_marked()
    yield
    manager.sliceWidget("Red").mrmlSliceNode().SetSliceVisible(False)
    manager.sliceWidget("Red").mrmlSliceNode().RemoveAllThreeDViewIDs()
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)


def red() -> Any:
    return slicer.app.layoutManager().sliceWidget("Red")


def marked() -> list[bool]:
    """Of the 3D views."""
    manager = slicer.app.layoutManager()
    views = [manager.threeDWidget(index).threeDView() for index in range(manager.threeDViewCount)]
    return [nodes.SYNTHETIC in [view.cornerAnnotation().GetText(place) for place in range(8)] for view in views]


def view_id(index: int) -> str:
    return str(slicer.app.layoutManager().threeDWidget(index).mrmlViewNode().GetID())


def test_slice_shown_in_3d_is_marked_until_it_is_hidden() -> None:
    red().mrmlSliceCompositeNode().SetBackgroundVolumeID(add_result(add_head()).GetID())
    red().sliceLogic().FitSliceToAll()
    assert not any(marked())
    bare = picture_of_3d(slicer.app.layoutManager().threeDWidget(0))
    red().mrmlSliceNode().SetSliceVisible(True)
    assert all(marked())
    shown = picture_of_3d(slicer.app.layoutManager().threeDWidget(0))
    write_png(PICTURES / "slice-in-3d.png", [bare, shown])
    assert (shown.max(axis=2) > 30).mean() > 0.05
    red().mrmlSliceNode().SetSliceVisible(False)
    assert not any(marked())


@pytest.mark.parametrize("order", list(permutations(STEPS)), ids="-".join)
def test_mark_appears_in_any_order_of_events(order: tuple[str, ...]) -> None:
    volume = add_head("Volume")
    for step in order:
        assert not any(marked())
        if step == "eye":
            red().mrmlSliceNode().SetSliceVisible(True)
        elif step == "layer":
            red().mrmlSliceCompositeNode().SetForegroundVolumeID(volume.GetID())
        else:
            volume.SetAttribute(nodes.SYNTHETIC_ATTRIBUTE, nodes.SYNTHETIC)
    assert all(marked())


def test_ultrasound_slice_in_3d_stays_unmarked_until_its_layer_is_synthetic() -> None:
    source = add_head()
    output = add_result(source)
    red().mrmlSliceCompositeNode().SetBackgroundVolumeID(source.GetID())
    red().mrmlSliceNode().SetSliceVisible(True)
    assert not any(marked())
    red().mrmlSliceCompositeNode().SetBackgroundVolumeID(output.GetID())
    assert all(marked())
    red().mrmlSliceCompositeNode().SetBackgroundVolumeID(source.GetID())
    assert not any(marked())


def test_only_the_3d_views_that_the_slice_names_are_marked() -> None:
    red().mrmlSliceCompositeNode().SetBackgroundVolumeID(add_result(add_head()).GetID())
    red().mrmlSliceNode().SetSliceVisible(True)
    red().mrmlSliceNode().AddThreeDViewID(view_id(1))
    assert [marked()[index] for index in (0, 1)] == [False, True]
    red().mrmlSliceNode().AddThreeDViewID(view_id(0))
    assert [marked()[index] for index in (0, 1)] == [True, True]
    red().mrmlSliceNode().RemoveThreeDViewID(view_id(1))
    assert [marked()[index] for index in (0, 1)] == [True, False]


def test_loaded_scene_with_a_synthetic_slice_in_3d_is_marked(tmp_path: Path) -> None:
    output = add_result(add_head())
    red().mrmlSliceCompositeNode().SetBackgroundVolumeID(output.GetID())
    red().mrmlSliceNode().SetSliceVisible(True)
    assert slicer.mrmlScene.WriteToMRB(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear(False)
    red().mrmlSliceNode().SetSliceVisible(False)
    assert not any(marked())
    assert slicer.mrmlScene.ReadFromMRB(str(tmp_path / "scene.mrb"), True)
    slicer.app.processEvents()
    assert red().mrmlSliceNode().GetSliceVisible()
    assert all(marked())


def test_3d_view_that_comes_later_is_marked() -> None:
    manager = slicer.app.layoutManager()
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    red().mrmlSliceCompositeNode().SetBackgroundVolumeID(add_result(add_head()).GetID())
    red().mrmlSliceNode().SetSliceVisible(True)
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutTriple3DEndoscopyView)
    slicer.app.processEvents()
    assert len(marked()) >= 3 and all(marked())


def test_scrolling_updates_no_view(monkeypatch: pytest.MonkeyPatch) -> None:
    red().mrmlSliceCompositeNode().SetBackgroundVolumeID(add_result(add_head()).GetID())
    red().mrmlSliceNode().SetSliceVisible(True)
    written: list[Any] = []
    monkeypatch.setattr(marking, "_write", lambda *one: written.append(one))
    for offset in range(5):
        red().mrmlSliceNode().SetSliceOffset(offset)
    assert not written
    red().mrmlSliceNode().SetSliceVisible(False)
    assert written


def test_nothing_is_observed_after_marking_has_ended() -> None:
    node = red().mrmlSliceNode()
    red().mrmlSliceCompositeNode().SetBackgroundVolumeID(add_result(add_head()).GetID())
    before = node.GetListOfObservers() if hasattr(node, "GetListOfObservers") else None
    assert before is None or before
    marks = marking._marks
    marking.stop_marking()
    node.SetSliceVisible(True)
    slicer.app.processEvents()
    assert not any(marked()) and marks is not None and not marks._followed and not marks._slices
    marking.keep_marked()
    assert all(marked())
