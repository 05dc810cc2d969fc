"""What a batch takes: files, folders, DICOM by series, films by frame, tables, BIDS trees; and the names of results."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories.dicom import US, US_FILM, dataset, region, save, series
from factories.light_worker import LightWorker
from USMRISynthesisLib.batch.cases import Case
from USMRISynthesisLib.batch.folder import Batch
from USMRISynthesisLib.batch.inputs import gather
from USMRISynthesisLib.batch.ledger import fold
from USMRISynthesisLib.batch.runner import run
from USMRISynthesisLib.errors import Failed, Refused
from USMRISynthesisLib.io.transform import write_transform
from USMRISynthesisLib.io.volume import Volume

MATRIX = np.array([[0.0, -0.9, 0, 4], [0.8, 0, 0.1, -7], [0, 0.2, -2.5, 12], [0, 0, 0, 1]])
POSE = np.array([[0.8, 0.1, 0, 3], [-0.1, 0.8, 0, -2], [0, 0, 0.8, 5], [0, 0, 0, 1.0]])
RNG = np.random.default_rng(11)
FILM = RNG.integers(0, 255, (3, 48, 64), dtype=np.uint8)


def write(path: Path, seed: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Volume(np.random.default_rng(seed).integers(0, 255, (3, 4, 5)).astype(np.uint8), MATRIX).write(path)
    return path


def write_sequence(path: Path, frames: int = 3) -> Path:
    """Frames in time as Slicer writes them: a list axis first."""
    array = RNG.integers(0, 255, (1, 6, 8, frames)).astype(np.uint8)
    lines = ["NRRD0005", "type: uint8", "dimension: 4", "space: left-posterior-superior", f"sizes: {frames} 8 6 1",
             "space directions: none (0.5,0,0) (0,0.5,0) (0,0,0.5)", "kinds: list domain domain domain",
             "endian: little", "encoding: raw", "space origin: (0,0,0)", "", ""]  # fmt: skip
    path.write_bytes("\n".join(lines).encode() + array.tobytes())
    return path


def targets(cases: list[Case], out: Path) -> dict[str, str]:
    return {case.name: case.target.relative_to(out).as_posix() for case in cases}


@pytest.fixture
def done(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`done(source, **options)`: a batch by light workers into `out`."""
    sha256 = json.loads((tiny_model / "manifest.json").read_text())["sha256"]
    monkeypatch.setenv("LIGHT_WORKER_SHA256", sha256)

    def go(source: Any, out: str = "out", **options: Any) -> Batch:
        batch = Batch(source, tmp_path / out, model=str(tiny_model), **options)
        run(batch, make_worker=LightWorker)  # type: ignore[arg-type]
        return batch

    return go


# --- files, folders, DICOM, films


def test_files_and_folders_together_never_share_a_name(tmp_path: Path) -> None:
    one, two = write(tmp_path / "x" / "head.nrrd"), write(tmp_path / "y" / "head.nrrd")
    write(tmp_path / "folder" / "late" / "head.nii.gz")
    cases = gather([one, two, tmp_path / "folder"], tmp_path / "out")
    assert targets(cases, tmp_path / "out") == {
        "folder/late/head.nii.gz": "folder/late/head-mr.nrrd",
        "head.nrrd": "head-mr.nrrd",
        "head-2.nrrd": "head-2-mr.nrrd",
    }
    assert {case.source for case in cases} == {one, two, tmp_path / "folder" / "late" / "head.nii.gz"}


