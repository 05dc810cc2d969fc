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
    if high <= low:
        return np.full(us.shape, OUTSIDE, dtype=np.float32)
    result = us.astype(np.float32)  # the whole array, in place: picking the fan out and putting it back takes longer
    result -= low
    result *= np.float32(1 / (high - low))
    np.clip(result, 0, 1, out=result)
    if exponent != 1:
        np.power(result, np.float32(exponent), out=result)
    result *= 2
    result -= 1
    np.copyto(result, OUTSIDE, where=~fan)
    return result
