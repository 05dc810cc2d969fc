"""Colour images, voxel sizes and sequences in the Inputs section."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
from scenery import PICTURES, add_head, head_array, ijk_to_ras, is_idle, play, scene_state, spin_until
from USMRISynthesisScene.files.export import provenance_of
from USMRISynthesisScene.nodes import conversion, nodes


def add_colour(tint: bool = False, channels: int = 3) -> Any:
    grey = head_array()
    colours = np.stack([grey] * channels, axis=-1)
    if tint:
        colours[20:24, 28:32, 20:34, 0], colours[20:24, 28:32, 20:34, 2] = 250, 20
    node = slicer.util.addVolumeFromArray(colours, name="Screen", nodeClassName="vtkMRMLVectorVolumeNode")
    node.SetSpacing(2, 2, 2)
    node.SetOrigin(5, 6, 7)
    return node


def test_colour_is_refused_with_a_remedy(panel: Any, ui: Any) -> None:
    add_colour()
    before = scene_state()
    assert not ui.inputsCollapsibleButton.collapsed
    assert ui.inputSummaryLabel.text.endswith("This is a colour image: convert it to greyscale first.")
    play(panel, "copy")
    assert ui.statusLabel.text == (
        "Screen is in colour or has 3 values at each voxel. Convert it to greyscale: "
        "the button is in the section Inputs."
    )
    assert scene_state() == before


@pytest.mark.parametrize("channels", [3, 4])
def test_grey_picture_in_colour_is_converted_in_place(channels: int, panel: Any, ui: Any) -> None:
    colour = add_colour(channels=channels)
    parent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    colour.SetAndObserveTransformNodeID(parent.GetID())
    ui.greyscaleButton.click()
    made = ui.inputSelector.currentNode()
    assert made.GetName() == "Screen greyscale"
    assert ui.statusLabel.text == "Screen greyscale was made and selected."
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(made), head_array())
    np.testing.assert_allclose(ijk_to_ras(made), ijk_to_ras(colour))
    assert made.GetTransformNodeID() == parent.GetID()
    assert not ui.greyscaleButton.enabled
    play(panel, "copy")
    spin_until(lambda: is_idle(ui))
    assert ui.statusLabel.text.startswith("Done")


def test_doppler_is_refused(panel: Any, ui: Any) -> None:
    add_colour(tint=True)
    before = scene_state()
    ui.greyscaleButton.click()
    assert ui.statusLabel.text == (
        "0.1 % of the image are in colour, like Doppler or an overlay. Switch colour and "
        "overlays off on the scanner and export the B-mode image again."
    )
    assert scene_state() == before


@pytest.mark.parametrize(
    ("spacing", "complaint"),
    [(1.0, "It seems to carry no voxel size."), (0.01, "That does not fit a fetal head."), (0.5, "")],
)
def test_impossible_voxel_size_is_noticed_and_corrected(spacing: float, complaint: str, ui: Any) -> None:
    node = slicer.util.addVolumeFromArray(np.full((40, 300, 300), 7, np.uint8), name="Bare")
    node.SetSpacing(spacing, spacing, 2 * spacing if spacing != 1 else 1)
    assert conversion.spacing_complaint(node) == complaint
    assert ui.inputSummaryLabel.text.endswith(complaint or "mm.")
    if complaint:
        ui.spacingSpinBox.value = 0.4
        ui.spacingButton.click()
        assert node.GetSpacing() == pytest.approx((0.4, 0.4, 0.8 if spacing != 1 else 0.4))
        assert conversion.spacing_complaint(node) == ""
        assert ui.inputSummaryLabel.text.startswith("Volume of 300 x 300 x 40 voxels of 0.4 x 0.4")
        assert ui.statusLabel.text == "The voxel size of Bare was changed."


def test_impossible_number_is_refused() -> None:
    with pytest.raises(conversion.Refused, match="must be a positive number of millimetres"):
        conversion.correct_spacing(add_head(), 0.0)


def add_sequence(count: int = 3) -> tuple[Any, Any]:
    """A proxy volume of heads of different brightness, and its browser."""
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "Heads")
    sequence.SetIndexName("time")
    sequence.SetIndexUnit("s")
    frame = add_head("Frame")
    for index in range(count):
        slicer.util.updateVolumeFromArray(frame, (head_array() // (index + 1)).astype(np.uint8))
        sequence.SetDataNodeAtValue(frame, str(index))
    slicer.mrmlScene.RemoveNode(frame)
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "Browser")
    browser.AddSynchronizedSequenceNode(sequence)
    proxy = browser.GetProxyNode(sequence)
    if proxy is None:
        proxy = browser.AddProxyNode(sequence.GetNthDataNode(0), sequence)
    return proxy, browser


def test_one_frame_of_a_sequence_is_a_plain_volume(panel: Any, ui: Any) -> None:
    proxy, browser = add_sequence()
    ui.inputSelector.setCurrentNode(proxy)
    assert ui.allFramesCheckBox.enabled
    assert ui.allFramesCheckBox.text == "All 3 frames of the sequence"
    play(panel, "copy")
    spin_until(lambda: is_idle(ui))
    assert browser.GetNumberOfSynchronizedSequenceNodes(True) == 1


def test_all_frames_become_a_sequence_under_the_same_browser(panel: Any, ui: Any) -> None:
    proxy, browser = add_sequence()
    ui.inputSelector.setCurrentNode(proxy)
    ui.allFramesCheckBox.checked = True
    play(panel, "copy")
    assert ui.statusLabel.text.startswith("Starting")
    spin_until(lambda: is_idle(ui))
    assert ui.statusLabel.text.startswith("Done: ")
    output = slicer.mrmlScene.GetNodeByID(panel.panel._last_output_id)
    made = browser.GetSequenceNode(output)
    assert made.GetNumberOfDataNodes() == 3
    assert (made.GetIndexName(), made.GetIndexUnit()) == ("time", "s")
    assert nodes.is_synthetic(made.GetNthDataNode(2))
    for index in (2, 0, 1):
        browser.SetSelectedItemNumber(index)
        slicer.app.moduleLogic("Sequences").UpdateProxyNodesFromSequences(browser)
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(output), slicer.util.arrayFromVolume(proxy))
        assert slicer.util.arrayFromVolume(output).max() == 255 // (index + 1)
    assert nodes.source_of(output) is proxy


def test_sequence_is_not_written_into_a_chosen_volume(panel: Any, ui: Any) -> None:
    proxy, _browser = add_sequence(2)
    ui.inputSelector.setCurrentNode(proxy)
    ui.allFramesCheckBox.checked = True
    chosen = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Chosen")
    ui.outputSelector.setCurrentNode(chosen)
    play(panel, "copy")
    spin_until(lambda: is_idle(ui))
    assert chosen.GetImageData() is None and ui.outputSelector.currentNode() is None
    assert panel.panel._comparable() is slicer.mrmlScene.GetNodeByID(panel.panel._last_output_id)


def test_all_frames_use_the_chosen_planes(panel: Any, ui: Any, three_planes: Path) -> None:
    proxy, _browser = add_sequence(2)
    ui.inputSelector.setCurrentNode(proxy)
    ui.allFramesCheckBox.checked = True
    panel.logic.getParameterNode().planes = "coronal"
    play(panel, str(three_planes))
    spin_until(lambda: is_idle(ui))
    output = slicer.mrmlScene.GetNodeByID(panel.panel._last_output_id)
    assert provenance_of(output)["planes"] == "coronal"


@pytest.mark.parametrize("part", ["sequence", "browser"])
def test_status_reports_a_sequence_that_was_removed_during_the_run(part: str, panel: Any, ui: Any) -> None:
    proxy, browser = add_sequence()
    ui.inputSelector.setCurrentNode(proxy)
    ui.allFramesCheckBox.checked = True
    gone = browser if part == "browser" else browser.GetSequenceNode(proxy)
    name = gone.GetName()
    play(panel, "copy")
    slicer.mrmlScene.RemoveNode(gone)
    spin_until(lambda: is_idle(ui))
    assert ui.statusLabel.text == f"{name} was removed while it was worked on. Nothing was added to the scene."
    assert slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") == [proxy]


def test_cancelled_sequence_leaves_nothing(panel: Any, ui: Any) -> None:
    proxy, _browser = add_sequence()
    ui.inputSelector.setCurrentNode(proxy)
    ui.allFramesCheckBox.checked = True
    panel.logic.getParameterNode().showComparison = False
    panel.logic.getParameterNode().inputConfirmed = True
    before = scene_state()
    play(panel, "slow")
    spin_until(lambda: ui.progressBar.value >= 7)
    assert ui.statusLabel.text.startswith("Frame 1 of 3, Synthesising: ")
    ui.runButton.click()
    assert is_idle(ui)
    assert scene_state() == before


def test_inputs_section_is_readable(panel: Any, ui: Any) -> None:
    add_colour()
    panel.parent.resize(420, 620)
    for _ in range(3):
        slicer.app.processEvents()
    panel.parent.grab().save(str(PICTURES / "panel-inputs.png"))
