"""MR in any units to about 0-1 for the networks, and back. Nothing is clipped: the way back is exact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from USMRISynthesisLib.errors import Refused

PERCENTILES = (0.5, 99.5)
MEANING = "percentiles 0.5 and 99.5 of the voxels above the minimum -> 0 and 1; nothing is clipped"
_ENOUGH_VOXELS = 500_000


@dataclass(frozen=True)
class Scale:
    """value = low + share * spread."""

    low: float
    spread: float

    @classmethod
    def of(cls, array: np.ndarray) -> Scale:
        """By the voxels above the minimum, because a background of zeros would be half of a masked brain.

        Raises Refused for an image without contrast.
        """
        seen = array[array > array.min()]
        if seen.size == 0:
            raise Refused("empty", "The image has the same value everywhere.", "Choose an image with content.")
        low, high = np.percentile(seen[:: 1 + seen.size // _ENOUGH_VOXELS], PERCENTILES)
        if not high > low:
            low, high = float(array.min()), float(array.max())
        return cls(float(low), float(high) - float(low))

    def shares(self, array: np.ndarray) -> np.ndarray:
        """Any shape -> float32 around 0-1."""
        return ((array.astype(np.float32) - np.float32(self.low)) * np.float32(1 / self.spread)).astype(np.float32)

    def values(self, shares: np.ndarray) -> np.ndarray:
        """Back to the image's own units, float32."""
        return (shares * np.float32(self.spread) + np.float32(self.low)).astype(np.float32)
