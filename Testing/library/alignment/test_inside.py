"""A rim filled with speckle alone is doubted, a head is not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from USMRISynthesisLib.alignment.align import align
from USMRISynthesisLib.alignment.frame.inside import inner_variation, shows_structure
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.synthesis import pipeline
from USMRISynthesisLib.ultrasound.gate import admit

WARNING = "hardly anything but speckle"


def rim(seed: int, *, attenuation: float = 0.0, midline: bool = False) -> Volume:
    """A frame with a bright ellipse of speckle in it."""
    rng = np.random.default_rng(seed)
    j, i = np.mgrid[:300, :400]
    fan = (np.hypot(i - 200, j + 60) < 350) & (abs(i - 200) < 0.7 * (j + 60))
    grey = rng.rayleigh(40, (300, 400)).clip(0, 255) * 0.3 * np.exp(-attenuation * j / 300)
    if midline:
        grey[np.hypot((i - 200) / 60, (j - 150) / 3) < 1] *= 4
        for side in (-1, 1):
            grey[np.hypot((i - 190) / 45, (j - 150 - side * 30) / 12) < 1] *= 0.2
    grey[abs(np.hypot((i - 200) / 1.3, j - 150) - 90) < 4] = 220
    return Volume((grey * fan).clip(0, 255).astype(np.uint8)[None], np.diag([0.4, 0.4, 0.4, 1]))


def warnings_of(volume: Volume) -> list[str]:
    return pipeline.normalise(volume).provenance["warnings"]


@pytest.mark.parametrize("seed, attenuation", [(0, 0.0), (1, 1.0), (2, 2.0)])
def test_a_rim_of_speckle_is_doubted(seed, attenuation):
    assert any(WARNING in text for text in warnings_of(rim(seed, attenuation=attenuation)))


@pytest.mark.parametrize("seed", range(3))
def test_a_rim_with_a_midline_and_ventricles_is_not(seed):
    assert not any(WARNING in text for text in warnings_of(rim(seed, midline=True)))


def test_the_variation_does_not_depend_on_gain_or_place():
    volume = rim(0, midline=True)
    fan = admit(volume)
    expected = inner_variation(volume, fan, align(volume, fan))
    dim = Volume((volume.array * 0.5).astype(np.float32), np.diag([-0.4, 0.4, 0.4, 1]))
    changed = inner_variation(dim, fan, align(dim, fan))
    assert expected is not None and changed == pytest.approx(expected, rel=0.15)


def test_where_too_little_is_seen_nothing_is_said():
    volume = rim(0)
    fan = admit(volume)
    narrow = fan & ~ndimage.binary_dilation(fan & (np.indices(fan.shape)[2] > 0))
    assert shows_structure(volume, narrow, align(volume, fan))
