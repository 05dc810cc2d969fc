"""The fan: the part of an ultrasound image that the beam swept.

Outside it a scan converter writes zeros; inside it amniotic fluid, ventricles and shadows are zero too. The
two are told apart by connectivity (the outside reaches the border of the image) and, where dark fluid lies
against the fan's own edge, by shape: a fan has no bays narrower than the curvature of a probe.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

# JPEG compression turns the black outside into values of up to about 3 in 255.
_BLACK_TOLERANCE = 0.012
# Radius of the closing and of the cleaning, as shares of the fan's largest extent. Convex probes are rounder
# than the first: the concave near edge of their fan survives.
_CLOSING = 0.2
_CLEANING = 0.008
# A volume is shaped on a grid of about this many cells along its largest side.
_CELLS = 80


def find_fan(array: np.ndarray, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> np.ndarray:
    """Mark the fan.

    Args:
        array: (k, j, i); a frame has k = 1. Any real type, without NaN.
        spacing: voxel size along (i, j, k) in mm; only the proportions matter.

    Returns:
        (k, j, i) bool. All True where nothing is black at the border; all False where everything is.
    """
    content = ~_outside(array)
    factors, sizes = _cells(array.shape, spacing)
    cells = _any_in_cell(content, factors)
    if not cells.any():
        return np.zeros(array.shape, dtype=bool)
    shape = _shape_of_fan(cells[0], sizes[1:])[None] if array.shape[0] == 1 else _shape_of_fan(cells, sizes)
    # Whole cells inside; along the edge only the voxels that have content.
    inner = ndimage.binary_erosion(shape, ndimage.generate_binary_structure(3, 1), border_value=1)
    if array.shape[0] == 1:
        inner = ndimage.binary_erosion(shape[0], border_value=1)[None]
    fan = _expand(shape, factors, array.shape) & content
    return fan | _expand(inner, factors, array.shape)


def _outside(array: np.ndarray) -> np.ndarray:
    """The black voxels that hang together with the border of the image."""
    lowest, highest = float(array.min()), float(np.percentile(array[::max(1, array.shape[0] // 32)], 99.9))
    black = array <= lowest + _BLACK_TOLERANCE * (highest - lowest)
    exact = array == lowest
    border = _border(array.shape)
    # A clean export needs no tolerance, and without it more of a dark fan's edge is kept.
    if exact[border].sum() >= 0.9 * black[border].sum():
        black = exact
    components, _ = ndimage.label(black)
    touching = np.zeros(components.max() + 1, dtype=bool)
    touching[components[border]] = True
    touching[0] = False
    return touching[components]


def _border(shape: tuple[int, ...]) -> np.ndarray:
    border = np.ones(shape, dtype=bool)
    border[tuple(slice(1, -1) if size > 1 else slice(None) for size in shape)] = False
    return border


def _cells(shape: tuple[int, ...], spacing: tuple[float, float, float]) -> tuple[list[int], list[float]]:
    """Voxels a cell, and a cell's size, along (k, j, i): cells are about cubes. A frame keeps its pixels."""
    steps = np.asarray(spacing[::-1], dtype=float)
    if shape[0] == 1:
        return [1, 1, 1], steps.tolist()
    wanted = float((steps * shape).max()) / _CELLS
    factors = [max(1, round(wanted / step)) for step in steps]
    return factors, (steps * factors).tolist()


def _any_in_cell(mask: np.ndarray, factors: list[int]) -> np.ndarray:
    for axis, factor in enumerate(factors):
        if factor > 1:
            mask = np.logical_or.reduceat(mask, np.arange(0, mask.shape[axis], factor), axis=axis)
    return mask


def _expand(cells: np.ndarray, factors: list[int], shape: tuple[int, ...]) -> np.ndarray:
    for axis, factor in enumerate(factors):
        if factor > 1:
            cells = np.repeat(cells, factor, axis=axis)
    return cells[tuple(slice(size) for size in shape)]


def _shape_of_fan(cells: np.ndarray, sizes: list[float]) -> np.ndarray:
    """Drop burnt-in text and bars, keep the large parts, fill the bays."""
    occupied = np.argwhere(cells)
    extent = float(((np.ptp(occupied, axis=0) + 1) * sizes).max())
    small = max(_CLEANING * extent, 1.01 * max(sizes))
    pad = int(np.ceil((_CLOSING * extent + small) / min(sizes))) + 1
    padded = np.pad(cells, pad)
    cleaned = _open(_close(padded, small, sizes), 1.5 * small, sizes)
    parts, count = ndimage.label(cleaned)
    if count == 0:
        parts, count = ndimage.label(padded)
    volumes = np.bincount(parts.ravel())
    volumes[0] = 0
    kept = (volumes >= 0.2 * volumes.max())[parts]
    closed = ndimage.binary_fill_holes(_close(kept, _CLOSING * extent, sizes))
    return closed[tuple(slice(pad, -pad) for _ in cells.shape)]


def _grow(mask: np.ndarray, radius: float, sizes: list[float]) -> np.ndarray:
    return ndimage.distance_transform_edt(~mask, sampling=sizes) <= radius


def _close(mask: np.ndarray, radius: float, sizes: list[float]) -> np.ndarray:
    return ~_grow(~_grow(mask, radius, sizes), radius, sizes)


def _open(mask: np.ndarray, radius: float, sizes: list[float]) -> np.ndarray:
    return ~_close(~mask, radius, sizes)
