"""Data sets: what is in a case, the same bytes again, and configurations refused by key and reason."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from factories.atlas import make_atlas
from PIL import Image
from USMRISynthesisLib.cli import command_line as cli
from USMRISynthesisLib.errors import Failed, Refused
from USMRISynthesisLib.geometry.canonical import canonical_axis_mm
from USMRISynthesisLib.simulation import dataset
from USMRISynthesisLib.simulation.config import DatasetConfig, Head
from USMRISynthesisLib.simulation.scanner.volume import AcquisitionRanges

ROOT = Path(__file__).parents[3]
KNOWN = ["GA24-made", "GA29-made"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_atlas(tmp_path_factory.mktemp("data"))


def _configuration(tmp_path: Path, **changes: object) -> Path:
    splits = {"train": {"cases": 1, "atlases": ["GA24-made"]}}
    path = tmp_path / "simulation.json"
    path.write_text(json.dumps({"seed": 1, "frames": False, "splits": splits} | changes))
    return path


@pytest.fixture(scope="module")
def made(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of a data set of one head seen from the left with an anomaly and two frames, and one plain head."""
    folder = tmp_path_factory.mktemp("made")
    listed = {"heads": [{"atlas": "GA29-made", "seed": 5, "view": "left", "anomaly": "ventriculomegaly"}]}
    rule = {"cases": 1, "atlases": ["GA24-made"]}
    path = _configuration(folder, splits={"train": rule, "val": listed}, frames_a_head=2)
    return dataset.simulate(path, folder / "out", data=data, workers=1)


def test_a_data_set_is_written_with_its_hashes(made: Path) -> None:
    record = json.loads(made.read_text())
    assert record["simulated"] is True
    assert sorted(record["sha256"]) == ["train/GA24-made-0000.npz", "val/GA29-made-0000.npz"]
    assert sorted(record["array_sha256"]) == sorted(record["sha256"])


def test_a_case_holds_the_image_and_every_kind_of_truth(made: Path) -> None:
    with np.load(made.parent / "val" / "GA29-made-0000.npz") as case:
        for key in ("us", "t2", "labels", "fan", "skull"):
            assert case[key].shape == (160, 160, 160)
        assert case["us"].dtype == case["t2"].dtype == case["labels"].dtype == np.uint8
        assert case["fan"].dtype == case["skull"].dtype == bool
        assert int(case["week"]) == 29 and int(case["seed"]) == 5 and str(case["anomaly"]) == "ventriculomegaly"
        parameters = json.loads(str(case["parameters"]))
        assert parameters["atlas"] == "GA29-made" and parameters["view"] == "left"
        assert case["eyes"].shape == (2, 3)
        for key in ("us", "fan", "t2", "labels", "skull"):
            assert case[f"frames_{key}"].shape == (2, 160, 160)
        assert case["frames_plane"].shape == (2, 4, 4)
        assert (case["frames_us"][~case["frames_fan"]] == 0).all()


def test_the_pose_places_the_fan(made: Path) -> None:
    with np.load(made.parent / "val" / "GA29-made-0000.npz") as case:
        pose, fan, scale = case["pose"], case["fan"], float(case["scale"])
    assert np.cbrt(np.linalg.det(pose[:3, :3])) == pytest.approx(scale)
    places = canonical_axis_mm()[np.argwhere(fan)[::500]][:, ::-1]
    probe = (np.linalg.inv(pose) @ np.c_[places, np.ones(len(places))].T)[:3]  # physical mm from the beams' apex
    assert (probe[2] > 0).all()
    assert np.degrees(np.abs(np.arcsin(probe[0] / np.linalg.norm(probe, axis=0)))).max() < 45
    assert pose[:3, 2] @ [1, 0, 0] > 0.7 * scale  # from the left, the beams run to the right


