"""New comparison views show the middle of the head, filled and not cropped by it, and change nothing else."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import slicer
import vtk
from PySide6 import QtCore
from scenery import PICTURES, add_frame, add_head, add_result, ijk_to_ras, put_under_a_transform
from slicer_standin.slice_view import let_settle, picture_of, resize_view, scroll, write_png
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisScene.files import export
from USMRISynthesisScene.nodes import nodes
from USMRISynthesisScene.views import fit as view_fit
from USMRISynthesisScene.views import layout

ROLES = (layout.ULTRASOUND, layout.FUSED, layout.MR)
ROTATION = np.array([[0.8, -0.36, 0.48], [0.6, 0.48, -0.64], [0.0, 0.8, 0.6]])


@pytest.fixture(autouse=True)
def new_views(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """The state after a start of Slicer, without comparison views. Errors in callbacks fail the test."""
    manager = slicer.app.layoutManager()
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    manager._forget_views()
    yield
    let_settle()
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    assert "Traceback" not in capfd.readouterr().err


def small_head_in_a_large_volume(kind: str) -> tuple[Any, Any]:
    """(ultrasound, MR-like volume): a box of 24 x 40 x 20 mm away from the middle, anisotropic voxels."""
    spacing_kji, shape_kji = np.array([2.0, 1.0, 0.5]), (60, 150, 240)
    directions = {"oblique": ROTATION, "left-handed": np.diag([1.0, 1.0, -1.0])}.get(kind, np.eye(3))
    us = np.random.default_rng(1).integers(20, 90, shape_kji).astype(np.uint8)
    mr = np.zeros(shape_kji, np.int16)
    mr[8:18, 90:130, 30:78] = 700
    us[8:18, 90:130, 30:78] = 200
    source = slicer.util.addVolumeFromArray(us, name="Large")
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = directions * spacing_kji[::-1], (15, -40, 22)
    source.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrix))
    source.CreateDefaultDisplayNodes()
    if kind == "moved":
        put_under_a_transform(source)
    return source, nodes.write_result(nodes.Result(Volume(mr, matrix), np.eye(4), {}), source)


def middle_of(volume: Any, ijk: tuple[float, float, float]) -> np.ndarray:
    """World coordinates of a voxel, parent transforms included."""
    to_world = vtk.vtkMatrix4x4()
    slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(volume.GetParentTransformNode(), None, to_world)
    return (slicer.util.arrayFromVTKMatrix(to_world) @ ijk_to_ras(volume) @ [*ijk, 1.0])[:3]


def view(role: str, plane: str = "Axial") -> Any:
    return slicer.app.layoutManager().sliceWidget(layout.view_tag(role, plane))


def millimetres_per_pixel(widget: Any) -> np.ndarray:
    slice_node = widget.mrmlSliceNode()
    return np.array(slice_node.GetFieldOfView()[:2]) / slice_node.GetDimensions()[:2]


def assert_filled_by_the_head(widget: Any) -> None:
    """The MR-like view: the bright box lies in the middle and fills one direction up to the margin."""
    bright = picture_of(widget)[..., 0] > 100
    bright[:25] = False  # the mark's line
    rows, columns = np.nonzero(bright)
    height, width = bright.shape
    filled = (np.ptp(rows) + 1) / height, (np.ptp(columns) + 1) / width
    assert max(filled) == pytest.approx(1 / view_fit.MARGIN, abs=0.03)
    assert (rows.min() + rows.max()) / 2 == pytest.approx(height / 2, abs=6)
    assert (columns.min() + columns.max()) / 2 == pytest.approx(width / 2, abs=6)


@pytest.mark.parametrize("shown", [layout.LAYOUT_ID, layout.PLANES_LAYOUT_ID, layout.SPACE_LAYOUT_ID])
@pytest.mark.parametrize("kind", ["plain", "oblique", "left-handed", "moved"])
def test_first_showing_is_filled_by_the_head(kind: str, shown: int) -> None:
    source, output = small_head_in_a_large_volume(kind)
    layout.show_comparison(source, output, layout=shown)
    middle, voxel = middle_of(source, (53.5, 109.5, 12.5)), middle_of(source, (53, 109, 12))
    rows = []
    for plane in layout.planes_shown():
        pictures = [picture_of(view(role, plane)) for role in ROLES]
        rows.append(np.hstack(pictures))
        assert_filled_by_the_head(view(layout.MR, plane))
        for role in ROLES:
            to_ras = slicer.util.arrayFromVTKMatrix(view(role, plane).mrmlSliceNode().GetSliceToRAS())
            np.testing.assert_allclose((to_ras[:3, 3] - middle) @ to_ras[:3, :2], 0, atol=1e-6)
            assert (to_ras[:3, 3] - voxel) @ to_ras[:3, 2] == pytest.approx(0, abs=1e-6)  # not between two voxels
            np.testing.assert_allclose(
                millimetres_per_pixel(view(role, plane)), millimetres_per_pixel(view(layout.FUSED, plane))[0], rtol=1e-6
            )
    write_png(PICTURES / f"first-showing-{kind}-{shown - layout.LAYOUT_ID}.png", [np.vstack(rows)])


def test_first_frame_is_filled_by_its_head_in_its_own_plane() -> None:
    frame = add_frame()
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = ROTATION * (0.6, 0.6, 1.0), (70, -30, 5)
    frame.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrix))
    put_under_a_transform(frame)
    mr = np.zeros((1, 200, 180), np.int16)
    mr[0, 20:100, 90:150] = 700
    output = nodes.write_result(nodes.Result(Volume(mr, matrix), np.eye(4), {}), frame)
    layout.show_comparison(frame, output, layout=layout.PLANES_LAYOUT_ID)
    assert_filled_by_the_head(view(layout.MR))
    slice_node = view(layout.MR).mrmlSliceNode()
    to_ras = slicer.util.arrayFromVTKMatrix(slice_node.GetSliceToRAS())
    np.testing.assert_allclose(to_ras[:3, 3], middle_of(frame, (119.5, 59.5, 0)), atol=1e-6)
    right = middle_of(frame, (1, 0, 0)) - middle_of(frame, (0, 0, 0))
    np.testing.assert_allclose(to_ras[:3, 0], right / 0.6, atol=1e-6)
    write_png(PICTURES / "first-showing-frame.png", [picture_of(view(role)) for role in ROLES])


def test_views_of_different_sizes_show_the_head_whole_at_one_zoom() -> None:
    source, output = small_head_in_a_large_volume("plain")
    layout.show_comparison(source, output)
    slicer.app.processEvents()
    for role, size in zip(ROLES, ((318, 441), (300, 441), (200, 441)), strict=True):
        resize_view(view(role), size)
    let_settle()
    zooms = [millimetres_per_pixel(view(role)) for role in ROLES]
    np.testing.assert_allclose(zooms, zooms[0][0], rtol=1e-6)
    assert_filled_by_the_head(view(layout.MR))  # the narrowest decides


def test_one_plane_after_three_fits_again() -> None:
    source, output = small_head_in_a_large_volume("plain")
    layout.show_comparison(source, output, layout=layout.PLANES_LAYOUT_ID)
    let_settle()
    for role in ROLES:
        resize_view(view(role), (318, 140))
    layout.show_comparison(source, output)
    for role in ROLES:
        resize_view(view(role), (150, 441))  # what the layout does, later
    let_settle()
    assert_filled_by_the_head(view(layout.MR))


def test_an_empty_result_is_shown_as_large_as_its_volume() -> None:
    source = add_head()
    empty = Volume(np.zeros((48, 60, 56), np.int16), ijk_to_ras(source))
    layout.show_comparison(source, nodes.write_result(nodes.Result(empty, np.eye(4), {}), source))
    let_settle()
    assert millimetres_per_pixel(view(layout.MR))[0] == pytest.approx(view_fit.MARGIN * 120 / 320)


def test_capture_right_after_opening_shows_what_settled_views_show() -> None:
    source, output = small_head_in_a_large_volume("oblique")
    layout.show_comparison(source, output)
    early = export.capture_views(output)
    let_settle()
    for title, picture in export.capture_views(output).items():
        assert picture.shape == (320, 320, 3)
        np.testing.assert_array_equal(early[title], picture)
    assert_filled_by_the_head(view(layout.MR))


def test_capture_opens_the_views_and_waits_for_them() -> None:
    _source, output = small_head_in_a_large_volume("moved")
    early = export.capture_views(output)
    assert not layout.is_settling()
    np.testing.assert_array_equal(list(early.values())[2], picture_of(view(layout.MR)))
    assert_filled_by_the_head(view(layout.MR))


def test_opening_runs_no_event_loop() -> None:
    """It is called in the signal that ends a run: other events processed there could start or end a run."""
    source, output = small_head_in_a_large_volume("plain")
    events: list[str] = []
    QtCore.QTimer.singleShot(0, lambda: events.append("turn"))
    layout.show_comparison(source, output)
    assert not events and layout.is_settling()


def test_scene_closed_before_the_views_have_settled() -> None:
    layout.show_comparison(*small_head_in_a_large_volume("plain"))
    slicer.mrmlScene.Clear(False)
    let_settle()
    assert not layout.is_settling()


def test_waiting_for_the_views_keeps_no_volume_in_memory() -> None:
    source, output = small_head_in_a_large_volume("plain")
    layout.show_comparison(source, output)
    slicer.mrmlScene.Clear(False)
    volumes = [weakref.ref(source), weakref.ref(output)]
    del source, output
    gc.collect()
    assert [one() for one in volumes] == [None, None]


def test_second_comparison_before_the_first_has_settled_wins() -> None:
    layout.show_comparison(*small_head_in_a_large_volume("plain"))
    source = add_head()
    output = add_result(source)
    layout.show_comparison(source, output)
    let_settle()
    place = slicer.util.arrayFromVTKMatrix(view(layout.MR).mrmlSliceNode().GetSliceToRAS())[:3, 3]
    np.testing.assert_allclose(place, view_fit.head_region(output).centre, atol=1.01)  # mm; half a voxel


def test_other_volume_chosen_before_the_views_have_settled_is_left_alone() -> None:
    source, output = small_head_in_a_large_volume("plain")
    layout.show_comparison(source, output)
    view(layout.MR).mrmlSliceCompositeNode().SetBackgroundVolumeID(source.GetID())
    let_settle()
    assert view(layout.MR).sliceLogic().GetSliceOffset() == 0.0  # Slicer's own doing, not ours to mend
    assert not layout.is_settling()


@pytest.mark.parametrize(
    "leave",
    [
        layout.leave_comparison,
        lambda: slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView),
    ],
    ids=["back", "layout menu"],
)
def test_leaving_before_the_views_have_settled_ends_it(leave: Any) -> None:
    source, output = small_head_in_a_large_volume("plain")
    red = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode()
    before = slicer.util.arrayFromVTKMatrix(red.GetSliceToRAS()).copy()
    layout.show_comparison(source, output)
    leave()
    let_settle()
    assert not layout.is_settling()
    np.testing.assert_array_equal(slicer.util.arrayFromVTKMatrix(red.GetSliceToRAS()), before)


def test_slice_that_the_user_chose_meanwhile_stays() -> None:
    source, output = small_head_in_a_large_volume("plain")
    layout.show_comparison(source, output)
    slicer.app.processEvents()
    assert layout.is_settling()
    middle = view(layout.MR).sliceLogic().GetSliceOffset()
    scroll(view(layout.MR), 2)
    scrolled = view(layout.MR).sliceLogic().GetSliceOffset()
    let_settle()
    assert scrolled != pytest.approx(middle)
    for role in ROLES:
        assert view(role).sliceLogic().GetSliceOffset() == pytest.approx(scrolled)


def test_settled_views_are_not_changed_again() -> None:
    source, output = small_head_in_a_large_volume("plain")
    layout.show_comparison(source, output)
    let_settle()
    slice_node = view(layout.MR).mrmlSliceNode()
    slice_node.SetFieldOfView(11.0, 11.0, 2.0)
    view(layout.MR).sliceLogic().SetSliceOffset(0.0)
    let_settle()
    assert slice_node.GetFieldOfView()[0] == 11.0 and slice_node.GetSliceOffset() == 0.0


def test_showing_again_fits_at_once_and_leaves_nothing_for_later() -> None:
    source, output = small_head_in_a_large_volume("plain")
    layout.show_comparison(source, output)
    let_settle()
    layout.show_comparison(source, output)
    assert not layout.is_settling()
    view(layout.MR).sliceLogic().SetSliceOffset(0.0)  # a script goes on
    let_settle()
    assert view(layout.MR).sliceLogic().GetSliceOffset() == 0.0
