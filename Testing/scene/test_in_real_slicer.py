"""Regressions found in a real Slicer: no panel, place mode that did not end, a wrong volume selected."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import slicer
from scenery import REPOSITORY, add_head, add_result, is_idle, play, spin_until
from slicer_standin.place_mode import click_in_view, is_placing, move_mouse_in_view
from slicer_standin.view_controller import legible_name
from USMRISynthesisScene.nodes import nodes
from USMRISynthesisScene.nodes.manual_alignment import LANDMARKS_ROLE
from USMRISynthesisScene.views import layout

# Three points on the head of scenery.add_head.
POINTS = ((12.0, 37, 30), (12.0, -51, 30), (12.0, -3, 63))


def count(kind: str) -> int:
    return slicer.mrmlScene.GetNumberOfNodesByClass(kind)


# --- the panel


def test_no_node_is_chosen_in_a_new_scene(panel: Any) -> None:
    parameters = panel.logic.getParameterNode()
    assert parameters.inputVolume is None and parameters.outputVolume is None and parameters.alignment is None
    for name in ("inputVolume", "outputVolume", "alignment"):
        setattr(parameters, name, None)


@pytest.fixture
def broken(host: Any, module: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The widget after a setup that failed in its last step, with half of the panel built."""
    from USMRISynthesisScene.panel import parameters

    def fail(node: Any) -> Any:
        raise TypeError("Unable to write value 'None'")

    monkeypatch.setattr(parameters, "parameters_of", fail)
    yield host.open_module(module)
    host.close_module(module)


def test_panel_that_could_not_be_built_shows_the_reason(broken: Any) -> None:
    broken.parent.show()
    assert broken.panel is None
    assert broken.failureLabel.text == (
        "This panel could not be opened: Unable to write value 'None'\n\nRestart Slicer. If it happens again, install "
        "the extension again; View > Error Log has the details."
    )
    assert broken.failureLabel.visible and broken.failureLabel.wordWrap
    assert not broken.ui.runButton.visible  # a button that does nothing


def test_panel_that_could_not_be_built_can_be_left_and_closed(broken: Any, capfd: pytest.CaptureFixture[str]) -> None:
    broken.exit()
    broken.enter()
    slicer.mrmlScene.RemoveNode(add_head())
    slicer.mrmlScene.Clear(False)
    broken.cleanup()
    assert "Traceback" not in capfd.readouterr().err  # nothing of it still listens to the scene


# --- landmarks


@pytest.fixture
def source(panel: Any, ui: Any) -> Iterator[Any]:
    """An ultrasound whose landmarks are being placed."""
    head = add_head()
    ui.placeLandmarksButton.click()
    assert is_placing()
    yield head
    slicer.mrmlScene.GetNodeByID("vtkMRMLInteractionNodeSingleton").SwitchToViewTransformMode()


def test_place_mode_ends_after_the_third_landmark(source: Any, ui: Any) -> None:
    for point in POINTS[:2]:
        click_in_view(*point)
    assert is_placing()
    click_in_view(*POINTS[2])
    assert not is_placing()
    assert ui.statusLabel.text == "All three landmarks are placed. Press Use landmarks."
    assert not slicer.mrmlScene.GetNodeByID("vtkMRMLInteractionNodeSingleton").GetPlaceModePersistence()
    move_mouse_in_view()
    click_in_view(0, 0, 0)
    landmarks = source.GetNodeReference(LANDMARKS_ROLE)
    assert count("vtkMRMLMarkupsFiducialNode") == 1 and landmarks.GetNumberOfControlPoints() == 3
    assert slicer.util.arrayFromMarkupsControlPoints(landmarks).tolist() == [list(point) for point in POINTS]
    ui.useLandmarksButton.click()
    assert ui.statusLabel.text == "Aligned by landmarks. Press Synthesize MR to use it."


def test_placing_landmarks_again_starts_no_other_list(source: Any, ui: Any) -> None:
    for point in POINTS:
        click_in_view(*point)
    ui.placeLandmarksButton.click()
    assert not is_placing()
    assert ui.statusLabel.text == "All three landmarks are placed: drag them in the views, then press Use landmarks."
    source.GetNodeReference(LANDMARKS_ROLE).UnsetNthControlPointPosition(1)
    ui.placeLandmarksButton.click()
    assert is_placing()
    click_in_view(*POINTS[1])
    assert not is_placing() and count("vtkMRMLMarkupsFiducialNode") == 1


