"""The evaluation of the simulator: statistics with known answers, classifiers, the command line."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from USMRISynthesisLib.cli import command_line as cli
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.evaluation.metrics.image import auc_between
from USMRISynthesisLib.evaluation.pictures import simulated as simulated_pictures
from USMRISynthesisLib.evaluation.simulator import evaluate as simulator
from USMRISynthesisLib.evaluation.simulator import frames, two_sample, volumes
from USMRISynthesisLib.evaluation.simulator.appearance import frame_statistics, near_over_far
from USMRISynthesisLib.geometry.canonical import SPACING_MM, canonical_axis_mm

AXES = (35.0, 44.0)
FAN = np.ones((160, 160), bool)
X, Y = np.meshgrid(canonical_axis_mm(), canonical_axis_mm())
RADIUS = np.hypot(X / AXES[0], Y / AXES[1])


def _noise(rng: np.random.Generator, across_mm: float, along_mm: float) -> np.ndarray:
    """Unit Gaussian noise smoothed with these standard deviations."""
    smooth = ndimage.gaussian_filter(rng.standard_normal((160, 160)), (along_mm / SPACING_MM, across_mm / SPACING_MM))
    return smooth / smooth.std()


def _head(rng: np.random.Generator, speckle_mm: float = 0.6) -> np.ndarray:
    """A frame with speckled brain and a bright skull."""
    grey = 60 + 15 * _noise(rng, speckle_mm, speckle_mm) + 120 * (np.abs(RADIUS - 0.98) < 0.02)
    return np.clip(grey, 1, 255).astype(np.uint8)


@pytest.mark.parametrize("width", [2.4, 4.2])
def test_the_skull_is_as_wide_and_as_bright_as_it_was_drawn(width: float) -> None:
    distance = (RADIUS - 1) * np.hypot(X, Y) / np.maximum(RADIUS, 1e-6) + 1.0  # to a line 1 mm inside the outline
    sigma = width / 2.355
    us = np.round(20 + 180 * np.exp(-0.5 * (distance / sigma) ** 2)).astype(np.uint8)
    found = frame_statistics(us, FAN, AXES)
    assert found["skull_sides_width_mm"] == pytest.approx(width, abs=0.35)
    assert found["skull_sides_peak"] == pytest.approx(200, abs=6)
    assert found["skull_sides_offset_mm"] == pytest.approx(-1.0, abs=0.35)
    assert found["skull_sides_share"] == 1 and found["skull_ends_over_sides"] == pytest.approx(1, abs=0.05)


def test_the_speckle_is_as_long_as_it_was_drawn() -> None:
    us = np.clip(100 + 20 * _noise(np.random.default_rng(0), 0.6, 1.2), 0, 255).astype(np.uint8)
    found = frame_statistics(us, FAN, AXES)
    # the autocorrelation of noise smoothed by s falls to one half at 2 s sqrt(ln 2); the anatomy's part is taken away
    assert 0.78 < found["speckle_across_mm"] / 1.0 < 1.02
    assert 0.78 < found["speckle_along_mm"] / 2.0 < 1.02


def test_grey_levels_are_those_of_their_region_and_what_is_not_seen_is_nan() -> None:
    us = np.select([RADIUS < 0.87, RADIUS < 1.1], [40, 200], 90).astype(np.uint8)
    found = frame_statistics(us, FAN, AXES)
    assert (found["brain_p50"], found["skull_p50"], found["outside_p50"]) == (40, 200, 90)
    assert found["side_mean_ratio"] == 1 and found["brain_black"] == 0
    nothing = frame_statistics(us, np.zeros_like(FAN), AXES)
    assert np.isnan(nothing["brain_p50"]) and np.isnan(nothing["skull_sides_peak"]) and nothing["fan_share"] == 0


def test_the_near_hemisphere_is_that_by_the_probe() -> None:
    us = np.where(X > 0, 30, 60).astype(np.uint8)
    assert near_over_far(us, FAN, AXES, np.array([1.0, 0.0]))[0] == pytest.approx(31 / 61)
    assert near_over_far(us, FAN, AXES, np.array([-1.0, 0.0]))[0] == pytest.approx(61 / 31)


def test_rayleigh_noise_has_its_signal_to_noise_ratio_and_a_smooth_field_more() -> None:
    parts = torch.randn((2, 40, 60, 60), generator=torch.Generator().manual_seed(0))
    envelope = parts.square().sum(0).sqrt() * torch.linspace(1, 5, 40)[:, None, None]  # any gain along depth
    assert volumes.envelope_snr(envelope) == pytest.approx(1.913, abs=0.03)
    assert volumes.envelope_snr(envelope + 10) > 5


def test_the_contrast_to_noise_ratio_is_the_textbook_s() -> None:
    rng = np.random.default_rng(0)
    assert volumes.cnr(rng.normal(50, 3, 9000), rng.normal(40, 4, 9000)) == pytest.approx(2.0, abs=0.05)
    assert np.isnan(volumes.cnr(np.ones(10), np.ones(1000)))


def _frames(name: str, count: int, seed: int, speckle_mm: float) -> frames.Frames:
    rng = np.random.default_rng(seed)
    part = np.resize(["train", "train", "val", "test"], count)
    return frames.Frames(
        us=np.stack([_head(rng, speckle_mm) for _ in range(count)]),
        fan=np.ones((count, 160, 160), bool),
        half_axes_mm=np.tile(AXES, (count, 1)),
        group=np.array([f"{name} {n // 2}" for n in range(count)]),
        part=part,
        probe=np.tile((1.0, 0.0), (count, 1)),
    )


@pytest.fixture(scope="module")
def sides() -> dict[str, frames.Frames]:
    return {
        "real": _frames("real", 96, 0, 0.6),
        "alike": _frames("alike", 96, 1, 0.6),
        "other": _frames("other", 96, 2, 0.9),
    }


def test_the_auc_counts_pairs() -> None:
    assert auc_between(np.array([1.0, 2, 3]), np.array([4.0, 5])) == 1
    assert auc_between(np.array([1.0, 2]), np.array([1.0, 2])) == 0.5
    low, high = two_sample.interval(np.arange(40.0), np.arange(40), np.arange(40.0), np.arange(40))
    assert low < 0.5 < high and high - low < 0.35


def test_statistics_find_what_differs_and_nothing_else(sides: dict[str, frames.Frames]) -> None:
    alike, _ = two_sample.classify_statistics(sides["real"], sides["alike"])
    other, clues = two_sample.classify_statistics(sides["real"], sides["other"])
    assert alike.interval[0] < 0.55 and alike.auc < 0.75
    assert other.auc > 0.95 and clues[0].name.startswith("speckle") and clues[0].simulated > clues[0].real
    assert clues[0].covered < 0.2  # real values lie beyond what was simulated


def test_the_classifier_separates_coarse_texture_and_is_at_chance_on_the_same_kind() -> None:
    sides = [_frames(str(seed), 96, seed, speckle) for seed, speckle in ((0, 0.3), (1, 0.3), (2, 1.5))]
    real, alike, other = (replace(side, us=side.us[:, 48:112, 48:112]) for side in sides)
    assert two_sample.classify_frames(real, other, epochs=10).auc > 0.9
    assert 0.2 < two_sample.classify_frames(real, alike, epochs=2).auc < 0.8


def test_nothing_beyond_the_head_is_left_within_it(sides: dict[str, frames.Frames]) -> None:
    within = two_sample.within_head(sides["real"])
    assert (within.us[:, RADIUS > 1.12] == 0).all() and (within.us[:, RADIUS < 1.08] > 0).all()


def test_no_week_is_in_two_parts_and_no_fetus() -> None:
    weeks = [week for week in range(21, 35) for _ in range(3)]
    parts = frames.parts_of_weeks(weeks)
    assert all(len({part for w, part in zip(weeks, parts, strict=True) if w == week}) == 1 for week in weeks)
    assert set(parts) == set(frames.PARTS)
    with pytest.raises(Refused, match="Too few gestational weeks"):
        frames.parts_of_weeks([24, 29])


def test_cases_on_disk_give_their_frames_or_their_slice(tmp_path: Path) -> None:
    us = np.broadcast_to(_head(np.random.default_rng(0)), (160, 160, 160))
    skull = np.broadcast_to(RADIUS < 1, (160, 160, 160))
    for week in (22, 24, 26):
        np.savez(tmp_path / f"GA{week}-made-0000.npz", us=us, skull=skull)
    found = frames.stored_frames(tmp_path)
    assert len(found) == 3 and sorted(found.part) == ["test", "train", "val"]
    assert found.half_axes_mm[0] == pytest.approx(AXES, abs=0.7)
    (tmp_path / "none").mkdir()
    with pytest.raises(Refused, match="usmri simulate"):
        frames.stored_frames(tmp_path / "none")


def test_the_last_line_holds_the_figures_and_the_picture_its_order(
    sides: dict[str, frames.Frames], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = [{"view": "left", "near_cnr": 0.5, "far_cnr": 1.0, "far_cnr_whole": 0.7, "near_far_tissue": 0.8,
                 "hemispheres": [0.8, 0.9]}]  # fmt: skip
    real, simulated = (sides[name].take(np.arange(32)) for name in ("real", "alike"))
    monkeypatch.setattr(frames, "real_frames", lambda data: real)
    monkeypatch.setattr(simulator, "simulate", lambda *_, **__: (simulated, measured))
    monkeypatch.setattr(two_sample, "classify_frames", functools.partial(two_sample.classify_frames, epochs=1))
    monkeypatch.setattr(volumes, "speckle_snr", lambda: [1.9, 1.92])
    monkeypatch.setattr(volumes, "seconds", lambda *_, **__: {"acquisition": 4.0, "anatomy": 3.0})
    monkeypatch.setattr("USMRISynthesisLib.simulation.anatomy.atlas.available", lambda data: ["GA24-made"])
    monkeypatch.setattr("USMRISynthesisLib.simulation.anatomy.atlas.load", lambda data, name: None)
    arguments = ["evaluate", "simulator", "--data", str(tmp_path), "--picture", str(tmp_path / "mixed.png")]
    assert cli.main([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    for key in ("speckle_snr", "far_cnr", "near_far_ratio", "two_sample_auc", "seconds_per_volume"):
        assert isinstance(result[key], float), key
    low, high = result["two_sample_auc_interval"]
    assert low <= result["two_sample_auc"] <= high
    assert result["near_far_ratio"] == 0.5 and result["seconds_with_anatomy"] == 7.0
    assert sorted(result["order"]) == ["real"] * 6 + ["simulated"] * 6 and (tmp_path / "mixed.png").is_file()
    assert "two-sample AUC" in simulator.table(result)
    again = simulated_pictures.mixed(real, simulated, tmp_path / "again.png")
    assert again == result["order"]
    pixels = [np.asarray(Image.open(tmp_path / name)) for name in ("again.png", "mixed.png")]
    assert (pixels[0] == pixels[1]).all()  # the command's own file says besides that this program made it


def test_cases_that_are_neither_a_number_nor_a_folder_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", "simulator", "--data", str(tmp_path), "--cases", "many"]) == 2
    assert "neither a number of heads nor a folder" in capsys.readouterr().err
    assert cli.main(["evaluate", "simulator", "--data", str(tmp_path)]) == 2
    assert "no HC18 frames" in capsys.readouterr().err
