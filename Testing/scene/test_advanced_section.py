"""The Advanced section: model and planes, the state of PyTorch, the device, and instructions without network."""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import qt
import slicer
from scenery import PICTURES, add_frame, add_head, is_idle, leftovers, play, scene_state, spin_until
from slicer_standin.file_reader import drop_file
from USMRISynthesisLib.models import store
from USMRISynthesisScene.files.export import provenance_of
from USMRISynthesisScene.panel.model_choice import planes_to_run
from USMRISynthesisScene.setup import offline, torch_install
from USMRISynthesisScene.setup.torch_install import TorchState


def test_device_and_its_reason_are_shown_after_a_run(panel: Any, ui: Any) -> None:
    assert ui.deviceReasonLabel.text == "After a run, the device that was used and the reason are shown here."
    add_head()
    play(panel, "copy")
    spin_until(lambda: is_idle(ui))
    assert ui.deviceReasonLabel.text == "Last run on cpu. No GPU is used: this is a test."


def test_gestational_age_is_a_choice_that_the_scene_keeps(panel: Any, ui: Any, host: Any, module: Any) -> None:
    assert ui.ageSpinBox.text == "unknown"
    add_head()
    play(panel, "copy")
    spin_until(lambda: is_idle(ui))
    made = slicer.util.getNode("Fetal head MR-like*")
    assert provenance_of(made)["alignment"]["gestational_age_weeks"] is None
    ui.ageSpinBox.value = 27.5
    assert ui.ageSpinBox.text == "27.5 weeks"
    node = panel.logic.getParameterNode()
    assert node.gestationalAge == 27.5
    ui.outputSelector.setCurrentNode(made)
    play(panel, "copy")
    assert not ui.ageSpinBox.enabled  # not under a running job
    spin_until(lambda: is_idle(ui))
    assert ui.ageSpinBox.enabled
    assert provenance_of(made)["alignment"]["gestational_age_weeks"] == 27.5


def test_installed_torch_is_named_and_needs_no_hint(ui: Any) -> None:
    assert ui.torchLabel.text == f"PyTorch {importlib.metadata.version('torch')} is installed."
    assert not ui.offlineButton.enabled


