"""Ultrasound intensities for the network: robust percentiles inside the fan -> [-1, 1], -1 outside."""

from __future__ import annotations

import numpy as np

LOW_PERCENTILE = 1.0
HIGH_PERCENTILE = 99.5
OUTSIDE = -1.0
_ENOUGH_VOXELS = 500_000  # a percentile of a regular subsample this large is as good, and 10 times faster


def robust_range(us: np.ndarray, fan: np.ndarray) -> tuple[float, float]:
    """The two intensities, in the image's own units, that become -1 and 1; (0, 0) when the fan is empty.

    us: any shape; fan: bool of the same shape. Taken once for a volume, so that slices keep their contrast.
    """
    seen = us[fan]
    if seen.size == 0:
        return 0.0, 0.0
    low, high = np.percentile(seen[:: 1 + seen.size // _ENOUGH_VOXELS], (LOW_PERCENTILE, HIGH_PERCENTILE))
    return float(low), float(high)


def normalise_ultrasound(us: np.ndarray, fan: np.ndarray, exponent: float = 1.0) -> np.ndarray:
    """(K, H, W) ultrasound in any units and its fan -> (K, H, W) float32 in [-1, 1], -1 outside the fan.

    exponent: of the 0-1 intensity; below 1 it opens up the dark brain beside the bright skull. A model's manifest
    names its own. An image without contrast inside the fan becomes -1 everywhere.
    """
    low, high = robust_range(us, fan)
    result = np.full(us.shape, OUTSIDE, dtype=np.float32)
    if high > low:
        scaled = np.clip((us[fan].astype(np.float32) - low) * np.float32(1 / (high - low)), 0, 1)
        if exponent != 1:
            scaled **= np.float32(exponent)
        result[fan] = scaled * 2 - 1
    return result
