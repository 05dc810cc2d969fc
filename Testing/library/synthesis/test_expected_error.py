"""Expected error: what it is read from, its calibration file, its fit, and the number in a result's provenance."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.evaluation.expected_error import evaluate as measured
from USMRISynthesisLib.models.store import find_model, read_manifest
from USMRISynthesisLib.synthesis import expected_error as expected
from USMRISynthesisLib.synthesis.expected_error import NAMES, Calibration, Features, Fit, Whole

WEIGHTS = {"size": 0.8, "area": -0.3}
FIT = Fit(
    4.0, tuple(WEIGHTS[name] for name in NAMES), tuple(-9.0 for _ in NAMES), tuple(9.0 for _ in NAMES), 0.6, 1.7
)  # fmt: skip
CALIBRATION = Calibration((FIT, Whole(1.0, 0.8, 1.3)), (replace(FIT, intercept=3.5), Whole(1.0, 0.7, 1.4)))


def values_of(**columns: np.ndarray) -> np.ndarray:
    """(n, features): those that are named, the others 0."""
    n = len(next(iter(columns.values())))
    return np.stack([columns.get(name, np.zeros(n)) for name in NAMES], axis=1)


def head(n: int = 40, seed: int = 0, noise: float = 0.2) -> measured.Head:
    """Slices whose error follows FIT with so much noise."""
    rng = np.random.default_rng(seed)
    values = values_of(size=np.log(rng.uniform(0.02, 0.4, n)), area=np.log(rng.uniform(0.1, 1, n)))
    error = FIT.predict(values)[:, 0] * np.exp(noise * rng.standard_normal(n))
    return measured.Head(f"head {seed}", Features(np.arange(n), values, np.full(n, 900)), error, error.mean())


def test_features_are_of_the_brain_that_the_beam_reached() -> None:
    mr = np.full((5, 40, 40), -1.0)
    mr[1:4, 5:35, 5:35] = -0.3
    inside = np.ones(mr.shape, bool)
    inside[:, :, 20:] = False
    mr[3, 20:] = -1.0  # half as much brain
    size = np.where(np.arange(5)[:, None, None] == 1, 0.1, 0.4) * np.ones(mr.shape)
    size[~inside] = 9  # where no beam was nothing counts
    found = expected.features_of(size, mr, inside)
    assert found is not None and found.slices.tolist() == [1, 2, 3] and found.voxels.tolist() == [450, 450, 225]
    column = dict(zip(NAMES, found.values.T, strict=True))
    assert np.exp(column["size"]) == pytest.approx([0.1, 0.4, 0.4], abs=2e-3)
    assert np.exp(column["area"]) == pytest.approx([1, 1, 0.5])
    assert expected.features_of(size, mr, inside & (np.arange(40) < 8)) is None


def test_a_larger_size_is_a_larger_error_and_the_interval_holds_it() -> None:
    low, high = FIT.predict(values_of(size=np.log([0.05, 0.3])))
    assert low[0] < high[0] and low[1] < low[0] < low[2]
    assert FIT.predict(values_of(size=np.array([9.0])))[0, 2] == 255


def test_beyond_what_was_fitted_the_error_is_that_of_the_end() -> None:
    fit = replace(FIT, lowest=tuple(-2.0 for _ in NAMES), highest=tuple(0.0 for _ in NAMES))
    ends, beyond = (
        fit.predict(values_of(size=np.array([-2.0, 0.0]))),
        fit.predict(values_of(size=np.array([-7.0, 5]))),
    )
    assert beyond == pytest.approx(ends)


def test_words_follow_the_grey() -> None:
    assert [expected.word(grey) for grey in (3.0, 10.0, 10.1, 20.0, 20.1)] == [
        "low", "low", "moderate", "moderate", "high",
    ]  # fmt: skip


def test_the_estimate_names_the_whole_and_each_slice_by_its_place() -> None:
    features = head(3).features
    found = expected.estimate(features, CALIBRATION, several=False, z_mm=np.array([-6.0, 0.0, 6.0]))
    assert [row["z_mm"] for row in found["slices"]] == [-6.0, 0.0, 6.0]
    assert found["interval"][0] <= found["whole"] <= found["interval"][1]
    assert found["slices"][1]["grey"] == round(float(FIT.predict(features.values)[1, 0]), 1)
    assert found["whole"] > expected.estimate(features, CALIBRATION, several=True, z_mm=np.zeros(3))["whole"]
    json.dumps(found, allow_nan=False)


@pytest.fixture
def manifest() -> expected.Manifest:
    return read_manifest(find_model("default"))


def test_a_calibration_is_read_back_for_its_own_weights_only(tmp_path: Path, manifest: expected.Manifest) -> None:
    path = tmp_path / expected.FILE
    assert expected.read_calibration(tmp_path, manifest) is None
    path.write_text(expected.calibration_text(CALIBRATION, manifest, "a test"))
    assert expected.read_calibration(tmp_path, manifest) == CALIBRATION
    assert expected.read_calibration(tmp_path, replace(manifest, sha256="0" * 64)) is None


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"version": 2}', "not JSON", "NaN", "short"])
def test_a_damaged_calibration_is_none(tmp_path: Path, manifest: expected.Manifest, damage: str) -> None:
    content = expected.calibration_text(CALIBRATION, manifest, "a test")
    damaged = {"NaN": content.replace("4.0", "NaN"), "short": content.replace("0.8,", "", 1)}
    (tmp_path / expected.FILE).write_text(damaged.get(damage, damage))
    assert expected.read_calibration(tmp_path, manifest) is None


def test_a_fit_recovers_what_made_the_errors_and_covers_new_heads() -> None:
    heads = {"one": [head(seed=n) for n in range(12)], "several": [head(seed=n) for n in range(12)]}
    found = measured.fit(heads)
    of_slice = found.several[0]
    assert of_slice.weights == pytest.approx(FIT.weights, abs=0.12)
    new = {
        "one": [head(seed=n) for n in range(50, 60)],
        "several": [head(seed=n) for n in range(50, 60)],
    }
    for row in measured.tested(new, found).values():
        assert 0.85 <= row["slice_coverage"] <= 0.95
        assert row["slice_rank_correlation"] > 0.8
        assert row["slice_expected_grey"] == pytest.approx(row["slice_error_grey"], rel=0.1)


def test_errors_that_no_doubt_announces_are_not_ranked() -> None:
    heads = {"one": [head(seed=n) for n in range(6)], "several": []}
    mixed = [replace(one, error=np.random.default_rng(n).permutation(one.error)) for n, one in enumerate(heads["one"])]
    row = measured.tested({"one": mixed, "several": []}, measured.fit(heads))["one"]
    assert abs(row["slice_rank_correlation"]) < 0.2


def test_two_heads_are_too_few_for_a_fit() -> None:
    with pytest.raises(Refused, match=r"At least three simulated heads are needed"):
        measured.fit({"one": [head(), head(seed=1)], "several": []})


def test_a_larger_size_never_means_a_smaller_error() -> None:
    rising = [head(seed=n) for n in range(4)]
    falling = [replace(one, error=500 / one.error) for one in rising]
    fit, _ = measured.fit({"one": falling, "several": falling}).several
    assert fit.weights[0] == pytest.approx(0, abs=1e-6)
