"""Three planes, the 3D view, the reliability map and the square at the mouse, compared as pictures."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
from scenery import PICTURES, add_frame, add_head, add_result, is_idle, play, spin_until
from slicer_standin.slice_view import leave_mouse, move_mouse, picture_of, picture_of_3d, scroll, write_png
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisScene.files.export import provenance_of
from USMRISynthesisScene.nodes import nodes
from USMRISynthesisScene.runs.worker_process import WorkerProcess
from USMRISynthesisScene.views import layout, marking

VIEWS = ("One plane", "Three planes", "One plane and 3D")


@pytest.fixture(autouse=True)
def marks() -> Iterator[None]:
    marking.keep_marked()
    yield
    slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)


@pytest.fixture
def done(panel: Any, ui: Any) -> Any:
    """A panel with a finished result and its reliability map."""
    source = add_head()
    ui.makeReliabilityCheckBox.checked = True
    play(panel, "copy")
    spin_until(lambda: is_idle(ui))
    output = slicer.mrmlScene.GetNodeByID(panel.panel._last_output_id)
    slicer.util.updateVolumeFromArray(output, slicer.util.arrayFromVolume(add_result(source)))
    support = output.GetNodeReference(nodes.RELIABILITY_ROLE)
    slicer.util.updateVolumeFromArray(support, (slicer.util.arrayFromVolume(source) > 60).astype(np.float32))
    return output


def choose(ui: Any, name: str) -> None:
    index = VIEWS.index(name)
    ui.viewsComboBox.currentIndex = index
    ui.viewsComboBox.activated.emit(index)


def view(role: str, plane: str = "Axial") -> Any:
    return slicer.app.layoutManager().sliceWidget(layout.view_tag(role, plane))


def is_marked(one: Any) -> bool:
    return nodes.SYNTHETIC in [one.cornerAnnotation().GetText(place) for place in range(8)]


def test_three_planes_show_three_sections_each_linked_in_its_own_group(done: Any, ui: Any) -> None:
    assert [ui.viewsComboBox.itemText(index) for index in range(ui.viewsComboBox.count)] == list(VIEWS)
    choose(ui, "Three planes")
    roles = (layout.ULTRASOUND, layout.FUSED, layout.MR)
    pictures = {(role, plane): picture_of(view(role, plane)) for plane in layout.PLANES for role in roles}
    rows = [np.hstack([pictures[role, plane] for role in roles]) for plane in layout.PLANES]
    write_png(PICTURES / "three-planes.png", [np.vstack(rows)])
    for one in pictures.values():
        assert one.std() > 10 and 0.15 < (one.max(axis=2) > 40).mean() < 0.98
    for role in roles:
        for first, second in (("Axial", "Coronal"), ("Coronal", "Sagittal"), ("Axial", "Sagittal")):
            assert np.abs(pictures[role, first].astype(int) - pictures[role, second]).mean() > 3
    groups = {plane: {view(role, plane).mrmlSliceNode().GetViewGroup() for role in roles} for plane in layout.PLANES}
    assert [len(one) for one in groups.values()] == [1, 1, 1] and len(set.union(*groups.values())) == 3
    for role, plane in pictures:
        composite = view(role, plane).mrmlSliceCompositeNode()
        assert composite.GetLinkedControl() and composite.GetHotLinkedControl()
        assert is_marked(view(role, plane).sliceView()) is (role != layout.ULTRASOUND)


def test_fade_and_contours_reach_all_planes(done: Any, ui: Any) -> None:
    choose(ui, "Three planes")
    ui.fadeSlider._spin.setValue(0.9)
    ui.contourCheckBox.click()
    for plane in layout.PLANES:
        composite = view(layout.FUSED, plane).mrmlSliceCompositeNode()
        assert abs(composite.GetForegroundOpacity() - 0.9) < 1e-6 and composite.GetLabelVolumeID()
        assert view(layout.MR, plane).mrmlSliceCompositeNode().GetLabelVolumeID() is None


def test_frame_has_one_plane_for_every_choice(panel: Any, ui: Any) -> None:
    frame = add_frame()
    panel.logic.getParameterNode().inputVolume = frame
    panel.logic.getParameterNode().outputVolume = add_result(frame)
    choose(ui, "Three planes")
    assert layout.planes_shown() == ("Axial",)


def test_back_leaves_every_comparison_layout(done: Any, ui: Any) -> None:
    manager = slicer.app.layoutManager()
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView)
    for name in VIEWS:
        choose(ui, name)
        assert layout.is_shown() and ui.backButton.enabled
    ui.backButton.click()
    assert manager.layout == slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView


def test_3d_view_shows_the_mr_like_image_marked(done: Any, ui: Any) -> None:
    choose(ui, "One plane and 3D")
    widget = slicer.app.layoutManager().threeDWidget(layout.SPACE)
    picture = picture_of_3d(widget)
    write_png(PICTURES / "rendering.png", [np.hstack([picture_of(view(layout.MR)), picture])])
    assert is_marked(widget.threeDView())
    assert 0.1 < (picture.max(axis=2) > 30).mean() < 0.95
    display = slicer.app.moduleLogic("VolumeRendering").GetFirstVolumeRenderingDisplayNode(done)
    display.GetVolumePropertyNode().GetVolumeProperty().SetShade(False)
    display.GetVolumePropertyNode().SetName("The user's own")
    choose(ui, "One plane")
    assert not display.GetVisibility()
    choose(ui, "One plane and 3D")  # what the user has set up is not replaced
    assert display.GetVisibility() and display.GetVolumePropertyNode().GetName() == "The user's own"


def test_status_names_missing_volume_rendering(done: Any, ui: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(slicer.app._logics, "VolumeRendering", None)
    choose(ui, "One plane and 3D")
    assert ui.statusLabel.text.startswith("The module Volume Rendering is not available. Switch it on")
    assert layout.is_shown()


def test_reliability_map_lies_in_green_over_the_ultrasound_only(done: Any, ui: Any) -> None:
    ui.compareButton.click()
    before = {role: picture_of(view(role)) for role in (layout.ULTRASOUND, layout.FUSED, layout.MR)}
    ui.reliabilityCheckBox.click()
    after = picture_of(view(layout.ULTRASOUND))
    write_png(PICTURES / "support.png", [before[layout.ULTRASOUND], after])
    green = after[..., 1].astype(int) - after[..., 0]
    assert 0.05 < (green > 30).mean() < 0.8
    for role in (layout.FUSED, layout.MR):
        assert np.array_equal(picture_of(view(role)), before[role])
    assert view(layout.ULTRASOUND).mrmlSliceCompositeNode().GetLinkedControl()
    ui.reliabilityCheckBox.click()
    assert np.array_equal(picture_of(view(layout.ULTRASOUND)), before[layout.ULTRASOUND])


@pytest.mark.parametrize("shown", ["One plane", "Three planes"])
def test_fading_changes_the_fused_views_only(shown: str, done: Any, ui: Any) -> None:
    choose(ui, shown)
    ui.reliabilityCheckBox.click()
    others = {
        (role, plane): (
            view(role, plane).mrmlSliceCompositeNode().GetForegroundOpacity(),
            picture_of(view(role, plane)),
        )
        for role in (layout.ULTRASOUND, layout.MR)
        for plane in layout.planes_shown()
    }
    assert {opacity for opacity, _picture in others.values()} == {0.0, 0.4}
    for linked, hot in ((True, True), (True, False), (False, False), (False, True)):
        for widget in layout.comparison_widgets(layout.ULTRASOUND, layout.FUSED, layout.MR):
            widget.mrmlSliceCompositeNode().SetLinkedControl(linked)
            widget.mrmlSliceCompositeNode().SetHotLinkedControl(hot)
        for share in (0.0, 1.0):
            ui.fadeSlider._spin.setValue(share)
            for plane in layout.planes_shown():
                assert view(layout.FUSED, plane).mrmlSliceCompositeNode().GetForegroundOpacity() == share
            for (role, plane), (opacity, picture) in others.items():
                assert view(role, plane).mrmlSliceCompositeNode().GetForegroundOpacity() == opacity
                assert np.array_equal(picture_of(view(role, plane)), picture)


def test_slicer_s_own_fade_in_one_view_does_not_change_the_reliability_map(done: Any, ui: Any) -> None:
    ui.compareButton.click()
    ui.reliabilityCheckBox.click()
    before = {role: picture_of(view(role)) for role in (layout.ULTRASOUND, layout.MR)}
    for role, opacity in ((layout.FUSED, 0.0), (layout.MR, 0.75), (layout.FUSED, 1.0)):
        view(role).sliceController().setForegroundOpacity(opacity)
        assert view(role).mrmlSliceCompositeNode().GetForegroundOpacity() == opacity
        assert view(layout.ULTRASOUND).mrmlSliceCompositeNode().GetForegroundOpacity() == 0.4
        for one, picture in before.items():
            assert np.array_equal(picture_of(view(one)), picture)


def test_reliability_map_keeps_its_opacity_in_a_scene_that_was_loaded(done: Any, ui: Any, panel: Any) -> None:
    """The mask that keeps the layers apart is not saved with a scene."""
    ui.compareButton.click()
    ui.reliabilityCheckBox.click()
    for role in (layout.ULTRASOUND, layout.FUSED, layout.MR):
        view(role).mrmlSliceCompositeNode().ResetInteractionFlagsModifier()
    panel.panel.refresh()
    view(layout.FUSED).sliceController().setForegroundOpacity(1.0)
    assert view(layout.ULTRASOUND).mrmlSliceCompositeNode().GetForegroundOpacity() == 0.4
    for role in (layout.ULTRASOUND, layout.FUSED, layout.MR):
        view(role).mrmlSliceCompositeNode().ResetInteractionFlagsModifier()
    ui.fadeSlider._spin.setValue(0.25)
    assert view(layout.ULTRASOUND).mrmlSliceCompositeNode().GetForegroundOpacity() == 0.4


def test_unreliable_parts_are_covered_in_the_mr_like_view(panel: Any, ui: Any) -> None:
    source = add_head()
    ui.makeReliabilityCheckBox.checked = True
    play(panel, "copy")
    spin_until(lambda: is_idle(ui))
    output = slicer.mrmlScene.GetNodeByID(panel.panel._last_output_id)
    grey = slicer.util.arrayFromVolume(add_result(source)).copy()
    reliability = np.full(grey.shape, 0.95, np.float32)
    half = grey.shape[2] // 2
    reliability[..., :half] = 0.05
    provenance = {"support": {"meaning": "probability", "sha256": "0"}}
    result = nodes.Result(
        Volume(grey, nodes.read_volume(source).ijk_to_ras),
        np.eye(4),
        provenance,
        Volume(reliability, nodes.read_volume(source).ijk_to_ras),
    )
    nodes.write_result(result, source, output)
    ui.compareButton.click()
    before = {role: picture_of(view(role)) for role in (layout.ULTRASOUND, layout.FUSED, layout.MR)}
    ui.reliabilityCheckBox.click()
    after = picture_of(view(layout.MR))
    write_png(PICTURES / "support-probability.png", [before[layout.MR], after])
    changed = (after.astype(int) != before[layout.MR]).any(axis=-1)
    red = (after[..., 0].astype(int) - after[..., 2] > 30) & (after[..., 0] > after[..., 1])
    assert 0.05 < changed.mean() < 0.6 and (red | ~changed).mean() > 0.97
    for role in (layout.ULTRASOUND, layout.FUSED):
        assert np.array_equal(picture_of(view(role)), before[role])
    assert "probably wrong" in ui.reliabilityCheckBox.toolTip
    ui.reliabilityCheckBox.click()
    assert np.array_equal(picture_of(view(layout.MR)), before[layout.MR])


def test_tooltip_explains_how_to_get_a_missing_reliability_map(panel: Any, ui: Any) -> None:
    add_head()
    play(panel, "copy")
    spin_until(lambda: is_idle(ui))
    assert not ui.reliabilityCheckBox.enabled
    assert ui.reliabilityCheckBox.toolTip == 'Tick "Add the reliability map" under Output and synthesize again.'


def test_square_at_the_mouse_shows_the_mr_like_image_alone(done: Any, ui: Any) -> None:
    ui.compareButton.click()
    ui.fadeSlider._spin.setValue(0.0)
    fused, mr = picture_of(view(layout.FUSED)), picture_of(view(layout.MR))
    ui.revealCheckBox.click()
    move_mouse(view(layout.FUSED), 160, 130)
    seen = picture_of(view(layout.FUSED))
    write_png(PICTURES / "reveal.png", [fused, seen, mr])
    changed = np.abs(seen.astype(int) - fused).max(axis=2) > 8
    rows, columns = np.nonzero(changed)
    middle = (319 - 130, 160)
    assert rows.min() >= middle[0] - 46 and rows.max() <= middle[0] + 46
    assert columns.min() >= middle[1] - 46 and columns.max() <= middle[1] + 46
    window = (slice(middle[0] - 40, middle[0] + 40), slice(middle[1] - 40, middle[1] + 40))
    assert np.abs(seen[window].astype(int) - mr[window]).mean() < 2  # the same pixels as in the MR-like view
    leave_mouse(view(layout.FUSED))
    assert np.array_equal(picture_of(view(layout.FUSED)), fused)


def test_square_at_the_mouse_does_not_take_mouse_events_from_slicer(done: Any, ui: Any) -> None:
    ui.compareButton.click()
    crosshair = slicer.util.getNode("vtkMRMLCrosshairNodedefault")
    moved, places = [0, 0, 0], []
    for _ in range(2):
        move_mouse(view(layout.FUSED), 40, 60)
        move_mouse(view(layout.FUSED), 160, 130)
        crosshair.GetCursorPositionRAS(moved)
        before = view(layout.FUSED).sliceLogic().GetSliceOffset()
        scroll(view(layout.FUSED), 2)
        places.append((list(moved), view(layout.FUSED).sliceLogic().GetSliceOffset() - before))
        scroll(view(layout.FUSED), -2)
        ui.revealCheckBox.click()
    assert places[0][0] == places[1][0] != [0, 0, 0]  # without the square, with it
    assert places[0][1] == places[1][1] != 0
    assert view(layout.MR).sliceLogic().GetSliceOffset() == view(layout.FUSED).sliceLogic().GetSliceOffset()


def test_square_at_the_mouse_stays_within_the_view_and_ends_when_unticked(done: Any, ui: Any) -> None:
    ui.compareButton.click()
    ui.fadeSlider._spin.setValue(0.0)
    fused = picture_of(view(layout.FUSED))
    ui.revealCheckBox.click()
    for place in ((0, 0), (319, 319), (-500, 10), (900, 900)):
        move_mouse(view(layout.FUSED), *place)
        picture_of(view(layout.FUSED))
    ui.revealCheckBox.click()
    move_mouse(view(layout.FUSED), 160, 130)
    assert np.array_equal(picture_of(view(layout.FUSED)), fused)
    ui.revealCheckBox.click()
    slicer.mrmlScene.RemoveNode(done)
    move_mouse(view(layout.FUSED), 100, 100)  # nothing to show, and no exception
    ui.revealCheckBox.click()


def test_model_with_a_reliability_map_needs_consent_once_and_covers_the_mr_like_view(
    panel: Any, ui: Any, three_planes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the real worker and an untrained map, whose probabilities lie near a half."""
    from USMRISynthesisLib.models import store
    from USMRISynthesisLib.synthesis.reliability import ReliabilityNetwork
    from USMRISynthesisLib.training.reliability.export import add_reliability

    folder = tmp_path / "with-map"
    shutil.copytree(three_planes, folder)
    add_reliability(
        {
            "model_sha256": store.read_manifest(folder).sha256,
            "averaged": ReliabilityNetwork().state_dict(),
            "step": 0,
            "cases": [],
            "config": {"learn": ["made"], "calibrate": ["made"], "seed": 0},
        },
        folder,
    )
    dialogs: list[str] = []
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text, *_: dialogs.append(text) or True)
    panel.logic.synthesizer._worker = WorkerProcess()
    add_head()
    ui.modelComboBox.setCurrentText(str(folder))
    assert ui.modelLabel.text.endswith("It provides a reliability map.")
    ui.makeReliabilityCheckBox.checked = ui.unreliableCheckBox.checked = True
    ui.runButton.click()
    spin_until(lambda: ui.reliabilityCheckBox.enabled)
    assert len(dialogs) == 1
    output = panel.panel._comparable()
    reliability = slicer.util.arrayFromVolume(output.GetNodeReference(nodes.RELIABILITY_ROLE))
    assert nodes.is_probability(provenance_of(output)) and 0 < reliability.max() < 1
    # Interpolation would draw a red rim.
    assert not output.GetNodeReference(nodes.RELIABILITY_ROLE).GetDisplayNode().GetInterpolate()
    ui.reliabilityCheckBox.click()
    for role, shown in ((layout.MR, True), (layout.ULTRASOUND, False)):
        overlay = view(role).mrmlSliceCompositeNode().GetForegroundVolumeID()
        assert (overlay == output.GetNodeReferenceID(nodes.RELIABILITY_ROLE)) is shown
