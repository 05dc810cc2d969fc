"""How a scanner sees fine slices of someone who moves: the thick slices that stage 2 learns to undo.

Beside the slice profile: slices that moved on their own, along all three axes and turned in their plane; gains that
differ from slice to slice (spin history); Rician noise whose neighbours are correlated, as in magnitude images
reconstructed onto a finer matrix; a profile narrower or wider than assumed. Targets know nothing of all that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from USMRISynthesisLib.spacing import profile
from USMRISynthesisLib.training.spacing.config import AcquisitionConfig

REACH = 5  # pixels to either side of a view from which motion may bring something into it
_STILL = 0.4  # share of the patches of a batch in which nothing moved
_ACROSS_PAIRS = 0.5  # of the motion, between odd and even slices, which are acquired one set after the other
_SMOOTHEST = 0.8  # pixels, sigma of the noise's correlation at most


@dataclass(frozen=True)
class Acquisition:
    """One batch's: sd of motion in pixels, of rotation in radians, of the gains' logarithms, of the noise; profile."""

    motion: float = 0.0
    rotation: float = 0.0
    gain: float = 0.0
    noise: float = 0.0
    width: float = 1.0

    @property
    def reach(self) -> int:
        """How many neighbouring views it takes to know what moved into one."""
        return REACH if self.motion or self.rotation else 0


CLEAN = Acquisition()


def drawn(config: AcquisitionConfig, rng: np.random.Generator) -> Acquisition:
    """What a batch went through: nothing but the profile in 1 - `share` of the cases, else anything up to the most."""
    if rng.random() >= config.share:
        return CLEAN
    moved = rng.random()
    return Acquisition(
        config.motion * moved,
        np.deg2rad(config.rotation) * moved,
        config.gain * rng.random(),
        config.noise * rng.random(),
        float(rng.uniform(*config.profile)),
    )


def acquired(slab: np.ndarray, n: int, how: Acquisition, rng: np.random.Generator) -> np.ndarray:
    """Thick rows (n, w) of a fine through-plane view, the middle one of the slab (1 + 2 reach, m, w)."""
    depth, m, w = slab.shape
    motion, rotation = np.zeros((3, n)), np.zeros(n)
    if how.reach and rng.random() >= _STILL:
        motion, rotation = _motion(n, how, rng)
    blur = profile.degradation(n, m, width=how.width, moved=motion[0])
    thick = blur.astype(np.float32) @ slab
    if motion.any():
        along = np.arange(w) - rng.uniform(0, w)  # from the axis of rotation
        across = depth // 2 + motion[1][:, None] + np.sin(rotation)[:, None] * along
        row = np.arange(w) + motion[2][:, None] + (np.cos(rotation)[:, None] - 1) * along
        slices = np.broadcast_to(np.arange(n)[:, None], (n, w))
        thick = ndimage.map_coordinates(thick, [across, slices, row], order=1, mode="nearest")
    else:
        thick = thick[depth // 2]
    if how.gain:
        thick = thick * np.exp(rng.normal(0, how.gain, (n, 1)))
    return np.asarray(_noisy(thick, how.noise, rng) if how.noise else thick, np.float32)


def _motion(n: int, how: Acquisition, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (3, n) and radians (n,) by which each slice moved: a random share of them on its own, odd against even."""
    strength = rng.uniform(0.5, 1.5)
    alone = rng.random(n) < rng.uniform(0.1, 1.0)
    steps = rng.standard_normal((4, n)) * alone + _ACROSS_PAIRS * rng.standard_normal((4, 1)) * (np.arange(n) % 2 - 0.5)
    return strength * how.motion * steps[:3], strength * how.rotation * steps[3]


def _noisy(thick: np.ndarray, sd: float, rng: np.random.Generator) -> np.ndarray:
    """Magnitude of the image with complex noise of this sd in either part, correlated along the rows."""
    smooth = rng.uniform(0, _SMOOTHEST)
    parts = ndimage.gaussian_filter1d(rng.standard_normal((2, *thick.shape)), smooth, axis=2)
    parts *= sd / max(float(parts.std()), 1e-6)
    return np.asarray(np.hypot(np.maximum(thick, 0) + parts[0], parts[1]))
