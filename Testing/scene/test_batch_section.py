"""The Batch section: files in, files out, the state of every case in the table, and an unchanged scene."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import slicer
from scenery import PICTURES, add_head, head_array, leftovers, play, scene_state, spin_until
from USMRISynthesisLib.geometry.planes import PLANES
from USMRISynthesisLib.io.volume import Volume


@pytest.fixture
def cohort(panel: Any, ui: Any, tmp_path: Path) -> Path:
    """Three heads in a folder, and the folders chosen in the panel."""
    import numpy as np

    folder = tmp_path / "in"
    (folder / "week 30").mkdir(parents=True)
    for name in ("a.nrrd", "b.nii.gz", "week 30/c.mha"):
        Volume(head_array((12, 15, 14), (8, 8, 8)), np.diag([8.0, 8, 8, 1])).write(folder / name)
    (tmp_path / "out").mkdir()
    ui.batchInputButton.directory = str(folder)
    ui.batchOutputButton.directory = str(tmp_path / "out")
    ui.batchCollapsibleButton.collapsed = False
    return folder


@pytest.fixture(autouse=True)
def any_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accept the behaviours of the scripted worker as model names."""
    import types

    from USMRISynthesisLib.models import store

    monkeypatch.setattr(store, "find_model", Path)
    monkeypatch.setattr(
        store,
        "read_manifest",
        lambda folder: types.SimpleNamespace(
            file="model.pt",
            sha256=str(folder),
            files={},
            task="synthesis",
            name=str(folder),
            version="0",
            extra={},
            input=types.SimpleNamespace(planes=PLANES),
        ),
    )


def start(panel: Any, part: str) -> None:
    panel.ui.modelComboBox.setCurrentText(part)
    panel.ui.batchButton.click()


def states(ui: Any) -> list[str]:
    return [ui.batchTable.item(row, 1).text() for row in range(ui.batchTable.rowCount)]


def is_over(ui: Any) -> bool:
    return ui.batchButton.text == "Run batch"


def test_every_image_of_the_folder_gets_its_result_and_its_state(
    panel: Any, ui: Any, cohort: Path, tmp_path: Path
) -> None:
    add_head()
    before = scene_state()
    start(panel, "copy")
    assert ui.batchButton.text == "Cancel batch" and not ui.batchInputButton.enabled
    assert not ui.runButton.enabled and ui.runButton.toolTip == "Wait for the batch, or cancel it."
    spin_until(lambda: is_over(ui))
    assert ui.statusLabel.text == "3 cases: 3 done."
    assert [ui.batchTable.item(row, 0).text() for row in range(3)] == ["a.nrrd", "b.nii.gz", "week 30/c.mha"]
    assert all(text.startswith("done, ") for text in states(ui))
    assert sorted(path.name for path in (tmp_path / "out").rglob("*-mr.*")) == [
        "a-mr.json",
        "a-mr.nrrd",
        "b-mr.json",
        "b-mr.nrrd",
        "c-mr.json",
        "c-mr.nrrd",
    ]
    assert scene_state() == before and ui.runButton.enabled
    panel.parent.resize(420, 900)
    slicer.app.processEvents()
    PICTURES.mkdir(parents=True, exist_ok=True)
    panel.parent.grab().save(str(PICTURES / "panel-batch.png"))


def test_batch_uses_the_chosen_planes(panel: Any, ui: Any, cohort: Path, tmp_path: Path) -> None:
    panel.logic.getParameterNode().planes = "all"
    start(panel, "copy")
    spin_until(lambda: is_over(ui))
    assert json.loads((tmp_path / "out" / "batch.json").read_text())["settings"]["planes"] == "all"
    assert json.loads((tmp_path / "out" / "a-mr.json").read_text())["planes"] == "all"
    panel.logic.getParameterNode().planes = "axial"
    start(panel, "copy")
    spin_until(lambda: is_over(ui))
    assert ui.statusLabel.text == "3 cases: 3 done."  # results of other slices are none of these


def test_cancelled_batch_continues_with_the_remaining_images(panel: Any, ui: Any, cohort: Path, tmp_path: Path) -> None:
    start(panel, "copy")
    spin_until(lambda: states(ui)[0].startswith("done"))
    spin_until(lambda: states(ui)[1] == "running")
    ui.batchButton.click()
    assert is_over(ui)
    assert ui.statusLabel.text.startswith("Cancelled. Run it again to go on with the rest. 3 cases: 1 done, 1 canc")
    spin_until(lambda: leftovers() == [])
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.name != ".usmri") == [
        "a-mr.json",
        "a-mr.nrrd",
        "batch.json",
    ]
    start(panel, "copy")
    spin_until(lambda: is_over(ui))
    assert states(ui)[0] == "done before" and ui.statusLabel.text == "3 cases: 2 done, 1 kept."


def test_refused_and_crashed_cases_are_reported_and_the_others_continue(
    panel: Any, ui: Any, cohort: Path, tmp_path: Path
) -> None:
    start(panel, "refuse")
    spin_until(lambda: is_over(ui))
    assert set(states(ui)) == {"refused: The image is 5 mm wide. Correct the spacing."}
    start(panel, "exit 3")
    spin_until(lambda: is_over(ui))
    assert all("ended before it was done (exit code 3)" in text for text in states(ui))
    assert json.loads((tmp_path / "out" / "batch.json").read_text())["counts"] == {"failed": 3}


def test_foreign_model_needs_consent_once(panel: Any, ui: Any, cohort: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dialogs: list[str] = []
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text, *_: dialogs.append(text) or True)
    start(panel, "foreign")
    spin_until(lambda: ui.statusLabel.text == "3 cases: 3 done.")
    assert len(dialogs) == 1 and "not been trusted" in dialogs[0]


def test_folder_without_images_is_refused(panel: Any, ui: Any, cohort: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ui.batchInputButton.directory = str(tmp_path / "empty")
    start(panel, "copy")
    assert is_over(ui) and ui.statusLabel.text.startswith("There is no image to synthesise in empty. Give a folder")


def test_folders_that_were_not_chosen_are_not_used(panel: Any, ui: Any, tmp_path: Path) -> None:
    ui.batchInputButton.directory = ui.batchOutputButton.directory = str(tmp_path)
    start(panel, "copy")
    assert is_over(ui)
    assert ui.statusLabel.text == (
        "Both folders are the same. Choose the folder of the images and another one for the results."
    )
    assert list(tmp_path.iterdir()) == []


def test_batch_continues_when_the_scene_is_closed_and_ends_with_the_panel(panel: Any, ui: Any, cohort: Path) -> None:
    start(panel, "slow")
    spin_until(lambda: ui.progressBar.value >= 5)
    slicer.mrmlScene.Clear(False)
    assert not is_over(ui)
    panel.cleanup()
    spin_until(lambda: leftovers() == [])


def test_batch_waits_for_a_run(panel: Any, ui: Any, cohort: Path) -> None:
    add_head()
    play(panel, "slow")
    assert not ui.batchButton.enabled
    ui.runButton.click()
    assert ui.batchButton.enabled