def test_each_series_of_a_dicom_folder_is_a_case_and_films_by_frame(tmp_path: Path, done: Any) -> None:
    regions, study = [region(0, 0, 63, 47)], tmp_path / "study"
    (study / "a").mkdir(parents=True)
    save(dataset(US, FILM[0], SequenceOfUltrasoundRegions=regions, SeriesInstanceUID="1.2.3.4"), study / "a" / "IM1")
    film = dataset(US_FILM, FILM, InstanceNumber=2, SequenceOfUltrasoundRegions=regions, SeriesInstanceUID="1.2.3.4")
    save(film, study / "a" / "IM2")
    series(study / "b", RNG.integers(0, 900, (5, 7, 9)).astype(np.int16), MATRIX, SeriesNumber=2)
    batch = done(study, frame="all")
    assert targets(batch.cases, tmp_path / "out") == {
        "a/IM1": "a/IM1-mr.nrrd",
        **{f"a/IM2#{frame:04d}": f"a/IM2-mr-{frame:04d}.nrrd" for frame in range(3)},
        "b/series-2": "b/series-2-mr.nrrd",
    }
    assert batch.summary() == "5 cases: 5 done."
    for frame in range(3):
        made = Volume.read(tmp_path / "out" / "a" / f"IM2-mr-{frame:04d}.nrrd")
        np.testing.assert_array_equal(made.array[0], FILM[frame].max() - FILM[frame])
    assert done(study, frame="all").summary() == "5 cases: 5 kept."
    assert [row["input"] for row in fold(tmp_path / "out")][1] == "a/IM2"
    by_file = gather([study / "a" / "IM2", study], tmp_path / "none")
    assert [case.name for case in by_file] == ["IM2", "study/a/IM1", "study/a/IM2", "study/b/series-2"]


def test_one_frame_of_a_sequence_applies_to_sequences_alone(tmp_path: Path, done: Any) -> None:
    (tmp_path / "in").mkdir()
    write_sequence(tmp_path / "in" / "sweep.seq.nrrd")
    write(tmp_path / "in" / "volume.nrrd")
    batch = done(tmp_path / "in", frame=2)
    assert batch.summary() == "2 cases: 2 done."
    third = Volume.read(tmp_path / "in" / "sweep.seq.nrrd", frame=2).array
    np.testing.assert_array_equal(Volume.read(tmp_path / "out" / "sweep.seq-mr.nrrd").array, third.max() - third)
    assert done(tmp_path / "in", frame=2).summary() == "2 cases: 2 kept."
    changed = done(tmp_path / "in", frame=1)  # another frame is another result
    assert changed.counts() == {"done": 1, "kept": 1}
    states = done(tmp_path / "in", frame=7).states
    assert states["sweep.seq.nrrd"]["status"] == "refused" and states["volume.nrrd"]["status"] == "kept"