def test_the_same_head_has_the_same_hashes_and_another_one_is_named(made: Path, tmp_path: Path) -> None:
    expected = tmp_path / "hashes.json"
    dataset.write_hashes(made, expected)
    dataset.check_hashes(made, expected)
    record = json.loads(expected.read_text())
    record["val/GA29-made-0000.npz"]["ultrasound"] = "0"
    expected.write_text(json.dumps(record))
    with pytest.raises(Failed, match=r"1 of 4 hashes .* the ultrasound of val/GA29-made-0000.npz"):
        dataset.check_hashes(made, expected)
    expected.write_text("[]")
    with pytest.raises(Refused, match="holds no hashes"):
        dataset.check_hashes(made, expected)


def test_the_same_seed_gives_the_same_arrays(made: Path, data: Path) -> None:
    torch.set_num_threads(1)  # as the workers have it: two add up in another order
    again = dataset.simulate_case(data, Head("GA29-made", 5, "left", "ventriculomegaly"), frames=1)
    with np.load(made.parent / "val" / "GA29-made-0000.npz") as case:
        for key in ("us", "t2", "labels", "fan", "eyes"):
            assert np.array_equal(again[key], case[key]), key
        assert np.array_equal(again["frames_us"][0], case["frames_us"][0])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"colour": 1}, r"colour is not a known key \(splits, seed, frames, frames_a_head\)"),
        ({"seed": -1}, "seed must be a whole number of at least 0"),
        ({"seed": True}, "seed must be a whole number"),
        ({"frames": 3}, "frames must be true or false"),
        ({"frames_a_head": 1.5}, "frames_a_head must be a whole number"),
        ({"splits": {}}, "splits is missing"),
        ({"splits": {"../up": {"cases": 1, "atlases": ["GA24-made"]}}}, "must be a plain name"),
        ({"splits": {"train": 3}}, "splits.train must be a JSON object"),
        ({"splits": {"train": {"cases": 0, "atlases": ["GA24-made"]}}}, "splits.train.cases must be a whole number"),
        ({"splits": {"train": {"cases": 1, "atlases": ["GA99"]}}}, "splits.train.atlases must name atlas folders"),
        ({"splits": {"train": {"cases": 1, "atlases": []}}}, "splits.train.atlases must name atlas folders"),
        ({"splits": {"train": {"cases": 1, "atlas": []}}}, r"splits.train.atlas is not a known key"),
        ({"splits": {"train": {"cases": 1, "atlases": ["GA24-made"], "views": ["under"]}}}, "views must name views"),
        (
            {"splits": {"train": {"cases": 1, "atlases": ["GA24-made"], "anomalies": ["x"]}}},
            "anomalies must name anomalies among ventriculomegaly",
        ),
        (
            {"splits": {"train": {"cases": 1, "atlases": ["GA24-made"], "acquisition": {"colour": [0, 1]}}}},
            "splits.train.acquisition.colour is not a known key",
        ),
        (
            {"splits": {"train": {"cases": 1, "atlases": ["GA24-made"], "acquisition": {"haze": [2, 1]}}}},
            "acquisition.haze must be two numbers, the lower first",
        ),
        (
            {"splits": {"train": {"cases": 1, "atlases": ["GA24-made"], "acquisition": {"haze": [[0, 1], [3, 2]]}}}},
            "acquisition.haze must be two numbers, the lower first, or a list of such pairs",
        ),
        ({"splits": {"train": {"heads": []}}}, "splits.train.heads must list at least one head"),
        ({"splits": {"train": {"heads": [{"atlas": "GA24-made"}]}}}, r"heads\[0\].seed must be a whole number"),
        ({"splits": {"train": {"heads": [{"atlas": "GA1", "seed": 1}]}}}, r"heads\[0\].atlas must name"),
        (
            {"splits": {"a": {"cases": 1, "atlases": ["GA24-made"]}, "b": {"cases": 1, "atlases": ["GA24-made"]}}},
            "splits.b holds week 24, which is in a too",
        ),
    ],
)
def test_a_bad_configuration_is_refused_by_key_and_reason(
    tmp_path: Path, changes: dict[str, object], sentence: str
) -> None:
    with pytest.raises(Refused, match=sentence):
        DatasetConfig.read(_configuration(tmp_path, **changes), KNOWN)


