"""Heads from normal averages: read by name and never listed for training, compared at the true pose, side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories.atlas import make_atlas
from USMRISynthesisLib.cli import command_line as cli
from USMRISynthesisLib.errors import Failed, Refused
from USMRISynthesisLib.evaluation.normal import evaluate as normal
from USMRISynthesisLib.evaluation.normal import heads
from USMRISynthesisLib.evaluation.real import fitted_atlas
from USMRISynthesisLib.geometry.canonical import canonical_ijk_to_ras
from USMRISynthesisLib.geometry.similarity import turn_about_x
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.models import store
from USMRISynthesisLib.simulation.anatomy import atlas
from USMRISynthesisLib.synthesis.result import Synthesis

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up atlas, and one of its weeks once more as a normal average whose midline lies 2.4 mm to the right."""
    root = make_atlas(tmp_path_factory.mktemp("data"))
    source, target = root / atlas.FOLDER / "GA24-made", root / atlas.NORMAL_FOLDER / "GA24-normal"
    target.mkdir(parents=True)
    for name in ("t2.nii.gz", "labels.nii.gz"):
        volume = Volume.read(source / name)
        Volume(np.roll(volume.array, 2, axis=2), volume.ijk_to_ras).write(target / name)
    return root


def write_config(folder: Path, **split: Any) -> Path:
    path = folder / "normal.json"
    path.write_text(json.dumps({"splits": {"normal": {"cases": 1, **split}}}))
    return path


def test_normal_averages_are_loaded_by_name_and_never_listed_for_training(data: Path, tmp_path: Path) -> None:
    assert atlas.available(data) == ["GA24-made", "GA29-made"]
    assert atlas.available(data, atlas.NORMAL_FOLDER) == ["GA24-normal"]
    assert atlas.load(data, "GA24-normal").week == 24
    (spec,) = heads.read_heads(write_config(tmp_path, atlases=["GA24-normal"], scatter_model="points"), data)
    assert spec.atlas == "GA24-normal" and spec.machine.scatter == "points"
    with pytest.raises(Refused, match="atlas folders"):
        heads.read_heads(write_config(tmp_path, atlases=["GA24-made"]), data)


def test_no_configuration_that_trains_names_a_normal_average() -> None:
    for path in (ROOT / "configs").glob("*.json"):
        assert path.name == "normal-heads.json" or "-normal" not in path.read_text(), path.name


def test_a_normal_average_is_shifted_onto_the_midline(data: Path) -> None:
    raw = Volume.read(data / atlas.NORMAL_FOLDER / "GA24-normal" / "t2.nii.gz").ijk_to_ras
    moved = atlas.load(data, "GA24-normal")
    assert moved.ijk_to_ras[0, 3] - raw[0, 3] == pytest.approx(-2.4, abs=0.05)
    assert moved.label_ras(atlas.CORPUS_CALLOSUM)[:, 0].mean() == pytest.approx(0, abs=0.1)
    assert atlas.load(data, "GA24-made").ijk_to_ras == pytest.approx(raw)


def test_a_missing_atlas_or_configuration_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="There is no configuration"):
        heads.read_heads(tmp_path / "missing.json", data)
    with pytest.raises(Failed, match="No fetal MR atlas"):
        heads.read_heads(write_config(tmp_path, atlases=["GA24-normal"]), tmp_path)


def head_of(data: Path, turn: float) -> heads.NormalHead:
    truth = fitted_atlas.canonical_average(data, "GA24-made")
    to_canonical = np.eye(4)
    to_canonical[:3, :3] = 1.25 * turn_about_x(turn)
    to_canonical[:3, 3] = (4, -3, 9)
    grid = np.linalg.inv(to_canonical) @ canonical_ijk_to_ras()
    us = (200 * truth).astype(np.uint8)
    return heads.NormalHead("made", 24, Volume(us, grid), to_canonical, truth, truth > 0, np.uint8(truth > 0))


def result_of(head: heads.NormalHead, array: np.ndarray, transform: np.ndarray) -> Synthesis:
    mr = Volume(np.rint(1000 * array.astype(np.float32)).astype(np.int16), head.volume.ijk_to_ras)
    return Synthesis(mr, transform, mr, {})


def test_the_truth_in_its_place_scores_one_and_elsewhere_less(data: Path) -> None:
    head = head_of(data, 130)
    right = normal.measure(data, head, result_of(head, head.t2, head.to_canonical), True)
    assert right["methods"]["ours"]["ncc"] > 0.999 and right["rotation_deg"] == pytest.approx(0, abs=1e-4)
    aside = np.roll(head.t2, 8, axis=2)
    moved = normal.measure(data, head, result_of(head, aside, head.to_canonical), True)
    assert moved["methods"]["ours"]["ncc"] < 0.9


