"""Head outline and landmarks stay on the head when the ultrasound gets, changes, hardens or loses its parent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
import vtk
from scenery import PICTURES, add_head, add_result, put_under_a_transform
from scipy import ndimage
from slicer_standin.slice_view import write_png
from USMRISynthesisLib.geometry.landmarks import similarity_from_landmarks
from USMRISynthesisScene.files import export
from USMRISynthesisScene.nodes import companions, manual_alignment, nodes
from USMRISynthesisScene.nodes.outline import OUTLINE_ROLE, alignment_of, show_outline
from USMRISynthesisScene.views import layout

# Of an oblique, anisotropic, left-handed grid around (12, -7, 30).
SPACING, SHAPE = (3.0, 1.5, 2.0), (32, 80, 56)
DIRECTIONS = np.array([[-0.8, 0.6, 0], [0.6, 0.8, 0], [0, 0, 1.0]]) @ np.array(
    [[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]]
)
FRONT, BACK, TOP = np.array([12.0, 37, 30]), np.array([12.0, -51, 30]), np.array([12.0, -3, 63])


@pytest.fixture(autouse=True)
def together() -> Iterator[None]:
    companions.keep_together()
    yield
    slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)


@pytest.fixture
def head() -> Any:
    """An ultrasound with landmarks, the alignment from them, and the outline."""
    source = add_head(spacing=SPACING, shape=SHAPE, directions=DIRECTIONS)
    landmarks = manual_alignment.landmarks_of(source)
    for index, point in enumerate((FRONT, BACK, TOP)):
        landmarks.SetNthControlPointPositionWorld(index, *point)
    show_outline(source, nodes.read_transform(manual_alignment.align_by_landmarks(source)))
    return source


def transform(matrix: np.ndarray, parent: Any = None) -> Any:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    node.SetAndObserveTransformNodeID(parent.GetID() if parent is not None else None)
    return node


def pose(degrees: float, *shift: float) -> np.ndarray:
    angle, matrix = np.deg2rad(degrees), np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[:3, 3] = shift
    return matrix


FIRST, SECOND = pose(30, 40, -20, 5), pose(-50, 3, 60, -12)


def image_of(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def outline_points(source: Any) -> np.ndarray:
    """In the world."""
    node = source.GetNodeReference(OUTLINE_ROLE)
    to_world = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(node.GetParentTransformNode(), None, to_world)
    points = slicer.util.arrayFromModelPoints(node)[::211]
    return np.array([to_world.TransformPoint(point) for point in points])


def landmark_points(source: Any) -> np.ndarray:
    landmarks = source.GetNodeReference(manual_alignment.LANDMARKS_ROLE)
    return np.array(slicer.util.arrayFromMarkupsControlPoints(landmarks, world=True))


def assert_moved(source: Any, before: tuple[np.ndarray, np.ndarray], matrix: np.ndarray) -> None:
    np.testing.assert_allclose(outline_points(source), image_of(matrix, before[0]), atol=1e-3)
    np.testing.assert_allclose(landmark_points(source), image_of(matrix, before[1]), atol=1e-6)


@pytest.fixture
def before(head: Any) -> tuple[np.ndarray, np.ndarray]:
    return outline_points(head), landmark_points(head)


def test_they_follow_when_a_parent_is_set_changed_moved_and_removed(head: Any, before: Any) -> None:
    first, second = transform(FIRST), transform(SECOND)
    head.SetAndObserveTransformNodeID(first.GetID())
    assert_moved(head, before, FIRST)
    head.SetAndObserveTransformNodeID(second.GetID())
    assert_moved(head, before, SECOND)
    second.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(FIRST @ SECOND))
    assert_moved(head, before, FIRST @ SECOND)
    head.SetAndObserveTransformNodeID(None)
    assert_moved(head, before, np.eye(4))


def test_they_follow_nested_parents(head: Any, before: Any) -> None:
    outer = transform(FIRST)
    inner = transform(SECOND, outer)
    head.SetAndObserveTransformNodeID(inner.GetID())
    assert_moved(head, before, FIRST @ SECOND)
    inner.SetAndObserveTransformNodeID(None)
    assert_moved(head, before, SECOND)


@pytest.mark.parametrize("nested", [False, True])
def test_hardening_keeps_them_on_the_head_and_the_alignment_correct(nested: bool, head: Any, before: Any) -> None:
    outer = transform(FIRST) if nested else None
    head.SetAndObserveTransformNodeID(transform(SECOND, outer).GetID())
    moved = FIRST @ SECOND if nested else SECOND
    grid = nodes.grid_of(head)
    head.HardenTransform()
    np.testing.assert_allclose(nodes.grid_of(head), moved @ grid, atol=1e-6)
    assert_moved(head, before, moved)
    alignment = next(
        node for node in slicer.util.getNodesByClass("vtkMRMLLinearTransformNode") if nodes.source_of(node) is head
    )
    again = show_outline(head, alignment_of(head, alignment))  # as ticking the box again does
    assert again is head.GetNodeReference(OUTLINE_ROLE)
    assert_moved(head, before, moved)


def test_corrected_voxel_size_is_not_mistaken_for_hardening(head: Any, before: Any) -> None:
    head.SetAndObserveTransformNodeID(transform(FIRST).GetID())
    head.SetSpacing(2.0, 1.6, 3.0)
    head.SetAndObserveTransformNodeID(None)
    assert_moved(head, before, np.eye(4))


def test_hardening_by_a_nonlinear_parent_moves_them_with_the_image(head: Any, before: Any) -> None:
    points = vtk.vtkPoints(), vtk.vtkPoints()
    for place in np.array(np.meshgrid([-80, 100], [-100, 90], [-50, 110])).reshape(3, -1).T:
        points[0].InsertNextPoint(place)
        points[1].InsertNextPoint(place + np.array([0.1 * place[1], 4, 0.0005 * place[0] * place[1]]))
    bend = vtk.vtkThinPlateSplineTransform()
    bend.SetBasisToR()
    bend.SetSourceLandmarks(points[0])
    bend.SetTargetLandmarks(points[1])
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode")
    node.SetAndObserveTransformToParent(bend)
    head.SetAndObserveTransformNodeID(node.GetID())
    bent = [np.array([bend.TransformPoint(point) for point in one]) for one in before]
    np.testing.assert_allclose(landmark_points(head), bent[1], atol=1e-6)
    head.HardenTransform()
    np.testing.assert_allclose(landmark_points(head), bent[1], atol=1e-6)
    np.testing.assert_allclose(outline_points(head), bent[0], atol=1e-3)


@pytest.mark.parametrize("quietly", [False, True])
def test_they_stay_together_when_the_parent_is_deleted_and_with_the_next_one(
    quietly: bool, head: Any, before: Any
) -> None:
    first = transform(FIRST)
    head.SetAndObserveTransformNodeID(first.GetID())
    slicer.mrmlScene.RemoveNode(first)
    if quietly:  # as where no event of the volume tells of it
        companions._companions._volumes[head].parent_id = first.GetID()  # type: ignore[union-attr]
    assert_moved(head, before, np.eye(4))
    head.SetAndObserveTransformNodeID(transform(SECOND).GetID())
    assert_moved(head, before, SECOND)


def test_landmarks_under_another_transform_of_the_user_stay_there(head: Any) -> None:
    own = transform(SECOND)
    landmarks = head.GetNodeReference(manual_alignment.LANDMARKS_ROLE)
    landmarks.SetAndObserveTransformNodeID(own.GetID())
    head.SetAndObserveTransformNodeID(transform(FIRST).GetID())
    assert landmarks.GetTransformNodeID() == own.GetID()


def test_landmarks_of_an_older_scene_keep_their_world_positions_under_the_parent(head: Any) -> None:
    companions.stop_keeping()  # as before: the parent came, the landmarks stayed at the top level
    head.SetAndObserveTransformNodeID(transform(FIRST).GetID())
    companions.keep_together()
    places = landmark_points(head)
    landmarks = manual_alignment.landmarks_of(head)
    assert landmarks.GetTransformNodeID() == head.GetTransformNodeID()
    np.testing.assert_allclose(landmark_points(head), places, atol=1e-6)


def test_hardened_result_keeps_its_canonical_pose_and_the_outline_its_place(head: Any, before: Any) -> None:
    from USMRISynthesisLib.io.volume import Volume

    to_canonical = similarity_from_landmarks(FRONT, BACK, TOP)
    voxels = slicer.util.arrayFromVolume(head).astype(np.int16)
    output = nodes.write_result(nodes.Result(Volume(voxels, nodes.grid_of(head)), to_canonical, {}), head)
    canonical = output.GetNodeReference(nodes.TRANSFORM_ROLE)
    reached = to_canonical @ nodes.grid_of(output)
    output.SetAndObserveTransformNodeID(transform(FIRST).GetID())
    output.HardenTransform()
    np.testing.assert_allclose(nodes.read_transform(canonical) @ nodes.grid_of(output), reached, atol=1e-6)
    np.testing.assert_allclose(alignment_of(head, canonical), to_canonical, atol=1e-9)
    head.SetAndObserveTransformNodeID(transform(SECOND).GetID())
    head.HardenTransform()
    show_outline(head, alignment_of(head, canonical))
    assert_moved(head, before, SECOND)


def test_sharing_the_transform_of_the_result_moves_them_too(panel: Any, ui: Any, head: Any, before: Any) -> None:
    output = add_result(head)
    panel.logic.getParameterNode().outputVolume = output
    output.SetAndObserveTransformNodeID(transform(FIRST).GetID())
    ui.shareTransformButton.click()
    assert "Fetal head head outline, Fetal head landmarks" in ui.statusLabel.text
    assert_moved(head, before, FIRST)


def test_captures_show_the_outline_on_the_skull_after_the_parent_has_changed() -> None:
    head = add_head()
    landmarks = manual_alignment.landmarks_of(head)
    for index, point in enumerate((FRONT, BACK, TOP)):
        landmarks.SetNthControlPointPositionWorld(index, *point)
    show_outline(head, nodes.read_transform(manual_alignment.align_by_landmarks(head)))
    output = add_result(head)

    def captured() -> np.ndarray:
        layout.leave_comparison()
        return export.capture_views(output)["Ultrasound"].astype(int)

    def on_the_skull(picture: np.ndarray) -> float:
        """Share of the outline's pixels that are not further than 6 pixels from bright bone."""
        yellow = picture[..., 0] - picture[..., 2] > 60
        assert 0.003 < yellow.mean() < 0.1
        bone = ndimage.binary_dilation(picture.min(axis=2) > 180, iterations=6)
        return float(bone[yellow].mean())

    before = captured()
    put_under_a_transform(head)
    output.SetAndObserveTransformNodeID(head.GetTransformNodeID())  # the views are fitted to the result's head
    after = captured()
    write_png(PICTURES / "outline-under-another-parent.png", [before.astype(np.uint8), after.astype(np.uint8)])
    assert on_the_skull(before) > 0.95 and on_the_skull(after) > 0.95
    assert np.abs(before - after).mean() > 5  # a quarter turn it is


def test_saved_scene_keeps_them_together(head: Any, before: Any, tmp_path: Path) -> None:
    head.SetAndObserveTransformNodeID(transform(FIRST).GetID())
    name = head.GetName()
    slicer.mrmlScene.WriteToMRB(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear(False)
    slicer.mrmlScene.ReadFromMRB(str(tmp_path / "scene.mrb"), True)
    loaded = slicer.util.getNode(name)
    assert_moved(loaded, before, FIRST)
    loaded.SetAndObserveTransformNodeID(transform(SECOND).GetID())
    assert_moved(loaded, before, SECOND)


def test_nothing_is_observed_after_the_end(head: Any) -> None:
    running = companions._companions
    companions.stop_keeping()
    assert running is not None and not running._volumes
    head.SetAndObserveTransformNodeID(transform(FIRST).GetID())
    assert head.GetNodeReference(OUTLINE_ROLE).GetTransformNodeID() is None
    companions.keep_together()
    assert companions._companions is not None and head in companions._companions._volumes
    slicer.mrmlScene.RemoveNode(head)
    assert head not in companions._companions._volumes