def test_bad_input_is_in_the_table_with_its_remedy_and_stops_nothing(
    tmp_path: Path, done: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "in"
    write(source / "good.nrrd")
    write_sequence(source / "four.nrrd")
    (source / "text.nrrd").write_text("a text")
    (source / "empty.nii.gz").write_bytes(b"")
    (source / "closed").mkdir()
    true = os.scandir

    def scandir(path: Any = ".") -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return true(path)

    request = LightWorker.request

    def unlucky(self: LightWorker, op: str, **fields: Any) -> dict[str, Any]:
        if fields["input"].endswith("headless.nrrd"):
            raise Refused("unreliable", "The head was not found reliably.", "Continue with --allow-low-confidence.")
        if fields["input"].endswith("crash.nrrd"):
            raise Failed("worker", "The worker was ended by the signal SIGKILL.", "Try again.")
        if fields["input"].endswith("odd.nrrd"):
            raise RuntimeError("std::bad_alloc")
        return request(self, op, **fields)

    for name in ("headless", "crash", "odd"):
        write(source / f"{name}.nrrd")
    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(LightWorker, "request", unlucky)
    batch = done(source)
    rows = {row["name"]: row for row in fold(tmp_path / "out")}
    assert {name: row["state"] for name, row in rows.items()} == {
        "closed": "refused", "crash.nrrd": "failed", "empty.nii.gz": "refused", "four.nrrd": "refused",
        "good.nrrd": "done", "headless.nrrd": "refused", "odd.nrrd": "failed", "text.nrrd": "refused",
    }  # fmt: skip
    for name, row in rows.items():
        assert name == "good.nrrd" or (row["message"].endswith(".") and row["remedy"].endswith(".")), name
    assert rows["closed"]["message"] == "The folder closed could not be read: Permission denied."
    assert "--frame N" in rows["four.nrrd"]["remedy"] and "memory" in rows["odd.nrrd"]["message"]
    assert batch.counts() == {"done": 1, "refused": 5, "failed": 2}
    assert not list((tmp_path / "out" / ".usmri" / "work").iterdir())


@pytest.mark.parametrize(
    ("retry", "names"),
    [("failed", ["b.nrrd"]), ("refused", ["c.nrrd"]), ("all", ["b.nrrd", "c.nrrd"]), (None, ["b.nrrd", "c.nrrd"])],
)
def test_retry_runs_what_ended_so(
    retry: str | None, names: list[str], tmp_path: Path, done: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        write(tmp_path / "in" / f"{name}.nrrd")
    faults = {"b.nrrd": Failed("worker", "It died.", "Again."), "c.nrrd": Refused("extent", "Small.", "Correct it.")}
    request, requested = LightWorker.request, []

    def faulty(self: LightWorker, op: str, **fields: Any) -> dict[str, Any]:
        name = Path(fields["input"]).name
        requested.append(name)
        if name in faults:
            raise faults[name]
        return request(self, op, **fields)

    monkeypatch.setattr(LightWorker, "request", faulty)
    done(tmp_path / "in")
    faults.clear()
    requested.clear()
    batch = done(tmp_path / "in", retry=retry)
    assert requested == names and batch.status == "done"
    if retry == "all":
        assert done(tmp_path / "in", retry="all").summary() == "0 cases: nothing to do."


# --- tables


@pytest.mark.parametrize(("name", "sign"), [("list.csv", ","), ("list.csv", ";"), ("list.TSV", "\t")])
def test_a_table_gives_each_image_its_own_age_and_transform(name: str, sign: str, tmp_path: Path, done: Any) -> None:
    write(tmp_path / "lists" / "data" / "a.nrrd")
    write(tmp_path / "b.nrrd", 2)
    write_transform(POSE, tmp_path / "lists" / "pose.tfm")
    lines = [
        ["Subject", "Path", "Gestational Age", "transform", "note"],
        ["1", "data/a.nrrd", "24.5", "pose.tfm", "first"],
        ["2", "../b.nrrd", "n/a", "", ""],
        ["3", "missing.nrrd", "", "", ""],
        ["4", "data/a.nrrd", "late", "", ""],
        ["5", "", "30", "", ""],
        ["6", "data/a.nrrd", "", "none.tfm", ""],
        ["7", "data", "", "", ""],
        ["", "", "", "", ""],
    ]
    table = tmp_path / "lists" / name
    table.write_text("\ufeff" + "\r\n".join(sign.join(line) for line in lines), encoding="utf-8")
    batch = done(table, gestational_age=30.0)
    rows = {row["name"]: row for row in fold(tmp_path / "out")}
    assert [row["state"] for row in rows.values()].count("done") == 2 and len(rows) == 7
    first = json.loads((tmp_path / "out" / "data" / "a-mr.json").read_text())
    assert first["alignment"]["gestational_age_weeks"] == 24.5
    np.testing.assert_allclose(np.reshape(first["alignment"]["transform"], (4, 4)), POSE, atol=1e-9)
    assert json.loads((tmp_path / "out" / "b-mr.json").read_text())["alignment"] == {
        "gestational_age_weeks": 30.0,
        "transform": None,
    }
    said = {row["message"]: row["remedy"] for row in rows.values() if row["state"] == "refused"}
    assert said["There is no file missing.nrrd at that place."] == "Check the path."
    assert said[f"Line 5 of {name} has a gestational age that is no number."] == "Give it in weeks, as 24.5."
    assert said[f"Line 6 of {name} has no path."] == "Fill in its column path."
    assert said["data is a folder without DICOM."] == "Name the image file in it."
    assert any("none.tfm" in message for message in said)
    assert batch.counts() == {"done": 2, "refused": 5}
    assert done(table, gestational_age=30.0).counts() == {"kept": 2, "refused": 5}
    write_transform(POSE @ np.diag([1.1, 1.1, 1.1, 1]), tmp_path / "lists" / "pose.tfm")
    assert done(table, gestational_age=30.0).counts() == {"done": 1, "kept": 1, "refused": 5}


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        (b"file,age\na.nrrd,3\n", "list.csv has no column path. Its first line names the columns: path"),
        (b"\xff\xfe\x00", "list.csv could not be read as a table. Save it as CSV or TSV, in UTF-8."),
        (b"", "There is no image to synthesise in list.csv."),
    ],
)
def test_a_table_that_is_none_is_refused(text: bytes, pattern: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(text)
    with pytest.raises(Refused) as caught:
        gather([tmp_path / "list.csv"], tmp_path / "out")
    assert str(caught.value).startswith(pattern)


# --- BIDS


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two subjects, one of them in two sessions, ultrasound beside MR."""
    root = tmp_path / "bids"
    for number, name in enumerate(
        (
            "sub-01/us/sub-01_run-2_us.nii.gz",
            "sub-01/us/sub-01_acq-sweep_us.nrrd",
            "sub-02/ses-a/us/sub-02_ses-a_us.nii.gz",
            "sub-02/ses-b/us/sub-02_ses-b_us.nii.gz",
            "sub-02/ses-b/anat/sub-02_ses-b_T2w.nii.gz",
            "derivatives/other/sub-01/us/sub-01_us.nii.gz",
        )
    ):
        write(root / name, number)
    (root / "participants.tsv").write_text("participant_id\tgestational_age\nsub-01\t24\nsub-02\t30\n")
    (root / "sub-02" / "sub-02_sessions.tsv").write_text("session_id\tgestational_age\nses-b\t33.5\n")
    return root


def test_a_bids_tree_gives_bids_derivatives(tree: Path, tmp_path: Path, done: Any) -> None:
    batch = done(tree, str(tree), bids=True)
    made = tree / "derivatives" / "usmri"
    assert batch.summary() == "4 cases: 4 done."
    assert sorted(path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()) == [
        "README.md",
        "dataset_description.json",
        "sub-01/anat/sub-01_acq-sweep_desc-synthetic_T2w.json",
        "sub-01/anat/sub-01_acq-sweep_desc-synthetic_T2w.nii.gz",
        "sub-01/anat/sub-01_run-2_desc-synthetic_T2w.json",
        "sub-01/anat/sub-01_run-2_desc-synthetic_T2w.nii.gz",
        "sub-02/ses-a/anat/sub-02_ses-a_desc-synthetic_T2w.json",
        "sub-02/ses-a/anat/sub-02_ses-a_desc-synthetic_T2w.nii.gz",
        "sub-02/ses-b/anat/sub-02_ses-b_desc-synthetic_T2w.json",
        "sub-02/ses-b/anat/sub-02_ses-b_desc-synthetic_T2w.nii.gz",
    ]
    description = json.loads((made / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative" and description["GeneratedBy"][0]["Name"] == "USMRISynthesis"
    assert (made / description["DatasetLinks"]["raw"]).resolve() == tree
    sidecar = json.loads((made / "sub-02/ses-b/anat/sub-02_ses-b_desc-synthetic_T2w.json").read_text())
    uri = "bids:raw:sub-02/ses-b/us/sub-02_ses-b_us.nii.gz"
    assert sidecar["Sources"] == [uri] and sidecar["SpatialReference"] == uri and sidecar["notice"]
    ages = [
        json.loads(path.read_text())["alignment"]["gestational_age_weeks"]
        for path in sorted(made.glob("sub-*/**/*.json"))
    ]
    assert ages == [24.0, 24.0, 30.0, 33.5]
    assert done(tree, str(tree), bids=True).summary() == "4 cases: 4 kept."


def test_bids_names_from_a_table_a_flat_folder_and_a_film(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(tmp_path / "in" / "x" / "Mme X-1.nrrd")
    write_sequence(tmp_path / "in" / "film.nrrd", 2)
    names = [
        name.rpartition("/")[2]
        for name in targets(gather([tmp_path / "in"], out, bids=True, frame="all"), out).values()
    ]
    assert names == [
        "sub-film_chunk-0_desc-synthetic_T2w.nii.gz",
        "sub-film_chunk-1_desc-synthetic_T2w.nii.gz",
        "sub-xMmeX1_desc-synthetic_T2w.nii.gz",
    ]
    (tmp_path / "t.csv").write_text("path,subject,session\na.nrrd,sub-7,ses-1\nb.nrrd,7,1\nc.nrrd,7,2\nd.nrrd,A 8,\n")
    assert targets(gather([tmp_path / "t.csv"], out, bids=True), out) == {
        "a.nrrd": "derivatives/usmri/sub-7/ses-1/anat/sub-7_ses-1_run-1_desc-synthetic_T2w.nii.gz",
        "b.nrrd": "derivatives/usmri/sub-7/ses-1/anat/sub-7_ses-1_run-2_desc-synthetic_T2w.nii.gz",
        "c.nrrd": "derivatives/usmri/sub-7/ses-2/anat/sub-7_ses-2_desc-synthetic_T2w.nii.gz",
        "d.nrrd": "derivatives/usmri/sub-A8/anat/sub-A8_desc-synthetic_T2w.nii.gz",
    }


def test_a_tree_without_ultrasound_names_gives_what_is_not_named_as_mr(tmp_path: Path) -> None:
    for name in ("sub-1/anat/sub-1_T2w.nii.gz", "sub-1/func/sub-1_x.nii.gz", "sub-1/anat/sub-1_scan.nrrd"):
        write(tmp_path / "bids" / name)
    assert [case.name for case in gather([tmp_path / "bids"], tmp_path / "out")] == ["sub-1/anat/sub-1_scan.nrrd"]


def test_another_programs_derivative_is_not_written_into(tree: Path, done: Any) -> None:
    place = tree / "derivatives" / "usmri" / "dataset_description.json"
    place.parent.mkdir()
    place.write_text('{"Name": "mine"}')
    with pytest.raises(Refused, match=r"dataset_description\.json exists and was not made by this program"):
        done(tree, str(tree), bids=True)
    assert place.read_text() == '{"Name": "mine"}' and len(list(place.parent.iterdir())) == 1


def test_a_bids_validator_accepts_the_derivative(tree: Path, tmp_path: Path, done: Any) -> None:
    command = shutil.which("bids-validator-deno") or shutil.which(
        "bids-validator-deno", path=str(Path(sys.executable).parent)
    )
    if command is None:
        pytest.skip("bids-validator-deno is not installed (pip install bids-validator-deno)")
    (tree / "film").mkdir()
    write_sequence(tree / "film" / "film.nrrd", 2)
    done([tree, tree / "film" / "film.nrrd"], "out", bids=True, frame="all")
    answer = subprocess.run(
        [command, str(tmp_path / "out" / "derivatives" / "usmri"), "--json"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    issues = json.loads(answer.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []
    assert not {"NOT_INCLUDED", "INVALID_LOCATION", "INVALID_ENTITY_LABEL"} & {issue["code"] for issue in issues}
    bad = tmp_path / "out" / "derivatives" / "usmri" / "sub-01" / "anat" / "sub-01_synthetic.nii.gz"
    shutil.copy(next(bad.parent.glob("*.nii.gz")), bad)  # the validator can tell
    again = subprocess.run(
        [command, str(tmp_path / "out" / "derivatives" / "usmri"), "--json"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert any(issue["severity"] == "error" for issue in json.loads(again.stdout)["issues"]["issues"])