def test_a_wrong_pose_costs_the_fitted_atlas_and_not_the_mean_at_the_true_pose(data: Path) -> None:
    head = head_of(data, 20)
    tilted = np.eye(4)
    tilted[:3, :3] = turn_about_x(25)
    right = normal.measure(data, head, result_of(head, head.t2, head.to_canonical), True)["methods"]
    wrong = normal.measure(data, head, result_of(head, head.t2, tilted @ head.to_canonical), True)
    assert wrong["rotation_deg"] == pytest.approx(25, abs=1e-3)
    assert wrong["methods"]["fitted atlas"]["ncc"] < right["fitted atlas"]["ncc"] - 0.05
    assert wrong["methods"][normal.TRUE_POSE] == right[normal.TRUE_POSE]
    # The mean MR itself has no residual.
    mean = fitted_atlas.mean_mr(data)
    own = normal.measure(data, head, result_of(head, mean, head.to_canonical), True)["methods"]["ours"]
    assert abs(own["residual_ncc"]) < 0.2 < right["ours"]["residual_ncc"]


def test_nothing_made_counts_as_nothing_right(data: Path) -> None:
    found = normal.measure(data, head_of(data, 0), None, False)
    assert found["methods"]["ours"]["ncc"] == 0 and "rotation_deg" not in found and not found["accepted"]


def test_sets_of_weights_stand_side_by_side(data: Path) -> None:
    head = head_of(data, 0)
    good = {"a": normal.measure(data, head, result_of(head, head.t2, head.to_canonical), True)}
    bad = {"a": normal.measure(data, head, None, False)}
    result = normal.summarise({"bundled": good, "older": bad}, ["points"])
    assert result["ncc"] > 0.99 and result["accepted_share"] == 1 and result["scatter_model"] == "points"
    assert result["weights"]["older"]["ncc"][0] == 0 and result["weights"]["older"]["turned_share"] == 1
    assert result["ncc_fitted_atlas"] == result["weights"]["fitted atlas, pose of bundled"]["ncc"][0]
    lines = normal.table(result).splitlines()
    assert any(line.startswith("older") and "0.000" in line for line in lines)


def test_names_of_models_mean_those_of_a_folder_within_the_block(tmp_path: Path) -> None:
    bundled = store.find_model("default")
    older = tmp_path / "older" / "default"
    older.mkdir(parents=True)
    (older / "manifest.json").write_text((bundled / "manifest.json").read_text())
    with store.models_from(tmp_path / "older"):
        assert store.find_model("default") == older
        assert store.find_model("alignment") == bundled.parent / "alignment"
    assert store.find_model("default") == bundled
    with pytest.raises(Failed, match="no models in empty"), store.models_from(tmp_path / "empty"):
        pass


def test_the_command_needs_a_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["evaluate", "normal", "--data", str(tmp_path), "--config", str(tmp_path / "none.json")])
    assert code != 0 and "There is no configuration none.json." in capsys.readouterr().err


def test_a_scan_is_stored_on_the_probe_s_axes_where_the_truth_says(data: Path) -> None:
    """One head through the simulator: the bright skull lies where the true pose puts it."""
    config = {"splits": {"normal": {"cases": 1, "atlases": ["GA24-normal"]}}, "seed": 3}
    path = data / "one.json"
    path.write_text(json.dumps(config))
    (spec,) = heads.read_heads(path, data)
    head = heads.simulate(data, spec)
    grid = head.to_canonical @ head.volume.ijk_to_ras
    turn = head.volume.ijk_to_ras[:3, :3] / np.linalg.norm(head.volume.ijk_to_ras[:3, 0])
    assert np.abs(turn - np.eye(3)).max() > 0.1 and turn @ turn.T == pytest.approx(np.eye(3), abs=1e-6)
    assert np.linalg.norm(grid[:3, 0]) == pytest.approx(heads.VOXEL_MM)
    from USMRISynthesisLib.geometry.canonical import to_canonical

    us, _ = to_canonical(head.volume.array, head.volume.ijk_to_ras, head.to_canonical)
    built = heads.build(atlas.load(data, "GA24-normal"), spec.seed, heads.ANATOMY)
    ring = us[(built.skull_distance < 0) & (built.skull_distance > -2.5) & (us > 0)].mean()
    inside = us[(built.skull_distance < -8) & (us > 0)].mean()
    assert ring > 1.3 * inside