def test_module_opens_and_explains_itself_without_torch(
    host: Any, module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    widget = host.open_module(module)
    try:
        ui = widget.ui
        assert ui.statusLabel.text.startswith(
            "Not for diagnosis: the images are synthetic.\nPyTorch is not installed. Install the PyTorch extension"
        )
        ui.offlineButton.click()
        assert "pip download" in ui.logTextBox.plainText
        widget.parent.resize(420, 1000)
        ui.advancedCollapsibleButton.collapsed = False
        widget.parent.show()
        for _ in range(6):  # until the collapsed sections have shrunk
            slicer.app.processEvents()
        PICTURES.mkdir(parents=True, exist_ok=True)
        widget.parent.grab().save(str(PICTURES / "panel-without-torch.png"))
    finally:
        widget.cleanup()
        widget.parent.close()


@pytest.mark.parametrize("extension", [True, False])
def test_old_torch_has_its_own_message_and_changes_nothing(
    extension: bool, panel: Any, ui: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import types

    logic = types.SimpleNamespace(torchInstalled=lambda: True)
    monkeypatch.setitem(
        sys.modules, "PyTorchUtils", types.SimpleNamespace(PyTorchUtilsLogic=lambda: logic) if extension else None
    )
    monkeypatch.setattr(torch_install, "torch_version", lambda: "1.13.1+cpu")
    assert torch_install.torch_state() is TorchState.OLD
    add_head()
    before = scene_state()
    play(panel, "copy")
    assert is_idle(ui)
    assert ui.statusLabel.text == (
        "PyTorch 1.13.1+cpu is too old: 2.1 or later is needed. Uninstall it with the "
        "module PyTorch Utils, restart Slicer and press Synthesize MR."
    )
    assert scene_state() == before and leftovers() == []


@pytest.mark.parametrize(
    ("version", "state"),
    [
        ("2.1.0", TorchState.READY),
        ("2.13.0+cu128", TorchState.READY),
        ("2.0.1", TorchState.OLD),
        ("?", TorchState.READY),
    ],
)
def test_versions_are_compared_as_numbers(version: str, state: TorchState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    monkeypatch.setattr(torch_install, "torch_version", lambda: version)
    assert torch_install.torch_state() is state


def test_offline_hint_names_files_with_their_hashes() -> None:
    for system in ("Windows AMD64", "Darwin arm64"):
        files = offline.offline_files(system, "3.12")
        assert sum(name.startswith("torch-2.") for name in files) == 1
        assert all(re.fullmatch("[0-9a-f]{64}", sha256) for sha256 in files.values())
        hint = offline.offline_hint(system, "3.12")
        assert all(name in hint and sha256 in hint for name, sha256 in files.items())
    other = offline.offline_hint("Linux x86_64", "3.13")
    assert "--platform manylinux_2_28_x86_64" in other and "SHA-256" not in other


def test_kretz_file_names_the_extension_that_reads_it(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = sys.modules["USMRISynthesis"]
    (tmp_path / "head.vol").write_bytes(b"KRETZFILE 1.0   " + bytes(40))
    (tmp_path / "other.vol").write_bytes(b"something else")
    messages = drop_file(python, tmp_path / "head.vol")
    assert messages is not None and len(messages) == 1 and messages[0].startswith("head.vol is a GE Kretz volume")
    assert "Install the extension SlicerHeart" in messages[0]
    assert drop_file(python, tmp_path / "other.vol") is None
    monkeypatch.setattr(slicer.modules, "kretzfilereader", object(), raising=False)
    assert drop_file(python, tmp_path / "head.vol") is None  # SlicerHeart is there


def choices(box: Any) -> list[str]:
    return [box.itemText(index) for index in range(box.count)]


def choose(box: Any, index: int) -> None:
    """Choose an item of the list as a click does."""
    box.currentIndex = index
    box.activated.emit(index)


@pytest.fixture
def of_three_planes(panel: Any, ui: Any, three_planes: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A panel whose user has chosen a model folder by its button."""
    slicer.app.userSettings().remove("USMRISynthesis")
    monkeypatch.setattr(qt.QFileDialog, "getExistingDirectory", lambda *_: str(three_planes))
    ui.modelFolderButton.click()
    return panel.logic.getParameterNode()


def test_offered_planes_are_those_of_the_chosen_model(of_three_planes: Any, ui: Any, model: Path) -> None:
    box = ui.planesComboBox
    assert ui.modelLabel.text == (
        "three, version 0. Not part of the installation: you must confirm once that it may run."
    )
    assert choices(box) == ["Axial", "Coronal", "Sagittal", "All three combined"]
    assert box.enabled and "a third of the time" in box.toolTip
    assert of_three_planes.planes == "all" and box.currentText == "All three combined"  # by default
    ui.modelComboBox.setCurrentText(str(model))
    assert choices(box) == ["Axial"] and not box.enabled
    assert box.toolTip == "This model supports one plane only."
    assert planes_to_run(of_three_planes) == "axial"
    ui.modelFolderButton.click()
    assert box.currentText == "All three combined" and planes_to_run(of_three_planes) == "all"  # it was kept


def test_chosen_planes_reach_the_result_and_the_next_scene(of_three_planes: Any, panel: Any, ui: Any) -> None:
    add_head()
    choose(ui.planesComboBox, 2)
    of_three_planes.showComparison = False
    ui.runButton.click()
    assert not ui.planesComboBox.enabled and not ui.modelFolderButton.enabled  # not under a running job
    spin_until(lambda: is_idle(ui))
    assert ui.planesComboBox.enabled
    assert provenance_of(slicer.util.getNode("Fetal head MR-like*"))["planes"] == "sagittal"
    slicer.mrmlScene.Clear(False)
    assert panel.logic.getParameterNode().planes == "sagittal" and ui.planesComboBox.currentText == "Sagittal"


def test_a_frame_has_one_plane(of_three_planes: Any, ui: Any) -> None:
    choose(ui.planesComboBox, 3)
    add_frame()
    assert ui.planesComboBox.currentText == "Axial" and not ui.planesComboBox.enabled
    assert ui.planesComboBox.toolTip == "A frame is a single slice: there is no plane to choose."
    assert of_three_planes.planes == "all"


def test_unusable_model_is_reported_before_a_run(panel: Any, ui: Any, model: Path, tmp_path: Path) -> None:
    ui.modelComboBox.setCurrentText("nonsense")
    remedy = " Choose default, paper, or a folder of your own with a manifest.json in it."
    assert ui.modelLabel.text == "There is no model 'nonsense'." + remedy
    ui.modelComboBox.setCurrentText("spacing")
    assert ui.modelLabel.text == "The model spacing is made for another task." + remedy
    (tmp_path / "manifest.json").write_text("{}")
    ui.modelComboBox.setCurrentText(str(tmp_path))
    assert ui.modelLabel.text.startswith("The model's manifest.json is malformed")
    manifest = json.loads((model / "manifest.json").read_text()) | {"support": {"file": "s.pt", "sha256": "0" * 64}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    panel.panel.advanced.read_model()  # as the next run does
    assert ui.modelLabel.text.endswith("It provides a reliability map.")
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"caution": "The inside is invented."}))
    panel.panel.advanced.read_model()
    assert "The inside is invented." in ui.modelLabel.text


def test_caution_of_the_papers_model_is_shown_before_a_run(panel: Any, ui: Any) -> None:
    ui.modelComboBox.setCurrentText("paper")
    assert ui.modelLabel.text.startswith("paper, version 1.")
    assert "the inside of the head is largely invented" in ui.modelLabel.text


def test_model_list_has_models_for_synthesis_only_and_a_cancelled_choice_changes_nothing(
    panel: Any, ui: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choices(ui.modelComboBox)[:2] == ["default", "paper"]
    assert not {"spacing", "alignment", "content", "frames"} & set(choices(ui.modelComboBox))
    monkeypatch.setattr(qt.QFileDialog, "getExistingDirectory", lambda *_: "")
    before = ui.modelComboBox.currentText
    ui.modelFolderButton.click()
    assert ui.modelComboBox.currentText == before


def test_module_opens_and_explains_itself_without_models(
    host: Any, module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slicer.app.userSettings().remove("USMRISynthesis")
    monkeypatch.setattr(store, "bundled_folders", lambda: [tmp_path])
    widget = host.open_module(module)
    try:
        assert widget.ui.statusLabel.text == (
            "Not for diagnosis: the images are synthetic.\nThere is no model 'default'. Install the extension again, "
            "or choose a folder of your own with a manifest.json in it."
        )
        assert choices(widget.ui.modelComboBox) == ["default"]
    finally:
        widget.cleanup()
        widget.parent.close()