def test_settings_beyond_what_training_drew_change_the_picture_and_not_the_head(tmp_path: Path, data: Path) -> None:
    rule = {"cases": 1, "atlases": ["GA24-made"], "views": ["left"]}
    made = []
    for changes in ({}, {"acquisition": {"frequency_mhz": [6.0, 6.0]}}):
        config = DatasetConfig.read(_configuration(tmp_path, splits={"val": rule | changes}), KNOWN)
        made.append(dataset.simulate_case(data, config.splits["val"][0]))
    usual, other = made
    assert np.array_equal(usual["t2"], other["t2"]) and not np.array_equal(usual["us"], other["us"])
    frequencies = [json.loads(str(case["parameters"]))["frequency_mhz"] for case in made]
    assert frequencies[0] < 5.0 < frequencies[1] == 6.0


def test_a_setting_may_have_ranges_with_a_gap_and_leaves_the_others_as_they_were(tmp_path: Path) -> None:
    rule = {"cases": 1, "atlases": ["GA24-made"], "acquisition": {"haze": [[0.1, 0.4], [1.2, 1.4]]}}
    config = DatasetConfig.read(_configuration(tmp_path, splits={"val": rule}), KNOWN)
    ranges = config.splits["val"][0].ranges
    assert ranges is not None
    pairs = [
        (AcquisitionRanges().draw(np.random.default_rng(seed)), ranges.draw(np.random.default_rng(seed)))
        for seed in range(400)
    ]
    values = np.array([other["haze"] for _, other in pairs])
    low, high = values[values < 0.8], values[values > 0.8]
    assert 0.1 <= low.min() < 0.12 and 0.38 < low.max() <= 0.4 and 1.2 <= high.min() and high.max() <= 1.4
    assert 0.5 < len(low) / len(values) < 0.7  # by width: 0.3 of 0.5
    assert all(usual | {"haze": 0} == other | {"haze": 0} for usual, other in pairs)


def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(Refused, match=r"broken.json is no readable JSON"):
        DatasetConfig.read(tmp_path / "broken.json", KNOWN)


def test_the_benchmark_spans_weeks_views_and_anomalies() -> None:
    listed = json.loads((ROOT / "configs" / "benchmark.json").read_text())["splits"]["benchmark"]["heads"]
    known = sorted({row["atlas"] for row in listed})
    heads = DatasetConfig.read(ROOT / "configs" / "benchmark.json", known).splits["benchmark"]
    assert len(heads) >= 30 and len({head.seed for head in heads}) == len(heads)
    assert {int(head.atlas[2:4]) for head in heads} == set(range(21, 35))
    assert {head.view for head in heads} == {"left", "right", "top", "front-side", "back-side"}
    anomalies = [head.anomaly for head in heads if head.anomaly]
    assert len(anomalies) == 10 and set(anomalies) == {"ventriculomegaly", "absent-cavum", "mass"}


def test_the_preview_is_a_picture_and_a_wrong_call_is_one_sentence(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "preview.png"
    assert cli.main(["simulate", "--preview", str(target), "--seed", "1", "--data", str(data)]) == 0
    assert "Simulated fetal head, week 29, seed 1" in capsys.readouterr().out
    with Image.open(target) as picture:
        assert picture.format == "PNG" and min(picture.size) > 900 and np.asarray(picture).std() > 30
    for arguments, sentence in (
        (["--preview", str(tmp_path / "preview.jpg")], "cannot be written as preview.jpg"),
        (["--preview", str(tmp_path / "none" / "preview.png")], "does not exist"),
        (["--preview", str(target), "--seed", "-1"], "negative"),
        ([], "needs a configuration and a folder"),
    ):
        assert cli.main(["simulate", "--data", str(data), *arguments]) == 2
        assert sentence in capsys.readouterr().err