def test_use_landmarks_leaves_place_mode(source: Any, ui: Any) -> None:
    click_in_view(*POINTS[0])
    ui.useLandmarksButton.click()
    assert ui.statusLabel.text.startswith("1 of 3 landmarks are placed.")
    assert not is_placing()


def test_leaving_the_module_or_the_ultrasound_leaves_place_mode(source: Any, panel: Any, ui: Any) -> None:
    panel.exit()
    assert not is_placing()
    ui.placeLandmarksButton.click()
    assert is_placing()
    ui.inputSelector.setCurrentNode(add_head("Another"))
    assert not is_placing()


def test_place_mode_of_another_node_is_not_ended(source: Any, panel: Any) -> None:
    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    slicer.mrmlScene.GetNodeByID("vtkMRMLSelectionNodeSingleton").SetActivePlaceNodeID(other.GetID())
    panel.exit()
    assert is_placing()


# --- nodes that are deleted


def test_result_does_not_become_the_ultrasound_when_that_is_deleted(panel: Any, ui: Any) -> None:
    head = add_head()
    add_result(head)
    slicer.mrmlScene.RemoveNode(head)
    assert ui.inputSelector.currentNode() is None
    slicer.app.processEvents()
    assert ui.inputSelector.currentNode() is None and panel.panel._parameters.inputVolume is None
    assert not ui.runButton.enabled
    new = add_head("Another head")
    spin_until(lambda: ui.inputSelector.currentNode() is new, 5)
    assert ui.runButton.enabled


def test_another_ultrasound_is_chosen_when_the_chosen_one_is_deleted(panel: Any, ui: Any) -> None:
    first = add_head("First")
    add_result(first)
    second = add_head("Second")
    slicer.mrmlScene.RemoveNode(first)
    assert ui.inputSelector.currentNode() is second
    assert not panel.panel._parameters.inputConfirmed


@pytest.mark.parametrize(
    ("selector", "kind"),
    [
        ("outputSelector", "vtkMRMLScalarVolumeNode"),
        ("alignmentSelector", "vtkMRMLLinearTransformNode"),
        ("fixedSelector", "vtkMRMLScalarVolumeNode"),
        ("respaceSelector", "vtkMRMLScalarVolumeNode"),
    ],
)
def test_no_other_node_is_chosen_when_the_chosen_one_is_deleted(selector: str, kind: str, ui: Any) -> None:
    add_head()
    chosen = slicer.mrmlScene.AddNewNodeByClass(kind, "Chosen")
    slicer.mrmlScene.AddNewNodeByClass(kind, "Of another patient")
    box = getattr(ui, selector)
    box.setCurrentNode(chosen)
    assert box.currentNode() is chosen
    slicer.mrmlScene.RemoveNode(chosen)
    assert box.currentNode() is None


def test_status_is_cleared_when_the_scene_is_closed(panel: Any, ui: Any) -> None:
    add_head()
    play(panel, "copy")
    spin_until(lambda: is_idle(ui))
    assert ui.statusLabel.text.startswith("Done: ")
    slicer.mrmlScene.Clear(False)
    slicer.app.processEvents()
    assert ui.statusLabel.text == "Not for diagnosis: the images are synthetic."


# --- models from outside


def test_declined_model_opens_no_dialog_until_it_is_chosen_again(
    panel: Any, ui: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialogs: list[str] = []
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text, *_: dialogs.append(text) and False)
    add_head()

    def run() -> None:
        play(panel, "foreign")
        spin_until(lambda: is_idle(ui))
        slicer.app.processEvents()

    run()
    declined = (
        "The model 'foreign' has not been trusted yet. You chose not to run it. Choose another model under "
        "Advanced, or choose this one again to confirm it."
    )
    assert len(dialogs) == 1 and ui.statusLabel.text == declined
    run()
    assert len(dialogs) == 1 and ui.statusLabel.text == declined
    ui.modelComboBox.activated.emit(ui.modelComboBox.currentIndex)  # the same one, by hand
    run()
    assert len(dialogs) == 2
    ui.modelComboBox.setCurrentText("another")
    run()
    assert len(dialogs) == 3


# --- names


