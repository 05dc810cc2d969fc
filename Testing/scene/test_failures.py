"""Every failure has its own message with a remedy, and leaves scene, files and processes unchanged.

Elsewhere: a killed worker, one that cannot start, a crash, no torch (test_panel.py); an interrupted torch and an old
one (test_torch_install.py, test_advanced_section.py); full disks of the command line (test_provenance.py,
test_batch.py).
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import slicer
from scenery import add_frame, add_head, is_idle, leftovers, play, scene_state, spin_until
from USMRISynthesisScene.runs.worker_process import WorkerProcess


def refuse(number: int) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "No space left on device"),
        (errno.EROFS, "Read-only file system"),
        (errno.ENOENT, "No such file or directory"),
    ],
)
def test_temporary_folder_that_cannot_be_used(
    number: int, reason: str, panel: Any, ui: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_head()
    before = scene_state()
    monkeypatch.setattr(tempfile, "mkdtemp", refuse(number))
    play(panel, "copy")
    assert is_idle(ui)
    assert ui.statusLabel.text == (
        f"Slicer's temporary folder cannot be used: {reason}. Choose another one in the "
        "application settings, or free space on its disk."
    )
    assert scene_state() == before and leftovers() == []
    monkeypatch.undo()
    play(panel, "copy")
    spin_until(lambda: is_idle(ui))
    assert ui.statusLabel.text.startswith("Done")


def test_disk_that_fills_up_while_the_input_is_written(panel: Any, ui: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    add_head()
    before = scene_state()
    monkeypatch.setattr(os, "replace", refuse(errno.ENOSPC))
    play(panel, "copy")
    assert is_idle(ui)
    assert ui.statusLabel.text == (
        "Writing input.nrrd failed: No space left on device. Check free space and permissions of the folder."
    )
    assert scene_state() == before and leftovers() == []


def test_result_that_was_never_written(panel: Any, ui: Any) -> None:
    add_head()
    before = scene_state()
    play(panel, "nothing")
    spin_until(lambda: is_idle(ui))
    assert ui.statusLabel.text == (
        "The result of the synthesis process could not be read. Check the free space in "
        "Slicer's temporary folder and run it again."
    )
    assert scene_state() == before


@pytest.mark.parametrize("method", ["report", "capture", "save"])
def test_export_to_a_full_disk(
    method: str, panel: Any, ui: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    add_head()
    play(panel, "copy")
    spin_until(lambda: is_idle(ui))
    ui.exportFolderButton.directory = str(tmp_path)
    monkeypatch.setattr(os, "replace", refuse(errno.ENOSPC))
    monkeypatch.setattr(Image.Image, "save", refuse(errno.ENOSPC))
    getattr(ui, f"{method}Button").click()
    monkeypatch.undo()
    assert ui.statusLabel.text.endswith(
        ("Check free space and permissions of the folder.", "Check that the folder exists and has free space.")
    )
    assert list(tmp_path.iterdir()) == []
    slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (
            "missing",
            "The weights of the model 'tiny' cannot be read (No such file or directory). Restore the model folder",
        ),
        (
            "tampered",
            "The file model.pt of the model 'tiny' is not the one its manifest describes: the SHA-256 differs",
        ),
    ],
)
def test_weights_that_are_missing_or_changed(
    fault: str, sentence: str, panel: Any, ui: Any, model: Path, tmp_path: Path
) -> None:
    """With the real worker, which makes these messages."""
    broken = tmp_path / "tiny"
    shutil.copytree(model, broken)
    if fault == "missing":
        (broken / "model.pt").unlink()
    else:
        content = bytearray((broken / "model.pt").read_bytes())
        content[len(content) // 2] ^= 1
        (broken / "model.pt").write_bytes(bytes(content))
    panel.logic.synthesizer._worker = WorkerProcess()
    add_frame()
    ui.unreliableCheckBox.checked = True
    before = scene_state()
    play(panel, str(broken))
    spin_until(lambda: is_idle(ui))
    assert ui.statusLabel.text.startswith(sentence)
    assert scene_state() == before
    panel.logic.synthesizer.close()
    spin_until(lambda: leftovers() == [])


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind here")
def test_read_only_folder_for_exports(panel: Any, ui: Any, tmp_path: Path) -> None:
    add_head()
    play(panel, "copy")
    spin_until(lambda: is_idle(ui))
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    ui.exportFolderButton.directory = str(folder)
    for button in (ui.saveButton, ui.dicomButton):
        button.click()
        assert ui.statusLabel.text.endswith(("permissions of the folder.", "may be written."))
    assert list(folder.iterdir()) == []
