"""Roughness: torn slices raise the measure of their own view."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from USMRISynthesisLib.synthesis.roughness import roughness


def test_stripes_across_axial_slices_raise_the_roughness_of_that_view_alone() -> None:
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.standard_normal((40, 40, 40)), 2) + 1
    before = roughness(smooth)
    assert max(before.values()) < 1.1
    striped = smooth + 0.05 * (np.arange(40) % 2)[:, None, None]
    after = roughness(striped)
    assert after["axial"] > 3 * before["axial"] and after["coronal"] < before["coronal"]


def test_an_image_that_is_too_thin_or_empty_has_no_roughness() -> None:
    assert np.isnan(list(roughness(np.zeros((9, 9, 9))).values())).all()
    assert np.isnan(roughness(np.ones((2, 9, 9)))["axial"])