@pytest.mark.parametrize("which", [layout.LAYOUT_ID, layout.PLANES_LAYOUT_ID])
def test_view_names_differ_in_narrow_views(which: int) -> None:
    labels = [
        element.text
        for element in ElementTree.fromstring(layout.layout_description(which)).iter("property")
        if element.get("name") == "viewlabel"
    ]
    assert len(labels) in (3, 9) and len(set(labels)) == 3
    assert [legible_name(label, 300) for label in labels] == labels


def test_masks_carry_the_mark_wherever_slicer_exports_them(panel: Any, ui: Any) -> None:
    from USMRISynthesisScene.nodes.masks import SEGMENTATION_ROLE

    add_head("A name of a patient and of an examination that is longer than a DICOM series description may be")
    play(panel, "copy")
    spin_until(lambda: is_idle(ui))
    output = slicer.mrmlScene.GetNodeByID(panel.panel._last_output_id)
    segmentation = output.GetNodeReference(SEGMENTATION_ROLE)
    assert nodes.SYNTHETIC in segmentation.GetName()[:64]  # SeriesDescription
    segments = segmentation.GetSegmentation()
    names = [segments.GetNthSegment(index).GetName() for index in range(segments.GetNumberOfSegments())]
    assert len(names) == 2 and all("SYNTHETIC" in name[:64] for name in names)  # SegmentLabel


def test_load_volume_explains_kretz_files_as_well(module: Any, tmp_path: Path) -> None:
    (tmp_path / "head.vol").write_bytes(b"KRETZFILE 1.0   " + bytes(40))
    with pytest.raises(RuntimeError, match=r"head\.vol is a GE Kretz volume.*Install the extension SlicerHeart"):
        slicer.util.loadVolume(str(tmp_path / "head.vol"))


# --- start-up

_CHECK = """
from USMRISynthesisScene.views import layout
assert host.app.layoutManager().layoutLogic().GetLayoutNode().IsLayoutDescription(layout.LAYOUT_ID)
"""
_START = """
import builtins, json, sys, time, types
sys.path[:0] = {paths}
from slicer_standin import start
host = start()
sys.modules["SampleData"] = types.SimpleNamespace(SampleDataLogic=types.SimpleNamespace(
    registerCustomSampleDataCategory=lambda *a, **k: None, registerCustomSampleDataSource=lambda **k: None))
imported, plain = set(), builtins.__import__
def noting(name, globals=None, locals=None, fromlist=(), level=0):
    if "USMRISynthesis/USMRISynthesis" in str((globals or {{}}).get("__file__", "")):
        imported.add(name)
        imported.update(f"{{name}}.{{one}}" for one in fromlist or ())
    return plain(name, globals, locals, fromlist, level)
builtins.__import__ = noting
host.load_module(__import__("pathlib").Path({module!r}))
host.app.startupCompleted.emit()
at_start = sorted(imported)
import slicer
{then}
print(json.dumps({{"start": at_start, "then": sorted(imported - set(at_start))}}))
"""


def _start_up(then: str) -> dict[str, list[str]]:
    """Names that the module imports at the start of Slicer and afterwards, in a new process."""
    script = _START.format(
        paths=[str(REPOSITORY / "Testing"), str(REPOSITORY / "USMRISynthesis")],
        then=then,
        module=str(REPOSITORY / "USMRISynthesis" / "USMRISynthesis.py"),
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "then",
    [
        "slicer.mrmlScene.AddNewNodeByClass('vtkMRMLScalarVolumeNode')",
        "slicer.mrmlScene.SetSceneXMLString('<MRML></MRML>'); slicer.mrmlScene.SetLoadFromXMLString(1); "
        "slicer.mrmlScene.Import()",
    ],
    ids=["a volume", "a scene"],
)
def test_start_up_imports_little_and_marking_starts_with_the_first_image(then: str) -> None:
    imports = _start_up(f"{then}\n{_CHECK}")
    light = {"__future__", "logging", "pathlib", "sys", "time", "typing", "qt", "slicer", "vtk", "SampleData"}
    loaded_at_start = {"USMRISynthesisScene.setup.startup", "USMRISynthesisScene.files.sample_data"}
    assert loaded_at_start <= set(imports["start"])
    assert [
        name
        for name in imports["start"]
        if name.partition(".")[0] not in light and not any(f"{name}.".startswith(f"{one}.") for one in loaded_at_start)
    ] == []
    assert {"USMRISynthesisScene.views.marking", "USMRISynthesisScene.files.saving", "numpy"} <= set(imports["then"])
