"""DICOM is recognised by its first bytes, whatever its name; what holds no image is refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from USMRISynthesisLib.cli import main
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.dicom_detect import holds_dicom
from USMRISynthesisLib.io.volume import Volume

pytest.importorskip("pydicom")
DICOM = bytes(128) + b"DICM" + bytes(60)


@pytest.mark.parametrize("name", ["us.dcm", "IM0001", "us.ima"])
def test_a_dicom_file_without_an_image_is_named_whatever_its_ending(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(DICOM)
    with pytest.raises(Refused, match=f"There is no image in the DICOM data of {name}") as refused:
        Volume.read(tmp_path / name)
    assert refused.value.kind == "dicom" and refused.value.remedy == "Give a file or folder with images."


def test_a_folder_of_dicom_without_an_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "study" / "series").mkdir(parents=True)
    (tmp_path / "study" / "series" / "IM0001").write_bytes(DICOM)
    with pytest.raises(Refused, match="There is no image in the DICOM data of study"):
        Volume.read(tmp_path / "study")


def test_a_batch_of_dicom_without_an_image_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "IM0001").write_bytes(DICOM)
    assert main(["batch", str(tmp_path / "study"), str(tmp_path / "out")]) == 2
    assert "no image to synthesise in study" in capsys.readouterr().err


def test_what_only_looks_like_it_is_not_called_dicom(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"DICM" + bytes(200))
    with pytest.raises(Refused, match="is not in a format that can be read here"):
        Volume.read(tmp_path / "a.dcm")
    assert not holds_dicom(tmp_path)


@pytest.mark.parametrize("name", ["x" * 300, "a/" * 3000, "\0"])
def test_a_name_that_no_system_takes_is_no_folder_of_dicom(name: str) -> None:
    assert not holds_dicom(Path(name))
