"""The stand-in's slice views behave as Slicer's do, also where that is inconvenient for a module."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import slicer
from scenery import add_head
from slicer_standin.slice_view import PROVISIONAL_SIZE, SIZE, leave_mouse, let_settle, move_mouse, scroll

OTHER_LAYOUT = slicer.vtkMRMLLayoutNode.SlicerLayoutFourOverFourView  # with views of its own


@pytest.fixture
def manager() -> Iterator[Any]:
    """The layout manager as after a start of Slicer: the views of most layouts do not exist yet."""
    manager = slicer.app.layoutManager()
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    manager._forget_views()
    yield manager
    for name in ("Red", "Yellow"):
        composite = manager.sliceWidget(name).mrmlSliceCompositeNode()
        composite.SetLinkedControl(False)
        composite.SetHotLinkedControl(False)
        composite.ResetInteractionFlagsModifier()
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)


def show_in(widget: Any, volume: Any) -> None:
    widget.mrmlSliceCompositeNode().SetBackgroundVolumeID(volume.GetID())


def linked(manager: Any, *, hot: bool) -> tuple[Any, Any]:
    """Two widgets of one group, linked."""
    first, second = manager.sliceWidget("Red"), manager.sliceWidget("Yellow")
    for one in (first, second):
        one.mrmlSliceCompositeNode().SetLinkedControl(True)
        one.mrmlSliceCompositeNode().SetHotLinkedControl(hot)
    return first, second


def test_a_new_view_loses_its_slice_and_its_size_a_turn_later_and_only_then(manager: Any) -> None:
    volume = add_head()
    manager.setLayout(OTHER_LAYOUT)
    widget = manager.sliceWidget("Red+")
    show_in(widget, volume)
    widget.sliceLogic().SetSliceOffset(30.0)
    assert widget.mrmlSliceNode().GetDimensions()[:2] == PROVISIONAL_SIZE
    let_settle()
    assert widget.mrmlSliceNode().GetDimensions()[:2] == SIZE
    assert widget.sliceLogic().GetSliceOffset() == 0.0
    widget.sliceLogic().SetSliceOffset(30.0)
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    manager.setLayout(OTHER_LAYOUT)
    let_settle()
    assert manager.sliceWidget("Red+") is widget
    assert widget.sliceLogic().GetSliceOffset() == pytest.approx(30.0)


def test_another_size_keeps_the_field_of_view_s_height(manager: Any) -> None:
    volume = add_head()
    manager.setLayout(OTHER_LAYOUT)
    widget = manager.sliceWidget("Red+")
    show_in(widget, volume)
    widget.sliceLogic().FitSliceToBackground()
    before = widget.mrmlSliceNode().GetFieldOfView()
    let_settle()
    after = widget.mrmlSliceNode().GetFieldOfView()
    assert after[1] == pytest.approx(before[1])
    assert after[0] == pytest.approx(before[0] * SIZE[0] / PROVISIONAL_SIZE[0])


@pytest.mark.parametrize("hot", [True, False])
@pytest.mark.parametrize("setter", ["SetForegroundOpacity", "SetLabelOpacity"])
def test_an_opacity_goes_to_all_linked_views_of_the_group_whoever_set_it(setter: str, hot: bool, manager: Any) -> None:
    first, second = linked(manager, hot=hot)
    getter = setter.replace("Set", "Get")
    getattr(first.mrmlSliceCompositeNode(), setter)(0.25)
    assert getattr(second.mrmlSliceCompositeNode(), getter)() == 0.25
    second.mrmlSliceNode().SetViewGroup(5)
    getattr(first.mrmlSliceCompositeNode(), setter)(0.75)
    assert getattr(second.mrmlSliceCompositeNode(), getter)() == 0.25
    second.mrmlSliceNode().SetViewGroup(first.mrmlSliceNode().GetViewGroup())


def test_an_opacity_stays_in_views_that_are_not_linked_or_whose_mask_forbids_it(manager: Any) -> None:
    first, second = linked(manager, hot=True)
    second.mrmlSliceCompositeNode().SetForegroundOpacity(0.5)
    first.mrmlSliceCompositeNode().SetInteractionFlagsModifier(0)
    first.sliceController().setForegroundOpacity(0.75)
    assert second.mrmlSliceCompositeNode().GetForegroundOpacity() == 0.5
    first.mrmlSliceCompositeNode().ResetInteractionFlagsModifier()
    first.sliceController().setSliceLink(False)
    first.sliceController().setForegroundOpacity(0.25)
    assert second.mrmlSliceCompositeNode().GetForegroundOpacity() == 0.5


def test_the_interactor_style_handles_mouse_moves_and_ends_them(manager: Any) -> None:
    widget = manager.sliceWidget("Red")
    show_in(widget, add_head())
    interactor, heard = widget.sliceView().interactor(), []
    tags = [
        interactor.AddObserver("MouseMoveEvent", lambda *_: heard.append("late"), 0.0),
        interactor.AddObserver("MouseMoveEvent", lambda *_: heard.append("early"), 10.0),
    ]
    move_mouse(widget, 100, 120)
    leave_mouse(widget)
    for tag in tags:
        interactor.RemoveObserver(tag)
    assert heard == ["early"]


def test_the_mouse_wheel_moves_the_slice(manager: Any) -> None:
    widget = manager.sliceWidget("Red")
    show_in(widget, add_head())
    before = widget.sliceLogic().GetSliceOffset()
    scroll(widget, 3)
    assert abs(widget.sliceLogic().GetSliceOffset() - before) == pytest.approx(6.0)  # three slices of 2 mm


def test_method_of_the_controller_that_is_not_emulated_raises(manager: Any) -> None:
    with pytest.raises(NotImplementedError, match="does not play"):
        manager.sliceWidget("Red").sliceController().setCompositingToAdd()
