"""The measures: what must win wins, and what must not win does not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from USMRISynthesisLib.evaluation.metrics import image as image_measures

RNG = np.random.default_rng(0)
MASK = np.ones((40, 40), bool)


@given(gain=st.floats(0.1, 10), offset=st.floats(-5, 5))
def test_ncc_ignores_gain_and_offset(gain: float, offset: float) -> None:
    image = np.random.default_rng(1).random((40, 40))
    assert image_measures.ncc(gain * image + offset, image, MASK) == pytest.approx(1)


def test_ncc_of_inverted_contrast_is_minus_one_and_of_a_constant_zero() -> None:
    image = RNG.random((40, 40))
    assert image_measures.ncc(-image, image, MASK) == pytest.approx(-1)
    assert image_measures.ncc(np.ones_like(image), image, MASK) == 0


def test_residual_ncc_gives_a_memorised_mean_nothing() -> None:
    mean, truth = RNG.random((40, 40)), RNG.random((40, 40))
    assert image_measures.residual_ncc(mean, truth, mean, MASK) == 0
    assert image_measures.residual_ncc(truth, truth, mean, MASK) == pytest.approx(1)


@pytest.mark.parametrize("offset", [(0, 0), (2, -1), (-3, 4)])
def test_shift_finds_a_known_offset(offset: tuple[int, int]) -> None:
    image = np.zeros((64, 64))
    image[20:40, 25:45] = 1
    image[30:36, 28:33] = 2
    assert image_measures.shift(np.roll(image, offset, (0, 1)), image) == offset


def test_stripes_are_found_and_smooth_images_pass() -> None:
    row, column = np.mgrid[:96, :96]
    smooth = np.exp(-((row - 48) ** 2 + (column - 40) ** 2) / 400) + 0.01 * RNG.standard_normal((96, 96))
    assert image_measures.stripe_peak(smooth) < 40
    assert image_measures.stripe_peak(smooth + 0.05 * ((row + column) % 2)) > 200


def test_dice_of_empty_masks_is_one() -> None:
    empty = np.zeros((3, 3), bool)
    assert image_measures.dice(empty, empty) == 1
    assert image_measures.dice(~empty, empty) == 0


def test_rank_correlation_sees_order_only() -> None:
    assert image_measures.rank_correlation(np.array([1, 2, 9]), np.array([0.1, 0.2, 0.3])) == pytest.approx(1)
    assert image_measures.rank_correlation(np.array([1, 1, 1]), np.array([1, 2, 3])) == 0
