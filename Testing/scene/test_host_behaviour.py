"""Behaviour of Slicer that the stand-in emulates: selectors, place mode, names, readers, leaving a module."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import slicer
from slicer_standin.place_mode import click_in_view, is_placing, move_mouse_in_view
from slicer_standin.view_controller import legible_name


@pytest.fixture(params=[False, True], ids=["without none", "with none"])
def selector(request: pytest.FixtureRequest) -> Any:
    box = slicer.qMRMLNodeComboBox()
    box.noneEnabled = request.param
    box.nodeTypes = ["vtkMRMLModelNode"]
    box.setMRMLScene(slicer.mrmlScene)
    return box


def add(name: str, kind: str = "vtkMRMLModelNode") -> Any:
    return slicer.mrmlScene.AddNewNodeByClass(kind, name)


def test_selector_takes_what_is_left_when_its_node_is_deleted(selector: Any) -> None:
    first, second, third = add("1"), add("2"), add("3")
    selector.setCurrentNode(second)
    slicer.mrmlScene.RemoveNode(second)
    assert selector.currentNode() is third
    slicer.mrmlScene.RemoveNode(third)
    assert selector.currentNode() is first
    slicer.mrmlScene.RemoveNode(first)
    assert selector.currentNode() is None


def test_other_observers_are_called_before_the_selector_on_removal(selector: Any) -> None:
    node, other = add("1"), add("2")
    selector.setCurrentNode(node)
    seen = []
    tag = slicer.mrmlScene.AddObserver(
        slicer.mrmlScene.NodeAboutToBeRemovedEvent, lambda *_: seen.append(selector.currentNode())
    )
    slicer.mrmlScene.RemoveNode(node)
    slicer.mrmlScene.RemoveObserver(tag)
    assert seen == [node] and selector.currentNode() is other


def test_first_node_selects_itself_where_none_cannot_be_chosen(selector: Any) -> None:
    first = add("1")
    assert selector.currentNode() is (None if selector.noneEnabled else first)
    selector.setCurrentNode(None)
    assert selector.currentNode() is None
    add("2")  # the list was not empty
    assert selector.currentNode() is None


@pytest.fixture
def placing() -> Any:
    """A list of at most two points, in place mode."""
    points = add("P", "vtkMRMLMarkupsFiducialNode")
    points.SetMaximumNumberOfControlPoints(2)
    selection = slicer.mrmlScene.GetNodeByID("vtkMRMLSelectionNodeSingleton")
    interaction = slicer.mrmlScene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
    selection.SetReferenceActivePlaceNodeClassName("vtkMRMLMarkupsFiducialNode")
    selection.SetActivePlaceNodeID(points.GetID())
    interaction.SwitchToPersistentPlaceMode()
    yield points
    interaction.SwitchToViewTransformMode()


def lists() -> int:
    return slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLMarkupsFiducialNode")


def test_persistent_place_mode_stays_and_begins_another_list(placing: Any) -> None:
    click_in_view(1, 2, 3)
    click_in_view(4, 5, 6)
    assert is_placing() and placing.GetNumberOfDefinedControlPoints() == 2 and lists() == 1
    move_mouse_in_view()  # a move is enough
    assert lists() == 2
    click_in_view(7, 8, 9)
    assert placing.GetNumberOfDefinedControlPoints() == 2 and is_placing()


def test_place_mode_for_one_point_ends_after_it(placing: Any) -> None:
    slicer.mrmlScene.GetNodeByID("vtkMRMLInteractionNodeSingleton").SetPlaceModePersistence(0)
    click_in_view(1, 2, 3)
    assert not is_placing()
    click_in_view(4, 5, 6)
    assert placing.GetNumberOfDefinedControlPoints() == 1


def test_place_mode_ends_with_a_list_of_a_fixed_number_of_points(placing: Any) -> None:
    click_in_view(1, 2, 3)
    placing.SetFixedNumberOfControlPoints(True)
    placing.UnsetNthControlPointPosition(0)
    click_in_view(4, 5, 6)
    assert not is_placing() and lists() == 1


def test_name_of_a_narrow_view_is_cut_on_both_sides() -> None:
    assert legible_name("US + MR-like", 1200) == "US + MR-like"
    narrow = legible_name("US + MR-like", 300)
    assert len(narrow) <= 2 and not narrow.startswith("US") and narrow in "US + MR-like"


def test_volumes_are_read_by_the_readers_of_that_type_only(host: Any, tmp_path: Any) -> None:
    class SomeFileReader:
        kind = "SomeFile"

        def __init__(self, parent: Any) -> None:
            self.parent = parent

        def fileType(self) -> str:
            return self.kind

        def canLoadFile(self, path: str) -> bool:
            return path.endswith(".some")

        def load(self, properties: Any) -> bool:
            import vtk

            self.parent.userMessages().AddMessage(vtk.vtkCommand.ErrorEvent, "some advice")
            return False

    (tmp_path / "x.some").write_bytes(b"?")
    host.app._io._add_reader(SomeFileReader)
    try:
        for kind, expected in (("SomeFile", False), ("VolumeFile", True)):
            SomeFileReader.kind = kind
            with pytest.raises(RuntimeError, match="Failed to load") as failed:
                slicer.util.loadVolume(str(tmp_path / "x.some"))
            assert ("some advice" in str(failed.value)) is expected
    finally:
        del host.app._io._readers["SomeFileReader"]


def test_module_is_left_when_another_is_selected(host: Any, panel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    widget = sys.modules["USMRISynthesis"].USMRISynthesisWidget
    monkeypatch.setattr(widget, "exit", lambda self: calls.append("exit"), raising=False)
    monkeypatch.setattr(widget, "enter", lambda self: calls.append("enter"))
    host.add_module("Other", slicer.qMRMLWidget())
    try:
        slicer.util.selectModule("Other")
        slicer.util.selectModule("USMRISynthesis")
    finally:
        host.remove_module("other")
    assert calls == ["exit", "enter"]
    assert slicer.util.getModuleWidget("USMRISynthesis") is panel
