"""The evaluation separates the truth from the mean and from a copy, and names what is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from factories.atlas import make_atlas
from USMRISynthesisLib.datasets.simulated import Case, cases
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.evaluation.real.fitted_atlas import canonical_average
from USMRISynthesisLib.evaluation.synthesis import evaluate as synthesis
from USMRISynthesisLib.evaluation.synthesis.frame_prediction import mean_frame
from USMRISynthesisLib.geometry.canonical import canonical_axis_mm
from USMRISynthesisLib.simulation.anatomy.labels import MASS


def _case(path: Path, ventricle_mm: float, seed: int, anomaly: str = "none") -> None:
    axis = canonical_axis_mm()
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    brain = (x / 32) ** 2 + (y / 40) ** 2 + (z / 34) ** 2 < 1
    fluid = ((np.abs(x) - 8) / ventricle_mm) ** 2 + (y / 14) ** 2 + (z / 10) ** 2 < 1
    labels = np.where(fluid, 2, np.where(brain, 1, 0)).astype(np.uint8)
    t2 = np.select([fluid, brain], [230, 120], 0) * (1 + 0.05 * np.sin(y / 3))
    us = np.random.default_rng(seed).integers(1, 255, labels.shape).astype(np.uint8)
    fan = np.ones(labels.shape, bool)
    t2 = np.clip(t2, 0, 255).astype(np.uint8)
    frames = {f"frames_{name}": array[78:81] for name, array in (("us", us), ("t2", t2), ("labels", labels))}
    np.savez(path, us=us, t2=t2, labels=labels, fan=fan, scale=1.0, anomaly=anomaly, frames_fan=fan[78:81], **frames)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sim")
    for split, widths in (("train", (4.0, 6.0)), ("val", (3.0, 5.0, 7.0))):
        (root / split).mkdir()
        for index, width in enumerate(widths):
            _case(root / split / f"case-{index}.npz", width, index)
    return root


def test_the_truth_scores_one_and_orders_the_ventricles(simulated: Path) -> None:
    result = synthesis.evaluate(simulated, lambda case: case.t2)
    values = {key: value[0] for key, value in result["values"].items()}
    assert result["simulated"] is True and result["cases"] == 3
    assert values["ncc"] == pytest.approx(1) and values["residual_ncc"] == pytest.approx(1)
    assert values["shift_within_1px"] == 1
    assert values["head_dice"] > 0.99 and values["mae"] == 0
    assert "simulated" in synthesis.table(result)


def test_a_memorised_mean_scores_no_residual_and_its_own_ncc(simulated: Path) -> None:
    mean = synthesis.mean_mr(simulated / "train")
    values = synthesis.evaluate(simulated, lambda case: mean)["values"]
    assert values["residual_ncc"][0] == 0
    assert values["ncc"][0] == pytest.approx(values["ncc_mean_mr"][0])


def test_an_image_that_lies_two_pixels_beside_is_caught(simulated: Path) -> None:
    values = synthesis.evaluate(simulated, lambda case: np.roll(case.t2, 3, axis=2))["values"]
    assert values["shift_within_1px"][0] < 0.5


def test_frames_are_measured_against_their_own_truth_and_mean(simulated: Path) -> None:
    mean = mean_frame(simulated / "train")
    assert mean is not None
    values = synthesis.evaluate(simulated, lambda case: case.t2, predict_frame=lambda us, fan: mean)["values"]
    assert values["frame_residual_ncc"][0] == 0
    assert values["frame_ncc"][0] == pytest.approx(values["frame_ncc_mean_mr"][0])
    assert values["frame_head_dice"][0] > 0.99


def test_heads_without_frames_are_measured_all_the_same(simulated: Path, tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    with np.load(simulated / "val" / "case-0.npz") as case:
        np.savez(tmp_path / "val" / "bare.npz", **{k: v for k, v in case.items() if not k.startswith("frames_")})
    mean = mean_frame(simulated / "train")
    assert mean is not None
    values = synthesis.evaluate(
        tmp_path, lambda case: case.t2, train=simulated / "train", predict_frame=lambda us, fan: mean
    )["values"]
    assert values["ncc"][0] == pytest.approx(1) and not any(key.startswith("frame_") for key in values)


def test_heads_with_an_anomaly_are_listed_apart_and_the_mean_may_lie_elsewhere(simulated: Path, tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    for index, anomaly in enumerate(("none", "mass", "mass")):
        _case(tmp_path / "val" / f"case-{index}.npz", 4.0 + index, index, anomaly)

    def predict(case: Case) -> np.ndarray:  # right but for the second mass
        return 1 - case.t2 if case.name == "case-2" else case.t2

    result = synthesis.evaluate(tmp_path, predict, train=simulated / "train")
    assert result["by_anomaly"]["none"]["ncc"] == pytest.approx(1) and result["by_anomaly"]["mass"]["cases"] == 2
    assert result["by_anomaly"]["mass"]["ncc_lowest"] == pytest.approx(-1)
    assert "anomaly mass" in synthesis.table(result)
    assert synthesis.evaluate(simulated, lambda case: case.t2)["by_anomaly"] == {}


def test_a_folder_without_cases_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="usmri simulate"):
        list(cases(tmp_path))


def test_what_is_made_of_a_mass_counts(simulated: Path, tmp_path: Path) -> None:
    """A mass painted over as ordinary brain is the error that matters most."""
    (tmp_path / "val").mkdir()
    path = tmp_path / "val" / "case-0.npz"
    _case(path, 4.0, 0, "mass")
    with np.load(path) as file:
        case = dict(file)
    healthy = case["t2"].astype(np.float32) / 255
    case["labels"][70:90, 60:80, 60:80] = MASS
    case["t2"][70:90, 60:80, 60:80] = 10
    np.savez(path, **case)
    found = next(cases(tmp_path / "val"))
    assert found.brain[80, 70, 70]
    lost = synthesis.evaluate(tmp_path, lambda case: healthy, train=simulated / "train")["values"]["ncc"][0]
    assert lost < 0.9 < synthesis.evaluate(tmp_path, lambda c: c.t2, train=simulated / "train")["values"]["ncc"][0]


def test_the_fitted_atlas_is_the_average_of_another_week_at_the_head_s_size(tmp_path: Path) -> None:
    data = make_atlas(tmp_path)
    predict = synthesis.fitted_prediction(data)
    empty = np.zeros((2, 2, 2))
    of_24, of_29 = (
        predict(Case(name, empty, empty, empty, empty, scale=1.0)) for name in ("GA24-made-0000", "GA29-made-0001")
    )
    assert (of_24 == canonical_average(data, "GA29-made")).all()
    assert (of_29 == canonical_average(data, "GA24-made")).all()


def test_the_fitted_atlas_stands_beside_the_model_where_there_is_one(simulated: Path) -> None:
    values = synthesis.evaluate(simulated, lambda case: case.t2, fitted=lambda case: np.roll(case.t2, 6, axis=2))[
        "values"
    ]
    assert values["ncc"][0] == pytest.approx(1) and values["ncc_fitted_atlas"][0] < 0.95
    assert "ncc_fitted_atlas" not in synthesis.evaluate(simulated, lambda case: case.t2)["values"]
