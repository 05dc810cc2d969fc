"""What lies inside the outline that was found in a frame: an ellipse of speckle alone is no head.

A belly, a bladder or a phantom may have a bright, elliptic rim. Inside a skull there are a midline, ventricles and
shadows: the grey, smoothed beyond the grain of speckle and without its course with depth, varies. In 123 frames of HC18
(one in eight) the relative variation is 0.26 in the middle, 0.11 at the first percentile and 0.08 at least; in rims
filled with fine speckle it is 0.02 to 0.09. Coarse speckle (grain of 1 mm and more) cannot be distinguished from
structure.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from USMRISynthesisLib.geometry.canonical import to_canonical
from USMRISynthesisLib.geometry.head import Alignment
from USMRISynthesisLib.io.volume import Volume

MIN_VARIATION = 0.1
_INNER = 0.75  # of the outer skull: the bone stays outside
_GRAIN_CELLS = 4.0
_MIN_CELLS = 1000


def shows_structure(volume: Volume, fan: np.ndarray, alignment: Alignment) -> bool:
    """Whether the inside of a frame's outline shows more than speckle; True where too little of it is seen to say."""
    variation = inner_variation(volume, fan, alignment)
    return variation is None or variation >= MIN_VARIATION


def inner_variation(volume: Volume, fan: np.ndarray, alignment: Alignment) -> float | None:
    """Standard deviation over mean of the smoothed grey inside the outline, without its course with depth.

    Args:
        volume: an admitted frame; fan: (1, j, i) bool; alignment: of its outline.

    Returns:
        A share, or None where too little of the inside lies in the fan.
    """
    matrix = alignment.ras_to_canonical
    image, z_mm = to_canonical(volume.array, volume.ijk_to_ras, matrix)
    seen = to_canonical(fan, volume.ijk_to_ras, matrix, order=0)[0] > 0.5
    inside = (replace(alignment, semi_axes=alignment.semi_axes * _INNER).head_mask(z_mm) & seen)[0]
    rows, columns = np.nonzero(inside)
    if rows.size < _MIN_CELLS:
        return None
    weight = inside.astype(np.float64)
    grey = (image[0] - float(volume.array.min())) * weight
    smooth = ndimage.gaussian_filter(grey, _GRAIN_CELLS) / np.maximum(
        ndimage.gaussian_filter(weight, _GRAIN_CELLS), 1e-6
    )
    x, y = columns - columns.mean(), rows - rows.mean()
    course = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)
    values = smooth[inside]
    rest = values - course @ np.linalg.lstsq(course, values, rcond=None)[0]
    mean = float(values.mean())
    return float(rest.std()) / mean if mean > 0 else 0.0
