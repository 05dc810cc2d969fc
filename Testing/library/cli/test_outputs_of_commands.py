"""Every command keeps what is not its own: inputs, files of the user's, and the other outputs of the same run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from USMRISynthesisLib.cli import command_line as cli
from USMRISynthesisLib.cli import pictures
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.marks import is_ours
from USMRISynthesisLib.io.provenance import file_sha256
from USMRISynthesisLib.io.volume import Volume


@pytest.fixture
def folder(frame: Volume, tmp_path: Path) -> Path:
    """An ultrasound image in a folder of its own."""
    made = tmp_path / "work"
    made.mkdir()
    frame.write(made / "us.nrrd")
    return made


@pytest.fixture
def options(trusted_model: Path) -> list[str]:
    return ["--model", str(trusted_model), "--device", "cpu", "--unreliable", "--quiet"]


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["us.nrrd", "out.nrrd", "--reliability", "us.nrrd"], 2, "us.nrrd would overwrite an input"),
        (["us.nrrd", "out.nrrd", "--support", "us.nrrd"], 2, "us.nrrd would overwrite an input"),
        (["us.nrrd", "out.nrrd", "--reliability", "out.nrrd"], 2, "Two results would be written to out.nrrd"),
        (["us.nrrd", "out.nrrd", "--reliability", "out.nii.gz"], 2, "Two results would be written to out.json"),
        (["us.nrrd", "out.nrrd", "--reliability", "none/map.nrrd"], 1, "The folder for map.nrrd does not exist"),
        (["us.nrrd", "out.nrrd", "--reliability", "map.png"], 1, "Images cannot be written as map.png"),
        (["us.nrrd", "mine.nrrd"], 2, "mine.nrrd exists and was not made by this program"),
        (["us.nrrd", "out.nrrd", "--reliability", "mine.nrrd"], 2, "mine.nrrd exists and was not made by this program"),
        (["us.nrrd", "study.nii.gz"], 2, "study.json exists and was not made by this program"),
        (["us.nrrd", "us.nii.gz"], 2, "us.json would stand beside us.nrrd as well"),
        (["us.nrrd", "out.nrrd", "--transform", "out.nrrd"], 2, "out.nrrd would overwrite an input"),
    ],
)
def test_synthesize_refuses_before_the_work_and_changes_nothing(
    words: list[str],
    code: int,
    sentence: str,
    folder: Path,
    options: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from USMRISynthesisLib.synthesis import pipeline

    Volume(np.full((2, 3, 4), 7, np.int16), np.eye(4)).write(folder / "mine.nrrd")
    (folder / "study.json").write_text('{"Manufacturer": "made by hand"}')
    before = digests(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(pipeline, "synthesize", lambda *_, **__: pytest.fail("the work began"))
    assert cli.main(["synthesize", *words, *options]) == code
    err = capsys.readouterr().err
    assert sentence in err and err.count("\n") == 1 and digests(folder) == before


@pytest.mark.parametrize("option", ["--reliability", "--support"])
def test_image_and_map_are_written_with_a_provenance_file_each(
    option: str, folder: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["synthesize", str(folder / "us.nrrd"), str(folder / "mr.nii.gz"), option, str(folder / "map.nrrd")]
    for _ in range(2):  # the second run replaces what the first one made
        assert cli.main([*words, *options, "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["reliability"]["file"] == str(folder / "map.nrrd")
        assert result["support"] == result["reliability"] and "meaning" in result["reliability"]
        assert sorted(digests(folder)) == ["map.json", "map.nrrd", "mr.json", "mr.nii.gz", "us.nrrd"]
        for stem, name in (("mr", "mr.nii.gz"), ("map", "map.nrrd")):
            beside = json.loads((folder / f"{stem}.json").read_text())
            assert beside["output"]["file_sha256"] == file_sha256(folder / name) and is_ours(folder / name)


def test_normalise_replaces_its_own_files_and_no_other(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["normalise", str(folder / "us.nrrd"), str(folder / "canonical.nii.gz"), "--quiet"]
    (folder / "mine.tfm").write_text("#Insight Transform File V1.0\n")
    assert cli.main([*words, "--transform", str(folder / "mine.tfm")]) == 2
    assert "mine.tfm exists and was not made by this program" in capsys.readouterr().err
    assert not (folder / "canonical.nii.gz").exists()
    for _ in range(2):
        assert cli.main([*words, "--transform", str(folder / "to.tfm")]) == 0
    sitk.ReadTransform(str(folder / "to.tfm"))  # the mark is a comment to ITK
    assert "canonical space" in Volume.read(folder / "canonical.nii.gz").metadata["Comment"]
    assert cli.main([*words, "--transform", str(folder / "us.nrrd")]) == 1
    assert "Transforms cannot be written as us.nrrd" in capsys.readouterr().err
    assert sorted(digests(folder)) == ["canonical.nii.gz", "mine.tfm", "to.tfm", "us.nrrd"]


def test_respace_keeps_what_is_not_its_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Volume(np.full((2, 3, 4), 7, np.int16), np.eye(4)).write(folder / "mine.nrrd")
    before = digests(folder)
    assert cli.main(["respace", str(folder / "us.nrrd"), str(folder / "mine.nrrd")]) == 2
    assert "mine.nrrd exists and was not made by this program" in capsys.readouterr().err
    assert digests(folder) == before


def test_a_picture_is_marked_and_replaces_only_its_like(tmp_path: Path) -> None:
    target = tmp_path / "p.png"
    for grey in (10, 20):
        with pictures.picture(pictures.check_picture(target)) as name:
            Image.new("L", (4, 4), grey).save(name)
        with Image.open(target) as drawn:
            assert drawn.getpixel((0, 0)) == grey and drawn.info["Software"] == "USMRISynthesis"
    Image.new("L", (4, 4), 30).save(target)
    before = digests(tmp_path)
    with pytest.raises(Refused, match=r"p\.png exists and was not made by this program"):
        pictures.check_picture(target)
    with pytest.raises(Refused, match=r"p\.png exists"), pictures.picture(target) as name:
        Image.new("L", (4, 4), 40).save(name)
    assert digests(tmp_path) == before


def test_a_folder_of_pictures_keeps_those_of_others(tmp_path: Path) -> None:
    with pictures.pictures(str(tmp_path / "new")) as drawn:
        assert drawn is not None
        Image.new("L", (4, 4), 1).save(drawn / "run-0.png")
    assert is_ours(tmp_path / "new" / "run-0.png")
    Image.new("L", (4, 4), 2).save(tmp_path / "new" / "mine.png")
    with pytest.raises(Refused, match=r"mine\.png exists"), pictures.pictures(str(tmp_path / "new")):
        pytest.fail("the work began")
    with pytest.raises(ZeroDivisionError), pictures.pictures(str(tmp_path / "gone")):
        raise ZeroDivisionError
    assert not (tmp_path / "gone").exists() and len(digests(tmp_path / "new")) == 2


@pytest.mark.parametrize("name", ["model.pt", "manifest.json", "README.md"])
def test_export_keeps_a_folder_that_is_no_models(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, output = tmp_path / "checkpoint.pt", tmp_path / "out"
    checkpoint.write_bytes(b"weights")
    output.mkdir()
    (output / name).write_text("mine")
    assert cli.main(["export", str(checkpoint), str(output)]) == 2
    assert f"{name} exists and was not made by this program" in capsys.readouterr().err
    assert digests(output) == {name: hashlib.sha256(b"mine").hexdigest()}


def test_export_does_not_write_over_its_checkpoint(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digests(tiny_model)
    assert cli.main(["export", str(tiny_model / "model.pt"), str(tiny_model)]) == 2
    assert "model.pt would overwrite an input" in capsys.readouterr().err and digests(tiny_model) == before


def test_export_to_a_file_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model").write_text("mine")
    assert cli.main(["export", str(tmp_path / "none.pt"), str(tmp_path / "model")]) == 1
    assert capsys.readouterr().err == "model is no folder. Give the name of a folder.\n"
    assert (tmp_path / "model").read_text() == "mine"
