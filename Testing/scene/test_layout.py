"""The comparison layout, rendered by real slice views."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import slicer
from scenery import PICTURES, add_frame, add_head, add_result
from slicer_standin.slice_view import picture_of, write_png
from USMRISynthesisScene.views import layout


def pictures() -> list[np.ndarray]:
    manager = slicer.app.layoutManager()
    return [picture_of(manager.sliceWidget(tag)) for tag in (layout.ULTRASOUND, layout.FUSED, layout.MR)]


@pytest.mark.parametrize("kind", ["volume", "oblique", "left-handed", "moved", "frame"])
def test_three_views_show_ultrasound_fused_and_mr(kind: str) -> None:
    rotation = np.array([[0.8, -0.36, 0.48], [0.6, 0.48, -0.64], [0.0, 0.8, 0.6]])
    directions = {"oblique": rotation, "left-handed": np.diag([1, 1, -1.0])}.get(kind)
    source = add_frame() if kind == "frame" else add_head(directions=directions)
    if kind == "moved":
        parent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Probe")
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = rotation, (300, -200, 100)
        parent.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
        source.SetAndObserveTransformNodeID(parent.GetID())
    assert layout.show_comparison(source, add_result(source))
    us, fused, mr = pictures()
    write_png(PICTURES / f"comparison-{kind}.png", [us, fused, mr])
    for picture in (us, fused, mr):
        bright = picture.max(axis=2) > 40
        assert 0.2 < bright.mean() < 0.98  # neither blank nor washed out
        assert picture.std() > 10
        rows, columns = np.nonzero(bright)
        assert abs(rows.mean() / len(picture) - 0.5) < 0.2  # in the middle of the view
        assert abs(columns.mean() / picture.shape[1] - 0.5) < 0.2
    for one, other in ((us, fused), (fused, mr), (us, mr)):
        assert np.abs(one.astype(int) - other).mean() > 5


def test_views_are_linked_and_alone_in_their_group() -> None:
    source = add_head()
    layout.show_comparison(source, add_result(source))
    manager = slicer.app.layoutManager()
    for tag in (layout.ULTRASOUND, layout.FUSED, layout.MR):
        widget = manager.sliceWidget(tag)
        assert widget.mrmlSliceCompositeNode().GetLinkedControl()
        assert widget.mrmlSliceCompositeNode().GetHotLinkedControl()
        assert widget.mrmlSliceNode().GetViewGroup() == layout.VIEW_GROUP
    assert manager.sliceWidget("Red").mrmlSliceNode().GetViewGroup() != layout.VIEW_GROUP


def test_views_lie_in_the_same_plane_and_show_the_same_field() -> None:
    source = add_head()
    layout.show_comparison(source, add_result(source))
    manager = slicer.app.layoutManager()
    slice_nodes = [manager.sliceWidget(tag).mrmlSliceNode() for tag in (layout.ULTRASOUND, layout.FUSED, layout.MR)]
    matrices = [slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS()) for node in slice_nodes]
    np.testing.assert_allclose(matrices[1], matrices[0], atol=1e-6)
    np.testing.assert_allclose(matrices[2], matrices[0], atol=1e-6)
    assert len({tuple(round(one, 3) for one in node.GetFieldOfView()[:2]) for node in slice_nodes}) == 1


def test_views_of_the_user_do_not_change() -> None:
    source = add_head()
    red = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
    red.SetBackgroundVolumeID(source.GetID())
    layout.show_comparison(source, add_result(source))
    assert red.GetBackgroundVolumeID() == source.GetID()
    assert red.GetForegroundVolumeID() is None


def test_comparison_can_be_shown_again_after_another_layout() -> None:
    source = add_head()
    output = add_result(source)
    manager = slicer.app.layoutManager()
    for _ in range(2):
        layout.show_comparison(source, output)
        manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    layout.show_comparison(source, output)
    assert manager.layout == layout.LAYOUT_ID
    assert manager.sliceViewNames() == [layout.ULTRASOUND, layout.FUSED, layout.MR]


def test_without_a_main_window_nothing_is_shown(host: Any) -> None:
    source = add_head()
    host.set_main_window(False)
    try:
        assert layout.show_comparison(source, add_result(source)) is False
    finally:
        host.set_main_window(True)
