"""The mark in every view that shows a synthetic image, and the Display section: widgets and pictures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import slicer
from scenery import PICTURES, add_frame, add_head, add_result, is_idle, play, spin_until
from slicer_standin.slice_view import picture_of, write_png
from USMRISynthesisScene.nodes import contours, nodes
from USMRISynthesisScene.views import layout, marking


@pytest.fixture(autouse=True)
def marks() -> Iterator[None]:
    marking.keep_marked()
    yield
    slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)


def view(name: str) -> Any:
    return slicer.app.layoutManager().sliceWidget(name)


def is_marked(one: Any) -> bool:
    return nodes.SYNTHETIC in [one.cornerAnnotation().GetText(place) for place in range(8)]


def marked(name: str) -> bool:
    return is_marked(view(name).sliceView())


def show(name: str, volume: Any, layer: str = "Background") -> None:
    getattr(view(name).mrmlSliceCompositeNode(), f"Set{layer}VolumeID")(volume.GetID() if volume else None)


@pytest.mark.parametrize("layer", ["Background", "Foreground", "Label"])
def test_every_view_that_shows_the_image_is_marked(layer: str) -> None:
    source = add_head()
    output = add_result(source)
    shown = contours.contours_of(output) if layer == "Label" else output
    show("Red", source)
    assert not marked("Red")
    show("Red", shown, layer)
    show("Yellow", source)
    assert (marked("Red"), marked("Yellow")) == (True, False)
    show("Red", None, layer)
    assert not marked("Red")


def test_comparison_marks_fused_and_mr_only() -> None:
    source = add_head()
    layout.show_comparison(source, add_result(source))
    assert [marked(name) for name in (layout.ULTRASOUND, layout.FUSED, layout.MR)] == [False, True, True]


def test_mark_is_in_the_pixels_of_a_capture() -> None:
    source = add_head()
    output = add_result(source)
    show("Red", output)
    view("Red").sliceLogic().FitSliceToAll()
    with_mark = picture_of(view("Red"))
    view("Red").sliceView().cornerAnnotation().SetText(7, "")
    difference = np.abs(with_mark.astype(int) - picture_of(view("Red"))).max(axis=2) > 60
    rows, columns = np.nonzero(difference)
    assert len(rows) > 200 and rows.max() < 40  # a line of letters at the upper edge
    assert abs(columns.mean() / with_mark.shape[1] - 0.5) < 0.1
    write_png(PICTURES / "mark.png", [with_mark])


def test_volume_that_becomes_synthetic_while_shown_is_marked() -> None:
    source, other = add_head(), add_head("Other")
    show("Red", other)
    assert not marked("Red")
    nodes.write_result(nodes.Result(nodes.read_volume(source), np.eye(4), {}), source, other)
    assert marked("Red")


def test_mark_survives_a_saved_scene(tmp_path: Any) -> None:
    source = add_head()
    show("Red", add_result(source))
    bundle = str(tmp_path / "case.mrb")
    assert slicer.mrmlScene.WriteToMRB(bundle)
    slicer.mrmlScene.Clear(False)
    assert not marked("Red")
    assert slicer.mrmlScene.ReadFromMRB(bundle, True)
    loaded = slicer.mrmlScene.GetNodeByID(view("Red").mrmlSliceCompositeNode().GetBackgroundVolumeID())
    assert nodes.is_synthetic(loaded)
    assert nodes.source_of(loaded).GetName() == "Fetal head"
    assert marked("Red")


def test_file_that_lost_the_mark_is_recognised_by_its_name() -> None:
    one = add_head("head MR-like (SYNTHETIC - not for diagnosis)")
    show("Red", one)
    assert marked("Red")


def test_3d_view_with_the_rendered_volume_is_marked() -> None:
    output = add_result(add_head())
    three_d = slicer.app.layoutManager().threeDWidget(0).threeDView()
    assert not is_marked(three_d)
    rendering = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLCPURayCastVolumeRenderingDisplayNode")
    output.AddAndObserveDisplayNodeID(rendering.GetID())
    rendering.SetVisibility(True)
    assert is_marked(three_d)
    rendering.SetVisibility(False)
    assert not is_marked(three_d)
    show("Red", output)
    view("Red").mrmlSliceNode().SetSliceVisible(True)
    view("Red").mrmlSliceCompositeNode().Modified()
    assert is_marked(three_d)
    view("Red").mrmlSliceNode().SetSliceVisible(False)


def test_marking_keeps_other_annotations_and_can_stop() -> None:
    annotation = view("Red").sliceView().cornerAnnotation()
    annotation.SetText(7, "other text")
    show("Red", add_head())
    assert annotation.GetText(7) == "other text"
    annotation.SetText(7, "")
    marking.stop_marking()
    show("Red", add_result(add_head("Second")))
    assert not marked("Red")
    marking.keep_marked()
    assert marked("Red")


@pytest.fixture
def done(panel: Any, ui: Any) -> Any:
    """A panel with a finished result."""
    source = add_head()
    play(panel, "copy")
    spin_until(lambda: is_idle(ui))
    output = slicer.mrmlScene.GetNodeByID(panel.panel._last_output_id)
    made = slicer.util.arrayFromVolume(add_result(source))
    slicer.util.updateVolumeFromArray(output, made)
    return output


def test_display_is_disabled_without_a_result(ui: Any) -> None:
    add_head()
    for widget in (ui.fadeSlider, ui.windowComboBox, ui.contourCheckBox, ui.backButton, ui.compareButton):
        assert not widget.enabled, widget.name


def test_fade_slider_blends_the_fused_view(done: Any, ui: Any) -> None:
    ui.compareButton.click()
    faded = []
    for share in (0.0, 0.5, 1.0):
        ui.fadeSlider._spin.setValue(share)
        faded.append(picture_of(view(layout.FUSED)))
    write_png(PICTURES / "fade.png", faded)
    us, mr = picture_of(view(layout.ULTRASOUND)), picture_of(view(layout.MR))
    part = slice(60, 300)  # below the corner texts
    assert np.abs(faded[0][part].astype(int) - us[part]).mean() < 2
    assert np.abs(faded[2][part].astype(int) - mr[part]).mean() < 2
    assert np.abs(faded[1][part].astype(int) - us[part]).mean() > 5


@pytest.mark.parametrize("kind", ["volume", "frame"])
def test_contours_lie_over_the_ultrasound(kind: str, done: Any, ui: Any, panel: Any) -> None:
    if kind == "frame":
        frame = add_frame()
        panel.logic.getParameterNode().inputVolume = frame
        panel.logic.getParameterNode().outputVolume = add_result(frame)
    ui.compareButton.click()
    before = picture_of(view(layout.ULTRASOUND))
    ui.contourCheckBox.click()
    after = picture_of(view(layout.ULTRASOUND))
    write_png(PICTURES / f"contours-{kind}.png", [after, picture_of(view(layout.FUSED)), picture_of(view(layout.MR))])
    coloured = np.ptp(after.astype(int), axis=2) > 60
    assert 0.005 < coloured.mean() < 0.3
    assert not np.array_equal(before, after)
    ui.contourCheckBox.click()
    assert np.array_equal(picture_of(view(layout.ULTRASOUND)), before)
    assert slicer.util.getNodesByClass("vtkMRMLLabelMapVolumeNode") == []


def test_window_preset_changes_the_mr_view_only(done: Any, ui: Any) -> None:
    ui.compareButton.click()
    ultrasound, mr = picture_of(view(layout.ULTRASOUND)), picture_of(view(layout.MR))
    ui.windowComboBox.currentIndex = 2
    ui.windowComboBox.activated.emit(2)
    display = done.GetDisplayNode()
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (400.0, 1000.0)
    assert np.array_equal(picture_of(view(layout.ULTRASOUND)), ultrasound)
    assert picture_of(view(layout.MR)).mean() < mr.mean()


def test_back_button_restores_the_previous_layout(done: Any, ui: Any) -> None:
    manager = slicer.app.layoutManager()
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView)
    ui.compareButton.click()
    ui.compareButton.click()
    assert manager.layout == layout.LAYOUT_ID
    assert ui.backButton.enabled
    ui.backButton.click()
    assert manager.layout == slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView
    assert not ui.backButton.enabled
