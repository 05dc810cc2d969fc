"""A lab's own folders: what is used, what is left out and why, and a run from files to a model that synthesises."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from factories.mr import brain
from USMRISynthesisLib.datasets.mr_registration.register import MRAlignment
from USMRISynthesisLib.datasets.mr_registration.template import template_ijk_to_ras, templates
from USMRISynthesisLib.datasets.scans import MRVolume, held_back, load_mr, load_scans
from USMRISynthesisLib.errors import Failed, Refused
from USMRISynthesisLib.geometry.similarity import random_rotation
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.training.lab import folders as lab_folders
from USMRISynthesisLib.training.lab.folders import LEDGER, prepare
from USMRISynthesisLib.training.lab.run import train_on_folders
from USMRISynthesisLib.training.synthesis.config import TrainingConfig

CONFIGS = Path(__file__).parents[3] / "configs"


@pytest.fixture
def easy(monkeypatch: pytest.MonkeyPatch, head: Volume) -> None:
    """Gate and both alignments answer at once: what is tested here is what becomes of their answers."""
    from USMRISynthesisLib.alignment.skull.fit import align_skull

    def aligned(volume: Volume, fan: np.ndarray) -> object:
        known = np.eye(4)
        known[:3, 3] = (-12, 7, -30)
        return replace(align_skull(volume, fan, transform=known), score=float(volume.array.max()) / 255)

    def registered(volume: Volume, mask: np.ndarray | None) -> MRAlignment:
        matrix = np.linalg.inv(volume.ijk_to_ras @ np.linalg.inv(template_ijk_to_ras()))
        return MRAlignment(matrix, 0.9 if volume.array.max() > 400 else 0.3, 0.2, templates()[0])

    monkeypatch.setattr(lab_folders, "align", aligned)
    monkeypatch.setattr(lab_folders, "align_mr", registered)


@pytest.fixture
def folders(tmp_path: Path, head: Volume) -> tuple[Path, Path]:
    us, mr = tmp_path / "us", tmp_path / "mr"
    us.mkdir()
    (mr / "sub-07" / "anat").mkdir(parents=True)
    head.write(us / "sub-01_us.nrrd")
    brain(0)[0].write(mr / "sub-07" / "anat" / "sub-07_T2w.nii.gz")
    return us, mr


@pytest.mark.usefixtures("easy")
def test_volumes_are_kept_in_canonical_space_under_names_that_say_nothing(folders, tmp_path):
    lines: list[str] = []
    ready = prepare(*folders, tmp_path / "data", report=lines.append)
    assert ready.used == {"us": 1, "mr": 1}
    (scan,), (mr,) = load_scans(ready.us), load_mr(ready.mr)
    assert scan.us.shape == mr.t2.shape == (160, 160, 160) and scan.heads.shape == (3, 160)
    assert 0 < (mr.t2 > 0).mean() < 0.5 and mr.t2[80, 80, 80] > 0
    assert not any("sub-0" in path.name for path in (*ready.us.iterdir(), *ready.mr.iterdir()))
    assert not any("sub-0" in line for line in lines)
    assert set(json.loads((tmp_path / "data" / LEDGER).read_text())["us"]) == {"sub-01_us.nrrd"}


@pytest.mark.usefixtures("easy")
def test_greys_of_another_scanner_come_to_the_template_s(folders, tmp_path):
    ready = prepare(*folders, tmp_path / "data", report=str)
    inside = load_mr(ready.mr)[0].t2
    median = float(np.median(inside[inside > 0])) / 255
    assert median == pytest.approx(templates()[0].landmarks[3], abs=0.1)


@pytest.mark.usefixtures("easy")
def test_a_second_time_nothing_is_read_again_until_a_file_changes(folders, tmp_path, monkeypatch, head):
    us, mr = folders
    prepare(us, mr, tmp_path / "data", report=str)
    read: list[str] = []
    whole = Volume.read
    monkeypatch.setattr(lab_folders.Volume, "read", lambda path: read.append(path.name) or whole(path))
    prepare(us, mr, tmp_path / "data", report=str)
    assert read == []
    Volume(head.array[:, :, 2:], head.ijk_to_ras).write(us / "sub-01_us.nrrd")
    ready = prepare(us, mr, tmp_path / "data", report=str)
    assert read == ["sub-01_us.nrrd"] and len(list(ready.us.glob("*.npz"))) == 1


@pytest.mark.usefixtures("easy")
def test_what_cannot_be_used_is_left_out_with_its_reason(folders, tmp_path, head, frame):
    us, mr = folders
    (us / "broken.nrrd").write_text("NRRD0004\n")
    frame.write(us / "frame.nrrd")
    head.write(us / "again.nrrd")
    Volume((head.array // 3).astype(np.uint8), head.ijk_to_ras).write(us / "dim.nrrd")
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[10:30, 10:30, 10:30] = 1
    Volume(labels, template_ijk_to_ras()).write(mr / "dseg.nii.gz")
    Volume(labels, template_ijk_to_ras()).write(mr / "sub-09_desc-brain_mask.nii.gz")
    faint, _ = brain(2)
    Volume(faint.array // 3, faint.ijk_to_ras).write(mr / "faint.nii.gz")
    ready = prepare(us, mr, tmp_path / "data", report=str)
    assert ready.used == {"us": 1, "mr": 1}
    reasons = " ".join([*ready.left_out["us"], *ready.left_out["mr"]])
    for words in ("2D frame", "same file is there twice", "head was not found reliably",
                  "few distinct values", "brain was not found reliably"):  # fmt: skip
        assert words in reasons
    ledger = json.loads((tmp_path / "data" / LEDGER).read_text())
    assert "score is 0.30" in ledger["mr"]["faint.nii.gz"]["remedy"]
    assert "reason" in ledger["us"]["broken.nrrd"] and "sub-09_desc-brain_mask.nii.gz" not in ledger["mr"]


@pytest.mark.usefixtures("easy")
def test_a_mask_beside_the_mr_cuts_it_out(folders, tmp_path, monkeypatch):
    us, mr = folders
    volume, _ = brain(0)
    mask = np.zeros(volume.shape, np.uint8)
    mask[10:30, 10:30, 10:30] = 1
    Volume(mask, volume.ijk_to_ras).write(mr / "sub-07" / "anat" / "sub-07_desc-brain_mask.nii.gz")
    ready = prepare(us, mr, tmp_path / "data", report=str)
    t2 = load_mr(ready.mr)[0].t2
    assert np.count_nonzero(t2) == pytest.approx(20**3 * 4**3, rel=0.05)


def test_folders_that_cannot_be_trained_on_are_refused_with_a_remedy(folders, tmp_path, frame):
    us, mr = folders
    empty = tmp_path / "empty"
    empty.mkdir()
    flat = tmp_path / "flat"
    flat.mkdir()
    frame.write(flat / "frame.nrrd")
    for pair, kind in (((us, us), "same-folder"), ((tmp_path, mr), "same-folder"),
                       ((us, tmp_path / "no"), "input-folder"), ((empty, mr), "no-us"),
                       ((us, empty), "no-mr"), ((flat, mr), "no-usable-us")):  # fmt: skip
        with pytest.raises(Refused) as stopped:
            prepare(*pair, tmp_path / "data", report=str)
        assert stopped.value.kind == kind and stopped.value.remedy
    with pytest.raises(Refused, match="--mr is missing"):
        train_on_folders(us, None)


@pytest.mark.usefixtures("easy")
def test_when_no_head_is_found_anywhere_the_run_ends_with_the_commonest_reason(folders, tmp_path, head):
    us, mr = folders
    for name in ("sub-01_us.nrrd", "dimmer.nrrd"):
        Volume(head.array // (3 if name == "sub-01_us.nrrd" else 4), head.ijk_to_ras).write(us / name)
    with pytest.raises(Refused, match=r"None of the 2 ultrasound files can be used.*not found reliably") as stopped:
        prepare(us, mr, tmp_path / "data", report=str)
    assert LEDGER in stopped.value.remedy


def test_what_is_prepared_does_not_go_into_the_inputs(folders):
    us, mr = folders
    with pytest.raises(Refused, match="input folder"):
        prepare(us, mr, us, report=str)


def test_subjects_are_held_back_whole_and_by_name_only():
    volumes = [MRVolume(f"s{n // 2}-{n}", 24, np.zeros(1)) for n in range(20)]
    train, held = held_back(volumes)
    assert len(held) == 4 and not {v.name.split("-")[0] for v in held} & {v.name.split("-")[0] for v in train}
    assert {v.name for v in held_back(volumes[::-1])[1]} == {v.name for v in held}
    assert held_back(volumes[:8]) == (volumes[:8], [])


def test_the_shipped_configurations_are_valid_and_fit_the_shipped_model():
    for name in ("lab.toml", "lab-pairs.toml"):
        config = TrainingConfig.read(CONFIGS / name)
        assert config.initial == "default" and config.batch.scanned > 0
        assert config.generator == TrainingConfig.read(CONFIGS / "default.toml").generator
        assert bool(config.batch.simulated) == bool(config.data.folder)


@pytest.mark.parametrize(("table", "named"), [
    ({"batch": {"simulated": 0, "real": 0, "scanned": 1}, "data": {"mr": "m"}}, "needs data.scans"),
    ({"batch": {"simulated": 0, "real": 0, "scanned": 1}, "data": {"scans": "s"}}, "data.mr"),
])  # fmt: skip
def test_a_configuration_without_its_folders_is_refused(table, named):
    with pytest.raises(Refused, match=named):
        TrainingConfig.from_json({"output": "run", **table})


def test_a_model_to_start_from_that_is_not_there_is_named(tmp_path, folders):
    from factories.training import configure, make_data
    from USMRISynthesisLib.training.run import train

    data = tmp_path / "simulated"
    data.mkdir()
    with pytest.raises(Failed, match="nowhere"):
        train(configure(tmp_path, make_data(data), extra='initial = "nowhere"'), report=str)


def test_from_two_folders_to_a_model_that_synthesises(tmp_path):
    """Heads in odd orientations as files, brains of others, a few steps, export, and a synthesis with the result."""
    from USMRISynthesisLib.cli.command_line import main

    sample = Path(__file__).parents[3] / "Resources" / "SampleData" / "fetal-head-simulated.nrrd"
    if not sample.is_file():
        pytest.skip("the sample volume is not here")
    head = Volume.read(sample)
    us, mr, run = tmp_path / "us", tmp_path / "mr", tmp_path / "run"
    us.mkdir()
    mr.mkdir()
    rng = np.random.default_rng(5)
    turned = np.eye(4)
    turned[:3, :3] = random_rotation(rng)
    Volume(head.array[::2, ::2, ::2], turned @ head.ijk_to_ras @ np.diag([2, 2, 2, 1])).write(us / "a.mha")
    head.write(us / "b.nrrd")
    for number in (0, 3):
        volume, _ = brain(number)
        volume.write(mr / f"sub-{number}_T2w.nii.gz")
        mask = Volume((volume.array > 0).astype(np.uint8), volume.ijk_to_ras)
        mask.write(mr / f"sub-{number}_desc-brain_mask.nii.gz")
    small = (CONFIGS / "lab.toml").read_text().replace("width = 16\nmul", "width = 2\nmul").replace('"default"', '""')
    small = small.replace("steps = 20000", "steps = 3\nlog_every = 1").replace("scanned = 6", "scanned = 2")
    (tmp_path / "small.toml").write_text(small.replace("threads = 2", "threads = 1"))
    words = ["train", "--us", str(us), "--mr", str(mr), str(tmp_path / "small.toml"), "--output", str(run)]
    assert main(words) == 0
    assert main(["export", str(run / "checkpoint.pt"), str(tmp_path / "model"), "--name", "ours"]) == 0
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_text())
    assert "own ultrasound" in json.dumps(manifest["training"]["data"])
    assert any("pairs" in limit for limit in manifest["limits"]) and manifest["caution"] in manifest["limits"]
    out = tmp_path / "mr.nrrd"
    assert main(["synthesize", str(sample), str(out), "--model", str(tmp_path / "model"), "--trust-model"]) == 0
    assert Volume.read(out).shape == head.shape
