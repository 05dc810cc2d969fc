"""Evaluation of the biometry: offset and error from where they should come, figures, and the command's refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from USMRISynthesisLib.alignment.biometry import NAMES, Accuracy
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.evaluation.biometry import evaluate as measured
from USMRISynthesisLib.geometry.canonical import HC_PLANE_Z_MM, canonical_axis_mm


def pairs(offset: float, deviation: float, count: int = 400, seed: int = 0) -> list[measured.Pair]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        true = {"hc": rng.uniform(150, 330), "bpd": rng.uniform(45, 90), "ofd": rng.uniform(55, 110)}
        found.append(({k: v * (1 + offset) * (1 + deviation * rng.standard_normal()) for k, v in true.items()}, true))
    return found


def test_the_offset_is_that_of_the_training_frames_and_the_error_that_of_the_validation() -> None:
    found = measured.fit(pairs(0.03, 0.005), pairs(0.03, 0.02, seed=1))
    for name in NAMES:
        assert found[name]["offset"] == pytest.approx(0.03, abs=0.002)
        assert found[name]["deviation"] == pytest.approx(0.02, rel=0.15)
    assert measured.fit([], pairs(0.03, 0.005))["hc"]["offset"] == 0
    assert np.isnan(measured.fit([], pairs(0.0, 0.01, 3))["hc"]["deviation"])


def test_what_was_fitted_covers_new_frames() -> None:
    fitted = measured.fit(pairs(0.03, 0.02), pairs(0.03, 0.02, seed=1))
    accuracy = {name: Accuracy(**row) for name, row in fitted.items()}
    rows = measured.report(pairs(0.03, 0.02, seed=2), accuracy)
    for row in rows.values():
        assert 0.92 <= row["interval_coverage"] <= 0.98
        assert row["agreement_low_mm"] < row["difference_mm"] < row["agreement_high_mm"]
    assert abs(rows["hc"]["difference_mm"]) < 0.6
    uncorrected = measured.report(pairs(0.03, 0.02, seed=2), {name: Accuracy(0.0, 0.02) for name in NAMES})
    assert uncorrected["hc"]["difference_mm"] > 5


def test_true_sizes_are_those_of_the_skull_in_its_own_mm() -> None:
    axis = canonical_axis_mm()
    z, y, x = np.meshgrid(axis - HC_PLANE_Z_MM, axis, axis, indexing="ij")
    found = measured._true_sizes((x / 33) ** 2 + (y / 42) ** 2 + (z / 36) ** 2 < 1, 0.8)
    assert found is not None
    assert (found["bpd"], found["ofd"]) == pytest.approx((66 / 0.8, 84 / 0.8), rel=0.01)


def test_missing_frames_and_missing_cases_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no HC18 frames"):
        measured.evaluate(tmp_path)
    with pytest.raises(Refused, match="no cases with volumes"):
        measured._volumes(tmp_path)
