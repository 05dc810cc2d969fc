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
from USMRISynthesisLib.synthesis.expected_error import Calibration, Features, Fit

FIT = Fit(4.0, 0.8, 0.1, 0.6, 1.7)
CALIBRATION = Calibration(
    (FIT, replace(FIT, low=0.8, high=1.3)), (replace(FIT, intercept=3.5), replace(FIT, intercept=3.5))
)


def head(n: int = 40, seed: int = 0, noise: float = 0.2, several: bool = True) -> measured.Head:
    """Slices whose error follows FIT with so much noise."""
    rng = np.random.default_rng(seed)
    doubt, spread = rng.uniform(0.02, 0.4, n), rng.uniform(0.05, 0.6, n) * several
    error = np.array([FIT.predict(*pair)[0] for pair in zip(doubt, spread, strict=True)])
    error = error * np.exp(noise * rng.standard_normal(n))
    return measured.Head(f"head {seed}", Features(np.arange(n), doubt, spread, np.full(n, 900)), error, error.mean())


def test_features_are_means_over_the_brain_that_the_beam_reached() -> None:
    mr = np.full((4, 40, 40), -1.0)
    mr[1:3, 5:35, 5:35] = 0.3
    inside = np.ones(mr.shape, bool)
    inside[:, :, 20:] = False
    reliability = np.where(np.arange(4)[:, None, None] == 1, 0.9, 0.6) * np.ones(mr.shape)
    reliability[~inside] = 0  # where no beam was nothing counts
    spread = 0.25 * np.ones(mr.shape)
    found = expected.features_of(reliability, mr, spread, inside)
    assert found is not None and found.slices.tolist() == [1, 2]
    assert found.doubt == pytest.approx([0.1, 0.4]) and found.spread == pytest.approx([0.25, 0.25])
    assert found.voxels.tolist() == [450, 450] and found.whole == pytest.approx((0.25, 0.25))
    assert expected.features_of(reliability, mr, None, inside & (np.arange(40) < 8)) is None


def test_more_doubt_is_a_larger_error_and_the_interval_holds_it() -> None:
    low, high = FIT.predict(0.05, 0.2), FIT.predict(0.3, 0.2)
    assert low[0] < high[0] and low[1] < low[0] < low[2]
    assert FIT.predict(1.0, 1e9)[2] == 255


def test_words_follow_the_grey() -> None:
    assert [expected.word(grey) for grey in (3.0, 10.0, 10.1, 20.0, 20.1)] == [
        "low", "low", "moderate", "moderate", "high",
    ]  # fmt: skip


def test_the_estimate_names_the_whole_and_each_slice_by_its_place() -> None:
    features = head(3).features
    found = expected.estimate(features, CALIBRATION, several=False, z_mm=np.array([-6.0, 0.0, 6.0]))
    assert [row["z_mm"] for row in found["slices"]] == [-6.0, 0.0, 6.0]
    assert found["interval"][0] <= found["whole"] <= found["interval"][1]
    assert found["slices"][1]["grey"] == round(FIT.predict(features.doubt[1], features.spread[1])[0], 1)
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


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"version": 1}', "not JSON", "NaN"])
def test_a_damaged_calibration_is_none(tmp_path: Path, manifest: expected.Manifest, damage: str) -> None:
    content = expected.calibration_text(CALIBRATION, manifest, "a test")
    (tmp_path / expected.FILE).write_text(content.replace("4.0", "NaN") if damage == "NaN" else damage)
    assert expected.read_calibration(tmp_path, manifest) is None


def test_a_fit_recovers_what_made_the_errors_and_covers_new_heads() -> None:
    heads = {"one": [head(seed=n, several=False) for n in range(12)], "several": [head(seed=n) for n in range(12)]}
    found = measured.fit(heads)
    of_slice = found.several[0]
    assert (of_slice.intercept, of_slice.doubt, of_slice.spread) == pytest.approx((4.0, 0.8, 0.1), abs=0.12)
    new = {
        "one": [head(seed=n, several=False) for n in range(50, 60)],
        "several": [head(seed=n) for n in range(50, 60)],
    }
    for row in measured.tested(new, found).values():
        assert 0.85 <= row["slice_coverage"] <= 0.95
        assert row["slice_rank_correlation"] > 0.8
        assert row["slice_expected_grey"] == pytest.approx(row["slice_error_grey"], rel=0.1)


def test_errors_that_no_doubt_announces_are_not_ranked() -> None:
    heads = {"one": [head(seed=n, several=False) for n in range(6)], "several": []}
    mixed = [replace(one, error=np.random.default_rng(n).permutation(one.error)) for n, one in enumerate(heads["one"])]
    row = measured.tested({"one": mixed, "several": []}, measured.fit(heads))["one"]
    assert abs(row["slice_rank_correlation"]) < 0.2


def test_two_heads_are_too_few_for_a_fit() -> None:
    with pytest.raises(Refused, match=r"At least three simulated heads are needed"):
        measured.fit({"one": [head(), head(seed=1)], "several": []})


def test_more_doubt_never_means_a_smaller_error() -> None:
    rising = [head(seed=n) for n in range(4)]
    falling = [replace(one, error=500 / one.error) for one in rising]
    for fit in measured.fit({"one": falling, "several": falling}).several:
        assert fit.doubt == pytest.approx(0, abs=1e-6) and fit.spread == pytest.approx(0, abs=1e-6)
