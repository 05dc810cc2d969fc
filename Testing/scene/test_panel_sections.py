"""Sections, the likely input, the progress line, and the choices that a scene or the user settings keep."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import slicer
from scenery import PICTURES, add_head, is_idle, play, spin_until
from USMRISynthesisScene.nodes import inputs, nodes
from USMRISynthesisScene.panel import settings
from USMRISynthesisScene.panel.progress import ProgressText, time_left

SECTIONS = ("inputs", "output", "display", "alignment", "export", "advanced")


@pytest.fixture(autouse=True)
def forgotten() -> None:
    slicer.app.userSettings().remove("USMRISynthesis")


def add_mr(name: str = "T2 MR brain") -> Any:
    return slicer.util.addVolumeFromArray(np.arange(1000, dtype=np.int16).reshape(10, 10, 10), name=name)


def test_sections_begin_collapsed_and_open(ui: Any) -> None:
    slicer.app.processEvents()
    for name in SECTIONS:
        button = getattr(ui, f"{name}CollapsibleButton")
        assert button.collapsed, name
        button.collapsed = False
        assert ui.logTextBox.visible is (name == "advanced")


def test_opening_the_module_selects_the_likely_ultrasound(panel: Any, ui: Any) -> None:
    mr = add_mr()
    assert ui.inputSelector.currentNode() is mr  # the only one there
    ultrasound = add_head("case 7")
    panel.enter()
    assert ui.inputSelector.currentNode() is ultrasound


def test_a_choice_of_the_user_is_not_replaced(panel: Any, ui: Any) -> None:
    mr = add_mr()
    add_head()
    combo = ui.inputSelector._combo
    combo.activated.emit(combo.findText("T2 MR brain"))  # as a click on that line does
    panel.enter()
    assert ui.inputSelector.currentNode() is mr


@pytest.mark.parametrize(
    ("name", "modality", "likelier"),
    [
        ("US_head", "", True),
        ("T2 brain", "", False),
        ("image", "US", True),
        ("image", "MR", False),
        ("Atlas", "", False),
    ],
)
def test_likelihood_reads_name_and_modality(name: str, modality: str, likelier: bool) -> None:
    plain, one = add_mr("plain"), add_mr(name)
    if modality:
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
        hierarchy.SetItemAttribute(hierarchy.GetItemByDataNode(one), "DICOM.Modality", modality)
    assert (inputs.ultrasound_likelihood(one) > inputs.ultrasound_likelihood(plain)) is likelier


def test_results_are_never_proposed(panel: Any, ui: Any) -> None:
    source = add_head()
    play(panel, "copy")
    spin_until(lambda: is_idle(ui))
    slicer.mrmlScene.RemoveNode(source)
    assert inputs.likely_ultrasound(slicer.mrmlScene) is None


def test_inputs_section_shows_the_size_of_the_image(ui: Any) -> None:
    assert ui.inputSummaryLabel.text == "No image is selected."
    add_head()
    assert ui.inputSummaryLabel.text == "Volume of 56 x 60 x 48 voxels of 2 x 2 x 2 mm: 112 x 120 x 96 mm."


def test_status_shows_stage_percentage_and_time_left() -> None:
    now = [0.0]
    progress = ProgressText(lambda: now[0])
    assert progress.line(0.0, "Checking the image") == "Checking the image: 0 %"
    now[0] = 5
    assert progress.line(0.2, "Synthesising") == "Synthesising: 20 %"  # its pace is not known yet
    now[0] = 15
    assert progress.line(0.4, "Synthesising") == "Synthesising: 40 %, about 30 s left"
    now[0] = 45
    assert progress.line(1.0, "Done") == "Done: 100 %"
    assert [time_left(one) for one in (3, 12, 58, 200)] == [
        "a few seconds left",
        "about 10 s left",
        "about 1 min left",
        "about 3 min left",
    ]


def test_reliability_map_is_made_on_demand(panel: Any, ui: Any) -> None:
    source = add_head()
    play(panel, "copy")
    spin_until(lambda: is_idle(ui))
    output = slicer.mrmlScene.GetNodeByID(panel.panel._last_output_id)
    assert output.GetNodeReference(nodes.RELIABILITY_ROLE) is None
    ui.makeReliabilityCheckBox.checked = True
    play(panel, "copy")
    spin_until(lambda: is_idle(ui))
    output = slicer.mrmlScene.GetNodeByID(panel.panel._last_output_id)
    support = output.GetNodeReference(nodes.RELIABILITY_ROLE)
    assert support.GetName() == "Fetal head reliability map"
    assert support.GetImageData().GetDimensions() == source.GetImageData().GetDimensions()
    assert inputs.likely_ultrasound(slicer.mrmlScene) is source


def test_device_and_model_are_remembered_for_the_next_scene(panel: Any, ui: Any, tmp_path: Any) -> None:
    model = tmp_path / "mine"
    model.mkdir()
    (model / "manifest.json").write_text("{}")  # being there is enough to be proposed
    add_head()
    ui.deviceComboBox.currentIndex = 1
    play(panel, str(model))
    ui.runButton.click()
    slicer.mrmlScene.Clear(False)
    assert ui.deviceComboBox.currentText == "cpu"
    assert ui.modelComboBox.currentText == str(model)


def test_a_missing_model_is_not_proposed(panel: Any, ui: Any) -> None:
    settings.remember("Model", "/no/such/model")
    settings.remember("Device", "abacus")
    slicer.mrmlScene.Clear(False)
    assert (ui.modelComboBox.currentText, ui.deviceComboBox.currentText) == ("default", "auto")


def test_state_is_saved_with_the_scene(panel: Any, ui: Any) -> None:
    add_head("One")
    add_head("Two")
    ui.inputSelector.setCurrentNode(slicer.util.getNode("Two"))
    ui.deviceComboBox.currentIndex = 1
    ui.showComparisonCheckBox.checked = False
    ui.makeReliabilityCheckBox.checked = True
    panel.logic.getParameterNode().planes = "coronal"
    panel.logic.getParameterNode().inputConfirmed = True
    scene = slicer.mrmlScene
    scene.SetSaveToXMLString(1)
    scene.Commit()
    saved = scene.GetSceneXMLString()
    scene.Clear(False)
    assert ui.showComparisonCheckBox.checked
    scene.SetLoadFromXMLString(1)
    scene.SetSceneXMLString(saved)
    scene.Import()
    scene.SetLoadFromXMLString(0)
    scene.SetSaveToXMLString(0)
    spin_until(lambda: ui.inputSelector.currentNode() is panel.logic.getParameterNode().inputVolume)
    assert ui.inputSelector.currentNode().GetName() == "Two"
    assert ui.deviceComboBox.currentText == "cpu"
    assert (ui.showComparisonCheckBox.checked, ui.makeReliabilityCheckBox.checked) == (False, True)
    assert panel.logic.getParameterNode().planes == "coronal"


def test_sections_are_readable(panel: Any, ui: Any) -> None:
    add_head()
    panel.parent.resize(420, 1100)
    for name in SECTIONS:
        getattr(ui, f"{name}CollapsibleButton").collapsed = False
    slicer.app.processEvents()
    slicer.app.processEvents()
    PICTURES.mkdir(parents=True, exist_ok=True)
    panel.parent.grab().save(str(PICTURES / "panel-sections.png"))
    for name in ("inputSummaryLabel",):
        label = getattr(ui, name)
        assert label.height >= label.heightForWidth(label.width), name
