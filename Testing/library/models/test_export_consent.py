"""`usmri export` of a model folder: it asks before a foreign program runs, and adds plain weights to the byte."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from factories.spacing import spacing_model
from USMRISynthesisLib.cli import command_line as cli
from USMRISynthesisLib.models import store
from USMRISynthesisLib.models.network import FORM_VARIABLE
from USMRISynthesisLib.spacing.model import load_model


@pytest.fixture
def foreign(tmp_path: Path, config_dir: Path) -> Path:
    """A slice-spacing model in both forms that nobody has agreed to."""
    folder = spacing_model(tmp_path / "foreign", config_dir)
    (config_dir / "trusted-models.json").unlink()
    store.forget()
    return folder


def test_a_foreign_folder_is_exported_after_consent_alone(
    foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", str(foreign), str(tmp_path / "again")]
    assert cli.main(command) == 2
    error = capsys.readouterr().err
    assert "can run code and write files" in error and "--trust-model" in error and not (tmp_path / "again").exists()
    assert cli.main([*command, "--trust-model"]) == 0 and store.hash_matches(tmp_path / "again")


def test_plain_weights_are_added_to_an_older_folder_and_its_program_stays_to_the_byte(
    foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = shutil.copytree(foreign, tmp_path / "older")
    (older / "weights.safetensors").unlink()
    manifest = json.loads((older / "manifest.json").read_text())
    expected = {key: manifest.pop(key) for key in ("files", "architecture")}
    (older / "manifest.json").write_text(json.dumps(manifest))
    program = (older / "model.pt").read_bytes()
    assert cli.main(["export", str(older), str(older), "--plain", "--trust-model"]) == 0
    written = json.loads((older / "manifest.json").read_text())
    assert written == manifest | expected and (older / "model.pt").read_bytes() == program
    assert (older / "weights.safetensors").read_bytes() == (foreign / "weights.safetensors").read_bytes()
    monkeypatch.setenv(FORM_VARIABLE, "plain")
    assert load_model(str(older), "cpu", consent=lambda *_: True).weights == "plain"


def test_plain_belongs_to_a_model_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"")
    assert cli.main(["export", str(tmp_path / "checkpoint.pt"), str(tmp_path / "m"), "--plain"]) == 2
    assert "--plain is for a model folder" in capsys.readouterr().err
