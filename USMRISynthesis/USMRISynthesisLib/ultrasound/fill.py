"""Values that stand for "no data": what resampling and other programs write where there is no image.

-1000, -1024, -32768, -1 or NaN outside the image are no grey values. They become black - 0, or the darkest real value
where that is below 0 - before anything else reads the image: no threshold, no interpolation and no network meets them.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

# A lowest value so far below all others, as a share of their range, is none of them.
_GAP = 0.3
# Two fill values at most, one of the scanner's export and one of the resampling.
_LEVELS = 2


def without_fill(array: np.ndarray) -> np.ndarray:
    """The image with fill values replaced by black; the array itself where it has none.

    Args:
        array: (k, j, i) of any real type. A negative value far below all others is a fill value wherever it lies; NaN
            is one where it hangs together with the image's border. NaN elsewhere is damage and stays.

    Returns:
        (k, j, i) of the same type.
    """
    if array.size == 0 or array.dtype.kind not in "if":
        return array
    result = array
    if array.dtype.kind == "f":
        outside = _nan_outside(array)
        if outside is not None:
            if np.isnan(array[~outside]).any() or outside.all():
                return array
            result = np.where(outside, min(array[~outside].min(), array.dtype.type(0)), array)
    for _ in range(_LEVELS):
        lowest = result.min()
        if not lowest < 0 or not np.isfinite(lowest):
            break
        above = result > lowest
        if not above.any():
            break
        highest = result.max()
        darkest = np.min(result, where=above, initial=highest)
        gap, span = float(darkest) - float(lowest), float(highest) - float(darkest)
        if not gap > _GAP * span or span == 0:
            break
        result = np.where(above, result, min(darkest, result.dtype.type(0)))
    return np.asarray(result)


def _nan_outside(array: np.ndarray) -> np.ndarray | None:
    """(k, j, i) bool: the NaN that hang together with the border; None where there is no NaN."""
    nan = np.isnan(array)
    if not nan.any():
        return None
    parts, count = ndimage.label(nan)
    touching = np.zeros(count + 1, dtype=bool)
    for axis, size in enumerate(array.shape):
        if size > 1:
            for end in (0, -1):
                touching[np.unique(parts.take(end, axis))] = True
    touching[0] = False
    return np.asarray(touching.take(parts))
