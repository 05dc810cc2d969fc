"""Alignment by hand: the confidence, landmarks, and the outline that follows the transform."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import slicer
from scenery import PICTURES, add_head, is_idle, play, scene_state, spin_until
from slicer_standin.slice_view import picture_of, write_png
from USMRISynthesisLib.geometry.landmarks import similarity_from_landmarks
from USMRISynthesisScene.nodes import manual_alignment, nodes
from USMRISynthesisScene.nodes.outline import OUTLINE_ROLE

# The head of scenery.add_head: centre (12, -7, 30), half axes 34, 44 and 33 mm along R, A, S.
FRONT, BACK, TOP = np.array([12.0, 37, 30]), np.array([12.0, -51, 30]), np.array([12.0, -3, 63])


def place(source: Any, points: Any) -> None:
    landmarks = source.GetNodeReference(manual_alignment.LANDMARKS_ROLE)
    for index, point in enumerate(points):
        landmarks.SetNthControlPointPositionWorld(index, *point)


def test_confidence_is_shown_and_a_low_one_opens_the_section(panel: Any, ui: Any) -> None:
    add_head()
    assert ui.scoreLabel.text == "Confidence: none yet."
    play(panel, "copy")
    spin_until(lambda: is_idle(ui))
    assert ui.scoreLabel.text == "Confidence: 0.90. The head was found."
    assert ui.alignmentCollapsibleButton.collapsed
    ui.unreliableCheckBox.checked = True
    play(panel, "doubt")
    spin_until(lambda: is_idle(ui))
    assert ui.scoreLabel.text.startswith("Confidence: 0.20. The head was not found reliably")
    assert not ui.alignmentCollapsibleButton.collapsed


def test_status_names_missing_landmarks(panel: Any, ui: Any) -> None:
    source = add_head()
    before = scene_state()
    ui.useLandmarksButton.click()
    assert ui.statusLabel.text == (
        "0 of 3 landmarks are placed. Press Place landmarks and click Front, Back and Top of the head in the views."
    )
    assert scene_state() == before
    ui.placeLandmarksButton.click()
    landmarks = source.GetNodeReference(manual_alignment.LANDMARKS_ROLE)
    assert [landmarks.GetNthControlPointLabel(i) for i in range(3)] == ["Front", "Back", "Top"]
    assert landmarks.GetNumberOfDefinedControlPoints() == 0
    ui.useLandmarksButton.click()
    assert ui.statusLabel.text.startswith("0 of 3 landmarks")


@pytest.mark.parametrize(
    ("points", "sentence"),
    [
        ((FRONT, FRONT + 1, TOP), "Front and Back are 2 mm apart, which no fetal head is. Move them"),
        ((FRONT, BACK, FRONT + np.array([0, 5, 1])), "Top lies on the line from Back to Front. Move it"),
    ],
)
def test_impossible_landmarks_change_nothing_and_the_status_says_why(
    points: Any, sentence: str, panel: Any, ui: Any
) -> None:
    source = add_head()
    ui.placeLandmarksButton.click()
    place(source, points)
    before = scene_state()
    ui.useLandmarksButton.click()
    assert ui.statusLabel.text.startswith(sentence)
    assert scene_state() == before and ui.alignmentSelector.currentNode() is None


@pytest.mark.parametrize("moved", [False, True])
def test_landmarks_align_the_next_run(moved: bool, panel: Any, ui: Any) -> None:
    source = add_head()
    shift = np.zeros(3)
    if moved:
        shift = np.array([40.0, -20, 5])
        parent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        matrix = np.eye(4)
        matrix[:3, 3] = shift
        parent.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
        source.SetAndObserveTransformNodeID(parent.GetID())
    ui.placeLandmarksButton.click()
    place(source, [point + shift for point in (FRONT, BACK, TOP)])
    ui.useLandmarksButton.click()
    assert ui.statusLabel.text == "Aligned by landmarks. Press Synthesize MR to use it."
    alignment = ui.alignmentSelector.currentNode()
    assert alignment.GetName() == "Fetal head manual alignment"
    expected = similarity_from_landmarks(FRONT, BACK, TOP)
    np.testing.assert_allclose(nodes.read_transform(alignment), expected, atol=1e-6)
    play(panel, "copy")
    spin_until(lambda: is_idle(ui))
    output = slicer.mrmlScene.GetNodeByID(panel.panel._last_output_id)
    made = nodes.read_transform(output.GetNodeReference(nodes.TRANSFORM_ROLE))
    np.testing.assert_allclose(made, expected, atol=1e-6)


def test_outline_lies_on_the_skull_and_follows_the_transform(panel: Any, ui: Any) -> None:
    source = add_head()
    ui.placeLandmarksButton.click()
    place(source, (FRONT, BACK, TOP))
    ui.useLandmarksButton.click()
    assert ui.outlineCheckBox.checked
    model = source.GetNodeReference(OUTLINE_ROLE)
    bounds = np.zeros(6)
    model.GetRASBounds(bounds)
    assert bounds[2:4] == pytest.approx([-50, 36], abs=1.5)
    red = slicer.app.layoutManager().sliceWidget("Red")
    red.mrmlSliceCompositeNode().SetBackgroundVolumeID(source.GetID())
    red.mrmlSliceNode().SetOrientation("Axial")
    red.sliceLogic().FitSliceToAll()
    red.mrmlSliceNode().JumpSliceByOffsetting(12, -7, 30)
    shown = picture_of(red)
    yellow = (shown[..., 0] > 150) & (shown[..., 2] < 120)
    assert 0.003 < yellow.mean() < 0.1
    matrix = nodes.read_transform(ui.alignmentSelector.currentNode())
    matrix[0, 3] += 10
    ui.alignmentSelector.currentNode().SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    moved = picture_of(red)
    write_png(PICTURES / "outline.png", [shown, moved])
    assert not np.array_equal(shown, moved)
    after = np.zeros(6)
    model.GetRASBounds(after)
    assert after[0] == pytest.approx(bounds[0] - 10, abs=0.1)
    ui.outlineCheckBox.click()
    assert source.GetNodeReference(OUTLINE_ROLE) is None
