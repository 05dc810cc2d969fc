"""What the user sees and clicks, with a scripted worker in place of the networks."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import slicer
from scenery import PICTURES, add_frame, add_head, is_idle, leftovers, own_processes, play, scene_state, spin_until
from USMRISynthesisScene.runs.worker_process import WorkerProcess


def test_module_names_itself_and_warns(module: Any) -> None:
    assert module.title == "USMRISynthesis"
    assert module.categories == ["Image Synthesis"]
    assert "not for diagnosis" in module.helpText
    assert not module.icon.isNull()


def test_nothing_can_be_started_without_a_volume(ui: Any) -> None:
    assert not ui.runButton.enabled
    assert ui.runButton.toolTip == "Select an ultrasound volume first."


def test_first_volume_is_chosen_and_the_output_is_new_by_default(panel: Any, ui: Any) -> None:
    source = add_head()
    assert ui.inputSelector.currentNode() is source
    assert ui.outputSelector.currentNode() is None
    assert ui.runButton.enabled
    assert panel.logic.getParameterNode().inputVolume is source


def test_label_maps_are_not_offered(ui: Any) -> None:
    import numpy as np

    slicer.util.addVolumeFromArray(np.zeros((4, 5, 6), np.uint8), nodeClassName="vtkMRMLLabelMapVolumeNode")
    assert ui.inputSelector.nodeCount() == 0


def test_choices_are_kept_in_the_parameter_node(panel: Any, ui: Any) -> None:
    ui.deviceComboBox.currentIndex = 1
    ui.modelComboBox.setCurrentText("/a/model")
    ui.showComparisonCheckBox.checked = False
    parameters = panel.logic.getParameterNode()
    assert (parameters.device, parameters.model, parameters.showComparison) == ("cpu", "/a/model", False)
    parameters.device = "cuda"
    assert ui.deviceComboBox.currentText == "cuda"


def test_run_button_turns_into_cancel_while_it_runs(panel: Any, ui: Any) -> None:
    add_head()
    play(panel, "slow")
    spin_until(lambda: ui.progressBar.value >= 20)
    assert ui.runButton.text == "Cancel"
    assert ui.progressBar.visible
    assert ui.statusLabel.text.startswith("Synthesising: 2")
    assert not ui.inputSelector.enabled
    ui.runButton.click()
    assert is_idle(ui)
    assert ui.inputSelector.enabled
    assert not ui.progressBar.visible


def test_cancelled_run_leaves_the_scene_and_the_machine_as_they_were(panel: Any, ui: Any) -> None:
    add_head("One")
    chosen = add_head("Two")
    ui.inputSelector.setCurrentNode(chosen)
    panel.logic.getParameterNode().showComparison = False
    ui.modelComboBox.setCurrentText("family")
    before = scene_state()
    ui.runButton.click()
    spin_until(lambda: ui.progressBar.value >= 20)
    spin_until(lambda: len(own_processes()) == 2)  # the worker, and a child of its own
    ui.runButton.click()
    assert scene_state() == before
    assert ui.inputSelector.currentNode() is chosen
    spin_until(lambda: leftovers() == [])
    assert ui.statusLabel.text == "Cancelled. Nothing was changed."


def test_killed_worker_is_reported_and_the_next_run_works(panel: Any, ui: Any) -> None:
    add_head()
    play(panel, "slow")
    spin_until(lambda: ui.progressBar.value >= 20)
    before = scene_state()
    os.kill(panel.logic.synthesizer._worker.pid, signal.SIGKILL)
    spin_until(lambda: is_idle(ui))
    assert "ended before it was done" in ui.statusLabel.text
    assert "Run it again" in ui.statusLabel.text
    assert not ui.advancedCollapsibleButton.collapsed  # the log is shown
    assert scene_state() == before
    play(panel, "copy")
    spin_until(lambda: is_idle(ui))
    assert ui.statusLabel.text.startswith("Done: Fetal head MR-like (SYNTHETIC")


def test_refused_input_shows_its_message(panel: Any, ui: Any) -> None:
    add_head()
    before = scene_state()
    play(panel, "refuse")
    spin_until(lambda: is_idle(ui))
    assert ui.statusLabel.text == "The image is 5 mm wide. Correct the spacing."
    assert scene_state() == before
    panel.parent.grab().save(str(PICTURES / "panel-refused.png"))


def test_crash_shows_the_last_output_of_the_worker(panel: Any, ui: Any) -> None:
    add_head()
    play(panel, "exit 3")
    spin_until(lambda: is_idle(ui))
    assert "exit code 3" in ui.statusLabel.text
    assert "something broke" in ui.logTextBox.plainText


def test_worker_that_cannot_be_started_is_reported(panel: Any, ui: Any) -> None:
    panel.logic.synthesizer._worker = WorkerProcess("/no/such/PythonSlicer")
    add_head()
    play(panel, "copy")
    spin_until(lambda: is_idle(ui))
    assert "could not be started" in ui.statusLabel.text


def test_closing_the_scene_stops_the_run(panel: Any, ui: Any) -> None:
    add_head()
    play(panel, "slow")
    spin_until(lambda: ui.progressBar.value >= 20)
    slicer.mrmlScene.Clear(False)
    assert is_idle(ui)
    spin_until(lambda: leftovers() == [])
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0
    add_head("Next")
    spin_until(lambda: ui.runButton.enabled)
    play(panel, "copy")
    spin_until(lambda: is_idle(ui))
    assert ui.statusLabel.text.startswith("Done: Next MR-like")


def test_closing_the_panel_stops_the_run(host: Any, module: Any) -> None:
    widget = host.open_module(module)
    widget.logic.synthesizer._worker = WorkerProcess(
        sys.executable, [str(Path(__file__).with_name("scripted_worker.py"))]
    )
    add_head()
    play(widget, "slow")
    spin_until(lambda: widget.ui.progressBar.value >= 20)
    widget.cleanup()
    spin_until(lambda: leftovers() == [])


def test_missing_torch_is_explained_and_starts_nothing(panel: Any, ui: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from USMRISynthesisScene.setup import torch_install

    monkeypatch.setattr(torch_install, "torch_state", lambda: torch_install.TorchState.NO_EXTENSION)
    add_head()
    play(panel, "copy")
    assert is_idle(ui)
    assert ui.statusLabel.text == (
        "PyTorch is not installed. Install the PyTorch extension in the Extensions Manager and restart Slicer."
    )
    assert leftovers() == []


@pytest.mark.parametrize("answer", [True, False], ids=["trusted", "declined"])
def test_foreign_model_runs_only_after_consent(
    panel: Any, ui: Any, answer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialogs: list[str] = []
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text, *_: dialogs.append(text) or answer)
    add_head()
    play(panel, "foreign")
    spin_until(lambda: bool(dialogs))
    spin_until(lambda: is_idle(ui))
    assert "not been trusted" in dialogs[0]
    assert ui.statusLabel.text.startswith("Done" if answer else "The model 'foreign'")


def test_head_that_is_not_found_is_refused_and_leads_to_the_alignment(panel: Any, ui: Any) -> None:
    add_head()
    before = scene_state()
    play(panel, "doubt")
    spin_until(lambda: is_idle(ui))
    assert ui.statusLabel.text == (
        "The head was not found reliably (score 0.20; 0.50 is needed). Under Alignment, place three landmarks or "
        "choose a transform; or tick the box there to continue anyway."
    )
    assert not ui.alignmentCollapsibleButton.collapsed and ui.advancedCollapsibleButton.collapsed
    assert scene_state() == before
    panel.parent.resize(420, 700)
    for _ in range(4):
        slicer.app.processEvents()
    panel.parent.grab().save(str(PICTURES / "panel-unreliable.png"))


def test_frame_without_a_brain_is_refused_and_leads_to_the_box_that_allows_it(panel: Any, ui: Any) -> None:
    add_frame()
    before = scene_state()
    play(panel, "abdomen")
    spin_until(lambda: is_idle(ui))
    assert ui.statusLabel.text == (
        "The frame does not look like an ultrasound of a fetal brain (probability 0.02). Choose an ultrasound of the "
        "fetal brain; or tick the box under Alignment to continue anyway."
    )
    assert not ui.alignmentCollapsibleButton.collapsed and ui.advancedCollapsibleButton.collapsed
    assert scene_state() == before
    ui.unreliableCheckBox.checked = True
    play(panel, "abdomen")
    spin_until(lambda: is_idle(ui))
    assert ui.statusLabel.text.startswith("Done") and ui.statusLabel.text.endswith("does not look like a brain.")


def test_unreliable_result_is_reported_as_unreliable(panel: Any, ui: Any) -> None:
    add_head()
    ui.unreliableCheckBox.checked = True
    play(panel, "doubt")
    spin_until(lambda: is_idle(ui))
    assert ui.statusLabel.text.endswith("The skull fits poorly.")


def test_reopened_module_keeps_its_choices(panel: Any, ui: Any) -> None:
    add_head("One")
    second = add_head("Two")
    ui.inputSelector.setCurrentNode(second)
    panel.enter()
    assert ui.inputSelector.currentNode() is second


def test_panel_shows_everything_uncut(panel: Any, ui: Any) -> None:
    add_head()
    PICTURES.mkdir(parents=True, exist_ok=True)
    ui.advancedCollapsibleButton.collapsed = False
    play(panel, "copy")
    spin_until(lambda: is_idle(ui))
    spin_until(lambda: ui.advancedCollapsibleButton.height > 150)
    panel.parent.grab().save(str(PICTURES / "panel.png"))
    for name in ("runButton", "compareButton", "inputSelectorLabel", "alignmentSelectorLabel"):
        widget = getattr(ui, name)
        assert widget.width >= widget.fontMetrics().horizontalAdvance(widget.text), name
    assert ui.statusLabel.height >= ui.statusLabel.heightForWidth(ui.statusLabel.width)
    play(panel, "slow")
    spin_until(lambda: ui.progressBar.value >= 20)
    panel.parent.grab().save(str(PICTURES / "panel-running.png"))
    ui.runButton.click()
