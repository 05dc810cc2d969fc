"""How rough an image is across the slices of each view: torn slices show here and in no measure of a single slice."""

from __future__ import annotations

import numpy as np

VIEWS = ("axial", "coronal", "sagittal")  # the slices of a view differ along k, j, i


def roughness(mr: np.ndarray) -> dict[str, float]:
    """How rough an image (k, j, i) is across the slices of each view, relative to within them; true MR has about 1.

    The mean absolute second difference along the view's axis, over the mean of those along the two others, where the
    image is not 0. NaN where there is too little of the image to tell.
    """
    inside = mr > 0
    along = []
    for axis in range(3):
        second = np.abs(np.diff(mr, n=2, axis=axis))
        middle = tuple(slice(1, -1) if a == axis else slice(None) for a in range(3))
        whole = inside[middle] & _shifted(inside, axis, 0) & _shifted(inside, axis, 2)
        along.append(float(second[whole].mean()) if whole.any() else np.nan)
    found = {}
    for axis, view in enumerate(VIEWS):
        within = float(np.mean([along[a] for a in range(3) if a != axis]))
        found[view] = along[axis] / within if within > 0 else np.nan
    return found


def _shifted(mask: np.ndarray, axis: int, start: int) -> np.ndarray:
    return np.take(mask, np.arange(start, mask.shape[axis] - 2 + start), axis=axis)
