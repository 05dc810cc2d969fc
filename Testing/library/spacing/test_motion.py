"""Slices that moved in their plane are put back; everything else stays where it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from factories.spacing import oblique, smooth, spacing_model
from scipy import ndimage
from USMRISynthesisLib.errors import Cancelled
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.spacing.motion import STILL, aligned, prepared
from USMRISynthesisLib.spacing.noise import noise_of
from USMRISynthesisLib.spacing.pipeline import PROJECTED_TOLERANCE, respace
from USMRISynthesisLib.spacing.profile import CLEAN

SHIFTS = np.array([0, 1.5, -1, 2, -1.5, 1, 0] * 3)[:20]
INNER = (slice(3, -3), slice(12, -12), slice(12, -12))


def textured(shape: tuple[int, int, int] = (20, 96, 90)) -> np.ndarray:
    """Around 0-1, blobs that reach over several slices, sharper within them."""
    noise = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    blobs = ndimage.gaussian_filter(noise, (2.5, 4, 4))
    return np.asarray(0.5 + 0.15 * blobs / blobs.std(), np.float32)


def jerked(still: np.ndarray, shifts: np.ndarray = SHIFTS, angle: float = 0.0) -> np.ndarray:
    """Slices moved along their columns, and every second one turned by degrees."""
    moved = [ndimage.shift(image, (0, by), order=3, mode="nearest") for image, by in zip(still, shifts, strict=True)]
    if angle:
        moved[1::2] = [ndimage.rotate(image, angle, reshape=False, order=3, mode="nearest") for image in moved[1::2]]
    return np.asarray(np.stack(moved), np.float32)


def error(slices: np.ndarray, truth: np.ndarray) -> float:
    return float(np.sqrt(np.mean((slices[INNER] - truth[INNER]) ** 2)))


@pytest.mark.parametrize("angle", [0.0, 3.0])
def test_slices_that_moved_come_back_near_to_where_they_were(angle: float) -> None:
    still = textured()
    moved = jerked(still, angle=angle)
    put_back, size = aligned(moved, 1.1, noise_of(moved, 60))
    assert error(put_back, still) < 0.6 * error(moved, still)
    assert 1 < size < 3.5
    assert noise_of(put_back, 60) < 0.6 * noise_of(moved, 60)


def test_what_stands_still_beside_what_moves_stays() -> None:
    """A mother does not move along with her fetus: each is a half of the picture."""
    still = textured((20, 96, 200))
    both = still.copy()
    both[:, :, 100:] = jerked(still[:, :, 100:])
    put_back, _ = aligned(both, 1.1, 0.1)
    left, right = (*INNER[:2], slice(12, 60)), (*INNER[:2], slice(140, -12))
    scatter = float(np.std(still))
    assert np.sqrt(np.mean((put_back[left] - still[left]) ** 2)) < 0.1 * scatter
    before, after = (np.sqrt(np.mean((slices[right] - still[right]) ** 2)) for slices in (both, put_back))
    assert after < 0.7 * before


def test_slices_that_agree_are_not_touched() -> None:
    still = smooth((20, 60, 50)) / 1000
    assert noise_of(still, 60) <= STILL
    ready = prepared(still, 60, 1.1)
    assert ready.slices is still and ready.moved_mm == 0 and ready.noise == ready.measured == CLEAN


def test_noise_and_uneven_gain_are_not_taken_for_motion() -> None:
    still = textured()
    noisy = still + 0.06 * np.random.default_rng(1).standard_normal(still.shape).astype(np.float32)
    uneven = still * np.tile([1.0, 1.15], 10)[:, None, None].astype(np.float32)
    for slices in (noisy, uneven):
        measured = noise_of(slices, 60)
        assert measured > STILL
        put_back, _ = aligned(slices, 1.1, measured)
        assert error(put_back, slices) < 0.05 * error(slices, still)


def test_first_and_last_slices_stay_and_few_slices_are_left_alone() -> None:
    moved = jerked(textured())
    put_back, _ = aligned(moved, 1.1, 0.1)
    assert np.array_equal(put_back[0], moved[0]) and np.array_equal(put_back[-1], moved[-1])
    assert aligned(moved[:2], 1.1, 0.1)[0] is not None and np.array_equal(aligned(moved[:2], 1.1, 0.1)[0], moved[:2])


def test_a_shift_counts_in_millimetres_whatever_the_pixels() -> None:
    moved = jerked(textured())
    sizes = [aligned(moved, pixel_mm, 0.1)[1] for pixel_mm in (1.0, 0.5)]
    assert sizes[0] == pytest.approx(2 * sizes[1], rel=0.35)


def test_consistency_leaves_the_slices_where_they_were_acquired(tmp_path: Path, config_dir: Path) -> None:
    model = str(spacing_model(tmp_path / "model", config_dir))
    array = (400 * jerked(textured((12, 48, 48)), SHIFTS[:12])).astype(np.float32)
    moved = Volume(array, oblique((1, 1, 3.0), left_handed=True), {"Modality": "MR"})
    free, kept = (respace(moved, model=model, device="cpu", consistency=exact) for exact in (False, True))
    assert free.provenance["moved_mm"] > 0.5 and kept.provenance["moved_mm"] == 0
    assert kept.consistency < PROJECTED_TOLERANCE < free.consistency
    assert "disagree with each other" in free.provenance["warnings"][0]


def test_the_alignment_can_be_cancelled() -> None:
    with pytest.raises(Cancelled):
        prepared(jerked(textured()), 60, 1.1, cancel=lambda: True)
