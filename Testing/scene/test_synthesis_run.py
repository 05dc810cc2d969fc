"""Complete runs: the real panel and console, the real child process, real networks with random weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
from scenery import MODULE_FILE, add_frame, add_head, ijk_to_ras, leftovers, scene_state, spin_until, when_progress
from USMRISynthesisLib.errors import Failed, Refused

ROTATION = np.array([[0.8, -0.36, 0.48], [0.6, 0.48, -0.64], [0.0, 0.8, 0.6]])


@pytest.fixture(scope="module")
def logic(module: Any) -> Any:
    """One logic with one warm worker for the tests that only compare results."""
    logic = sys.modules["USMRISynthesis"].USMRISynthesisLogic()
    yield logic
    logic.synthesizer.close()


def given_alignment() -> np.ndarray:
    """The pose of the heads in these tests: upright around (12, -7, 30)."""
    matrix = np.eye(4)
    matrix[:3, 3] = (-12, 7, -30)
    return matrix


def test_click_makes_a_volume_on_the_grid_of_the_input(panel: Any, model: Path) -> None:
    source = add_head()
    parent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Probe")
    source.SetAndObserveTransformNodeID(parent.GetID())
    panel.ui.modelComboBox.setCurrentText(str(model))
    panel.ui.unreliableCheckBox.checked = True  # a made-up head is none to the alignment's network
    values: list[int] = []
    panel.ui.progressBar.connect("valueChanged(int)", values.append)
    panel.ui.runButton.click()
    spin_until(lambda: panel.ui.runButton.text == "Synthesize MR")
    assert panel.ui.statusLabel.text.startswith("Done"), panel.ui.statusLabel.text
    assert len([value for value in values if 0 < value < 100]) > 5
    assert values == sorted(values)
    output = slicer.util.getNode("Fetal head MR-like*")
    assert output.GetImageData().GetDimensions() == source.GetImageData().GetDimensions()
    assert output.GetTransformNodeID() == parent.GetID()
    np.testing.assert_allclose(ijk_to_ras(output), ijk_to_ras(source), atol=1e-6)
    voxels = slicer.util.arrayFromVolume(output)
    assert voxels.dtype == np.int16
    assert (voxels.min(), voxels.max() > 0, voxels.max() <= 1000) == (0, True, True)
    assert voxels[slicer.util.arrayFromVolume(source) == 0].max() == 0  # outside the fan
    assert slicer.app.layoutManager().layout == 27182
    panel.cleanup()
    assert leftovers() == []


def test_cancel_half_way_leaves_everything_as_it_was(panel: Any, model: Path) -> None:
    add_head()
    panel.ui.modelComboBox.setCurrentText(str(model))
    panel.ui.unreliableCheckBox.checked = True  # a made-up head is none to the alignment's network
    before = scene_state()
    when_progress(panel, 40, panel.ui.runButton.click)
    panel.ui.runButton.click()
    spin_until(lambda: panel.ui.runButton.text == "Synthesize MR")
    assert panel.ui.statusLabel.text == "Cancelled. Nothing was changed."
    assert scene_state() == before
    spin_until(lambda: leftovers() == [])


def test_killed_worker_is_followed_by_a_working_run(panel: Any, model: Path) -> None:
    add_head()
    panel.ui.modelComboBox.setCurrentText(str(model))
    panel.ui.unreliableCheckBox.checked = True  # a made-up head is none to the alignment's network
    when_progress(panel, 22, lambda: os.kill(panel.logic.synthesizer._worker.pid, 9))
    panel.ui.runButton.click()
    spin_until(lambda: panel.ui.runButton.text == "Synthesize MR")
    assert "ended before it was done" in panel.ui.statusLabel.text
    panel.ui.runButton.click()
    spin_until(lambda: panel.ui.runButton.text == "Synthesize MR")
    assert panel.ui.statusLabel.text.startswith("Done")


@pytest.mark.parametrize(
    ("directions", "spacing"),
    [(ROTATION, (2.0, 2.0, 2.0)), (np.eye(3), (3.0, 1.5, 2.0)), (np.eye(3) * [1, 1, -1], (2.0, 2.0, 2.0))],
    ids=["oblique", "anisotropic", "left-handed"],
)
def test_console_call_returns_a_volume_on_any_grid(logic: Any, model: Path, directions: Any, spacing: Any) -> None:
    source = add_head(directions=directions, spacing=spacing)
    alignment = np.eye(4)
    alignment[:3, :3] = directions.T
    alignment[:3, 3] = -directions.T @ [12, -7, 30]
    seen: list[float] = []
    output = logic.synthesize(
        source, model=str(model), transform=alignment, progress=lambda value, stage: seen.append(value)
    )
    np.testing.assert_allclose(ijk_to_ras(output), ijk_to_ras(source), atol=1e-6)
    assert slicer.util.arrayFromVolume(output).max() > 0
    canonical = output.GetNodeReference("USMRISynthesis.CanonicalTransform")
    np.testing.assert_allclose(slicer.util.arrayFromTransformMatrix(canonical), alignment, atol=1e-9)
    assert seen[-1] == 1.0


def test_frame_becomes_an_mr_like_frame(logic: Any, model: Path) -> None:
    source = add_frame()
    output = logic.synthesize(source, model=str(model))
    assert output.GetImageData().GetDimensions() == source.GetImageData().GetDimensions()
    assert slicer.util.arrayFromVolume(output).max() > 0


def test_console_call_refuses_with_a_message_and_leaves_the_scene(logic: Any, model: Path) -> None:
    tiny = add_head("Tiny", spacing=(0.1, 0.1, 0.1))
    before = scene_state()
    with pytest.raises(Refused) as caught:
        logic.synthesize(tiny, model=str(model))
    assert caught.value.remedy
    assert scene_state() == before


def test_unknown_model_is_named(logic: Any) -> None:
    with pytest.raises(Failed, match="no model 'nonsense'"):
        logic.synthesize(add_head(), model="nonsense", transform=given_alignment())


def test_console_call_needs_no_main_window(host: Any, logic: Any, model: Path) -> None:
    host.set_main_window(False)
    try:
        assert logic.synthesize(add_head(), model=str(model), transform=given_alignment()) is not None
    finally:
        host.set_main_window(True)


def test_progress_callback_that_raises_stops_the_run(module: Any, model: Path) -> None:
    logic = sys.modules["USMRISynthesis"].USMRISynthesisLogic()
    source = add_head()
    before = scene_state()

    def enough(value: float, stage: str) -> None:
        if value > 0.1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        logic.synthesize(source, model=str(model), transform=given_alignment(), progress=enough)
    assert scene_state() == before
    assert not logic.synthesizer.running
    assert not logic.synthesizer._worker.running


def test_console_call_without_torch_names_the_remedy(logic: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from USMRISynthesisScene.setup import torch_install

    monkeypatch.setattr(torch_install, "torch_state", lambda: torch_install.TorchState.MISSING)
    with pytest.raises(Failed, match=r"PyTorch is not installed\. Open the module PyTorch Utils"):
        logic.synthesize(add_head())


def test_loading_the_module_does_no_work() -> None:
    """Slicer's start loads no torch and no model and starts no process."""
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "from slicer_standin import start; host = start(); host.load_module(sys.argv[3])\n"
        "heavy = [name for name in ('torch', 'USMRISynthesisScene', 'USMRISynthesisLib', 'scipy')"
        " if name in sys.modules]\n"
        "assert not heavy, heavy"
    )
    folders = [str(MODULE_FILE.parents[1] / "Testing"), str(MODULE_FILE.parent)]
    done = subprocess.run([sys.executable, "-c", code, *folders, str(MODULE_FILE)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
