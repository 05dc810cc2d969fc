"""What a DICOM export takes over from the ultrasound's file: the patient's own name in any alphabet, or a refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.dicom_write import write_dicom
from USMRISynthesisLib.io.volume import Volume

pydicom = pytest.importorskip("pydicom")
MR = Volume(np.arange(2 * 5 * 4).reshape(2, 5, 4).astype(np.int16), np.diag([1.0, 1, 2, 1]))
ULTRASOUND = "1.2.840.10008.5.1.4.1.1.6.1"


def ultrasound(path: Path, **fields: Any) -> Path:
    """A DICOM ultrasound object without pixels; a field of None is left out."""
    one = pydicom.Dataset()
    one.file_meta = pydicom.dataset.FileMetaDataset()
    one.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    one.preamble = bytes(128)
    one.SOPClassUID, one.SOPInstanceUID, one.StudyInstanceUID = ULTRASOUND, "1.2.3.4", "1.2.3"
    one.PatientName, one.PatientID, one.FrameOfReferenceUID = "Doe^Jane", "7", "1.2.3.5"
    for name, value in fields.items():
        if value is None:
            delattr(one, name)
        else:
            setattr(one, name, value)
    if int(pydicom.__version__.split(".")[0]) < 3:
        one.is_implicit_VR, one.is_little_endian = False, True
        one.save_as(path)
    else:
        one.save_as(path, implicit_vr=False, little_endian=True)
    return path


def written(tmp_path: Path, source: Path) -> Any:
    folder = tmp_path / "out"
    folder.mkdir()
    return pydicom.dcmread(write_dicom(folder, MR, {}, source=source)[1])


# The examples of the DICOM standard, PS3.5 annexes H to K.
@pytest.mark.parametrize(
    ("declared", "name"),
    [
        ("ISO_IR 100", "Buc^J\u00e9r\u00f4me"),
        ("ISO_IR 126", "\u0394\u03b9\u03bf\u03bd\u03c5\u03c3\u03b9\u03bf\u03c2"),
        ("ISO_IR 144", "\u041b\u044e\u043ace\u043c\u0431yp\u0433"),
        ("ISO_IR 192", "Wang^XiaoDong=\u738b^\u5c0f\u6771"),
        ("GB18030", "Wang^XiaoDong=\u738b^\u5c0f\u4e1c"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=\u5c71\u7530^\u592a\u90ce=\u3084\u307e\u3060^\u305f\u308d\u3046"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=\u6d2a^\u5409\u6d1e=\ud64d^\uae38\ub3d9"),
        (None, "Doe^Jane"),
    ],
)
def test_names_are_carried_in_every_alphabet(declared: Any, name: str, tmp_path: Path) -> None:
    fields = {} if declared is None else {"SpecificCharacterSet": declared}
    source = ultrasound(tmp_path / "us.dcm", **fields, PatientName=name, StudyDescription="24 w")
    made = written(tmp_path, source)
    assert made.SpecificCharacterSet == "ISO_IR 192"
    assert str(made.PatientName) == name and made.StudyDescription == "24 w" and made.PatientID == "7"


def test_bytes_of_an_undeclared_character_set_are_kept_as_they_are(tmp_path: Path) -> None:
    source = ultrasound(tmp_path / "us.dcm", PatientName="BUC^QQ")
    for text in ("J\u00e9".encode("latin-1"), "\u0416".encode()):
        raw = source.read_bytes()
        assert raw.count(b"BUC^QQ") == 1
        changed = tmp_path / f"{len(text)}-{text[0]}.dcm"
        changed.write_bytes(raw.replace(b"BUC^QQ", b"BUC^" + text))
        folder = tmp_path / changed.stem
        folder.mkdir()
        [first, _] = write_dicom(folder, MR, {}, source=changed)
        assert b"BUC^" + text in first.read_bytes()
        assert "SpecificCharacterSet" not in pydicom.dcmread(first)


def test_text_that_does_not_fit_its_character_set_is_refused(tmp_path: Path) -> None:
    source = ultrasound(tmp_path / "us.dcm", SpecificCharacterSet="ISO_IR 192", PatientName="BUC^QQ")
    source.write_bytes(source.read_bytes().replace(b"BUC^QQ", b"BUC^J\xe9"))
    with pytest.raises(Refused, match=r"The text in us\.dcm does not fit the character set that it declares\."):
        written(tmp_path, source)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("missing", "words"),
    [("SOPInstanceUID", "SOP Instance UID"), ("SOPClassUID", "SOP Class UID")],
)
@pytest.mark.parametrize("value", [None, ""])
def test_a_source_without_an_identity_is_refused(missing: str, words: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=f"us.dcm is no complete DICOM image: it lacks {words}. Choose"):
        written(tmp_path, ultrasound(tmp_path / "us.dcm", **{missing: value}))


def test_an_empty_study_or_frame_of_reference_is_replaced(tmp_path: Path) -> None:
    made = written(tmp_path, ultrasound(tmp_path / "us.dcm", StudyInstanceUID="", FrameOfReferenceUID=None))
    assert len(made.StudyInstanceUID) > 10 and len(made.FrameOfReferenceUID) > 10 and made.PatientID == "7"


@pytest.mark.parametrize("length", [132, 140, 180])
def test_a_damaged_source_is_refused_or_incomplete(length: int, tmp_path: Path) -> None:
    source = ultrasound(tmp_path / "us.dcm")
    source.write_bytes(source.read_bytes()[:length])
    with pytest.raises(Refused, match=r"us\.dcm is (no complete DICOM image|a damaged DICOM file|not a readable)"):
        written(tmp_path, source)
