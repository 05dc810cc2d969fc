"""Mix-ups that must not happen: another patient chosen, a scene loaded again, a result deleted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
from scenery import add_head, add_result, is_idle, play, spin_until
from USMRISynthesisScene.nodes import conversion, nodes
from USMRISynthesisScene.panel.slots import NO_RESULT
from USMRISynthesisScene.views import layout


@pytest.fixture(autouse=True)
def usual_layout() -> Any:
    yield
    slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)


def run(panel: Any, ui: Any, part: str = "copy") -> Any:
    """The result of the chosen ultrasound."""
    play(panel, part)
    spin_until(lambda: is_idle(ui))
    assert ui.statusLabel.text.startswith("Done"), ui.statusLabel.text
    return slicer.mrmlScene.GetNodeByID(panel.panel._last_output_id)


def result_widgets(ui: Any) -> list[Any]:
    return [
        ui.compareButton,
        ui.viewsComboBox,
        ui.fadeSlider,
        ui.windowComboBox,
        ui.contourCheckBox,
        ui.reportButton,
        ui.captureButton,
        ui.saveButton,
        ui.dicomButton,
        ui.shareTransformButton,
    ]


def can_be_used(ui: Any) -> set[bool]:
    return {widget.enabled for widget in result_widgets(ui)}


def test_another_ultrasound_never_shows_or_exports_the_result_of_the_one_before(panel: Any, ui: Any) -> None:
    first = add_head("Patient A")
    usual = [widget.toolTip for widget in result_widgets(ui)]
    assert can_be_used(ui) == {False} and set(usual) == {NO_RESULT}
    made = run(panel, ui)
    usual = [widget.toolTip for widget in result_widgets(ui)]
    assert can_be_used(ui) == {True} and NO_RESULT not in usual and all(usual)
    second = add_head("Patient B")
    ui.inputSelector.setCurrentNode(second)
    assert can_be_used(ui) == {False} and ui.reportButton.toolTip == NO_RESULT
    other = run(panel, ui)
    assert panel.panel._comparable() is other
    ui.outputSelector.setCurrentNode(made)
    assert panel.panel._comparable() is other  # not even when the output is that of the other one
    ui.inputSelector.setCurrentNode(first)
    assert panel.panel._comparable() is made
    assert [widget.toolTip for widget in result_widgets(ui)] == usual


def test_deleted_result_can_no_longer_be_exported(panel: Any, ui: Any) -> None:
    add_head()
    slicer.mrmlScene.RemoveNode(run(panel, ui))
    spin_until(lambda: can_be_used(ui) == {False}, 20)


def test_result_of_a_loaded_scene_can_be_compared_and_exported(panel: Any, ui: Any, tmp_path: Path) -> None:
    add_head()
    run(panel, ui)
    bundle = str(tmp_path / "case.mrb")
    assert slicer.mrmlScene.WriteToMRB(bundle)
    slicer.mrmlScene.Clear(False)
    assert can_be_used(ui) == {False}
    assert slicer.mrmlScene.ReadFromMRB(bundle, True)
    spin_until(lambda: ui.compareButton.enabled, 20)
    assert can_be_used(ui) == {True}
    ui.compareButton.click()
    shown = slicer.app.layoutManager().sliceWidget(layout.MR).mrmlSliceCompositeNode().GetBackgroundVolumeID()
    assert shown == panel.panel._comparable().GetID()
    ui.exportFolderButton.directory = str(tmp_path)
    ui.saveButton.click()
    assert (tmp_path / "MR-like-SYNTHETIC.nrrd").is_file() and (tmp_path / "MR-like-SYNTHETIC.json").is_file()


def test_alignment_of_another_ultrasound_is_reset(panel: Any, ui: Any) -> None:
    first = add_head("Patient A")
    estimated = run(panel, ui).GetNodeReference(nodes.TRANSFORM_ROLE)
    ui.alignmentSelector.setCurrentNode(estimated)
    panel.panel.refresh()
    assert ui.alignmentSelector.currentNode() is estimated  # its own
    second = add_head("Patient B")
    ui.inputSelector.setCurrentNode(second)
    assert ui.alignmentSelector.currentNode() is None
    assert ui.statusLabel.text == (
        "Patient A to canonical fetal space belongs to Patient A: the alignment is automatic again."
    )
    ui.alignmentSelector.setCurrentNode(estimated)  # chosen by the user
    panel.panel.refresh()
    assert panel.logic.getParameterNode().alignment is estimated
    general = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Anybody's")
    ui.alignmentSelector.setCurrentNode(general)
    ui.inputSelector.setCurrentNode(first)
    assert ui.alignmentSelector.currentNode() is general


def test_gestational_age_of_another_ultrasound_is_reset(panel: Any, ui: Any) -> None:
    add_head("Patient A")
    panel.panel.refresh()
    ui.ageSpinBox.setValue(27.5)
    panel.panel.refresh()
    assert panel.logic.getParameterNode().gestationalAge == 27.5  # its own
    ui.inputSelector.setCurrentNode(add_head("Patient B"))
    assert panel.logic.getParameterNode().gestationalAge == 0
    assert ui.statusLabel.text == "Another ultrasound was chosen: the gestational age was set back to unknown."


def test_synthetic_image_is_refused_as_ultrasound(panel: Any, ui: Any) -> None:
    made = add_result(add_head())
    panel.logic.getParameterNode().inputVolume = made
    play(panel, "copy")
    assert ui.statusLabel.text == (
        f"{made.GetName()} was synthesised itself. Choose the ultrasound that it was made from."
    )


def test_chosen_window_is_applied_to_the_next_result(panel: Any, ui: Any) -> None:
    add_head()
    run(panel, ui)
    ui.windowComboBox.currentIndex = 2
    ui.windowComboBox.activated.emit(2)
    display = run(panel, ui).GetDisplayNode()
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (400.0, 1000.0)


def test_greyscale_copy_remembers_the_dicom_series(panel: Any) -> None:
    grey = np.full((4, 8, 8, 3), 90, np.uint8)
    colour = slicer.util.addVolumeFromArray(grey, nodeClassName="vtkMRMLVectorVolumeNode")
    colour.SetAttribute(nodes.DICOM_UIDS, "1.2.3 1.2.4")
    assert conversion.greyscale_copy(colour).GetAttribute(nodes.DICOM_UIDS) == "1.2.3 1.2.4"


def test_every_widget_that_can_be_used_has_a_tooltip(panel: Any, ui: Any) -> None:
    import ctk
    import qt

    kinds = (
        qt.QPushButton,
        qt.QCheckBox,
        qt.QComboBox,
        qt.QDoubleSpinBox,
        qt.QTableWidget,
        qt.QPlainTextEdit,
        ctk.ctkSliderWidget,
        ctk.ctkDirectoryButton,
        slicer.qMRMLNodeComboBox,
    )
    widgets = [one for one in vars(ui).values() if isinstance(one, kinds)]
    assert len(widgets) > 40 and [one.name for one in widgets if not one.toolTip] == []


def test_tab_goes_through_the_panel_from_top_to_bottom(panel: Any, ui: Any) -> None:
    for name, one in vars(ui).items():
        if name.endswith("CollapsibleButton"):
            one.collapsed = False
    panel.parent.resize(420, 2200)
    for _ in range(6):
        slicer.app.processEvents()
    known = [one for one in vars(ui).values() if type(one).__name__ in ("QPushButton", "QCheckBox", "QComboBox")]
    rows, one = [], ui.runButton
    while (one := one.nextInFocusChain()) is not ui.runButton:
        if any(one is each for each in known):
            rows.append(one.mapTo(panel.parent, one.rect.center()).y())
    assert len(rows) > 25
    start = rows.index(min(rows))  # the chain is closed
    assert rows[start:] + rows[:start] == sorted(rows)
