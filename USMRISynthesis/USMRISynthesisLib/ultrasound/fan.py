"""The fan: the part of an ultrasound image that the beam swept.

Outside it a scan converter writes zeros; inside it amniotic fluid, ventricles and shadows are zero too. The
two are separated by connectivity (the outside reaches the border of the image) and, where dark fluid lies
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
# Up to so many neighbours a mask is grown by shifting it, beyond by sweeping it.
_FEW_OFFSETS = 120
# What is just within a radius stays so in float32.
_JUST = 1 + 1e-6


def find_fan(array: np.ndarray, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> np.ndarray:
    """Mark the fan.

    Args:
        array: (k, j, i); a frame has k = 1. Any real type, without NaN.
        spacing: voxel size along (i, j, k) in mm; only the proportions matter.

    Returns:
        (k, j, i) bool. All True where nothing is black at the border; all False where everything is.
    """
    outside = _outside(array)
    factors, sizes = _cells(array.shape, spacing)
    cells = _any_in_cell(~outside, factors)
    if not cells.any():
        return np.zeros(array.shape, dtype=bool)
    shape = _shape_of_fan(cells[0], sizes[1:])[None] if array.shape[0] == 1 else _shape_of_fan(cells, sizes)
    # Whole cells inside; along the edge only the voxels that have content.
    inner = ndimage.binary_erosion(shape, ndimage.generate_binary_structure(3, 1), border_value=1)
    if array.shape[0] == 1:
        inner = ndimage.binary_erosion(shape[0], border_value=1)[None]
    depth = shape.view(np.uint8) + inner.view(np.uint8)
    return _expand(depth, factors, array.shape) > outside.view(np.uint8)


def _outside(array: np.ndarray) -> np.ndarray:
    """The black voxels that hang together with the border of the image."""
    lowest, highest = float(array.min()), float(np.percentile(array[:: max(1, array.shape[0] // 32)], 99.9))
    black = array <= lowest + _BLACK_TOLERANCE * (highest - lowest)
    exact = array == lowest
    border = _border(array.shape)
    # A clean export needs no tolerance, and without it more of a dark fan's edge is kept.
    if exact[border].sum() >= 0.9 * black[border].sum():
        black = exact
    components, count = ndimage.label(black)
    touching = np.zeros(count + 1, dtype=bool)
    touching[components[border]] = True
    touching[0] = False
    return touching.take(components)


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
        whole, line = mask, [slice(None)] * mask.ndim
        line[axis] = slice(0, None, factor)
        mask = whole[tuple(line)].copy()
        for first in range(1, factor):
            line[axis] = slice(first, None, factor)
            part = whole[tuple(line)]
            line[axis] = slice(0, part.shape[axis])  # the last cell may be cut
            mask[tuple(line)] |= part
    return mask


def _expand(cells: np.ndarray, factors: list[int], shape: tuple[int, ...]) -> np.ndarray:
    for axis, factor in enumerate(factors):
        if factor > 1:
            cells = np.repeat(cells, factor, axis=axis)
    return cells[tuple(slice(size) for size in shape)]


def _shape_of_fan(cells: np.ndarray, sizes: list[float]) -> np.ndarray:
    """Drop burnt-in text and bars, keep the large parts, fill the bays."""
    occupied = np.array(
        [
            np.ptp(np.flatnonzero(cells.any(axis=tuple(a for a in range(cells.ndim) if a != axis))))
            for axis in range(cells.ndim)
        ]
    )
    extent = float(((occupied + 1) * sizes).max())
    small = max(_CLEANING * extent, 1.01 * max(sizes))
    # Space on every side for the cleaning, then for the closing: what grows must not reach the border.
    space = int(np.ceil(2.5 * small / min(sizes))) + 2
    padded = np.pad(cells, space)
    cleaned = _open(_close(padded, small, sizes), 1.5 * small, sizes)
    parts, count = ndimage.label(cleaned)
    if count == 0:
        parts, count = ndimage.label(padded)
    volumes = np.bincount(parts.ravel())
    volumes[0] = 0
    kept = (volumes >= 0.2 * volumes.max()).take(parts)
    return _without_holes(_close_widely(kept, _CLOSING * extent, sizes))[(slice(space, -space),) * cells.ndim]


def _without_holes(mask: np.ndarray) -> np.ndarray:
    """`mask`, whose border is empty, and all that it encloses."""
    parts, count = ndimage.label(~mask)
    return mask if count == 1 else parts != parts.flat[0]


def _grow(mask: np.ndarray, radius: float, sizes: list[float]) -> np.ndarray:
    """Every cell within a small `radius` of the mask: `distance_transform_edt(~mask, sizes) <= radius`, by shifts.

    They wrap around the array's ends: within `radius` of its border the mask must be uniform.
    """
    offsets = _ball(radius, sizes)
    if len(offsets) > _FEW_OFFSETS:
        grown = _within(mask, radius, sizes, wider=True)
        return grown[
            tuple(
                slice((more - size) // 2, (more + size) // 2)
                for more, size in zip(grown.shape, mask.shape, strict=True)
            )
        ]
    strides = np.array([int(np.prod(mask.shape[axis + 1 :])) for axis in range(mask.ndim)])
    flat, grown = mask.ravel(), mask.ravel().copy()
    for step in (offsets @ strides).tolist():
        if step > 0:
            grown[step:] |= flat[:-step]
            grown[:-step] |= flat[step:]
    return grown.reshape(mask.shape)


def _close_widely(mask: np.ndarray, radius: float, sizes: list[float]) -> np.ndarray:
    """Closed by a large `radius`, as if nothing but what is empty lay around the array."""
    return ~_within(~_within(mask, radius, sizes, wider=True), radius, sizes, wider=False)


def _within(mask: np.ndarray, radius: float, sizes: list[float], *, wider: bool) -> np.ndarray:
    """Every cell within `radius` of the mask: `distance_transform_edt(~mask, sizes) <= radius`, 5-20 times faster.

    Only the threshold is wanted, so two of the axes need no distances squared: along the first, sweeping the planes
    there and back counts cells; along the last, a cell that has reach left hands one cell less to its neighbour.

    wider: the result has as many cells more at each end of each axis as `radius` reaches, else as many less. Each axis
    gets them when its turn has come, or loses them: so most steps have less than the whole to do.
    """
    radius *= _JUST
    reach = [int(radius / size) for size in sizes]
    far = np.int16(reach[0] + 1)
    cells = np.where(mask, np.int16(0), far)
    cells = _longer(cells, 0, reach[0], far) if wider else cells
    for order in (range(1, len(cells)), range(len(cells) - 2, -1, -1)):
        for k in order:
            np.minimum(cells[k], cells[k - order.step] + 1, out=cells[k])
    cells = cells if wider else _shorter(cells, 0, reach[0])
    squared = (cells * np.float32(sizes[0])) ** 2
    if mask.ndim == 3:
        squared = _longer(squared, 1, reach[1], np.float32(np.inf)) if wider else squared
        squared = _lower_parabolas(squared, sizes[1], reach[1])
        squared = squared if wider else _shorter(squared, 1, reach[1])
    left = np.moveaxis(np.float32(radius**2) - squared, -1, 0)
    rest = np.where(left >= 0, np.sqrt(np.maximum(left, 0)) / np.float32(sizes[-1]), -1).astype(np.int16)
    rest = _longer(rest, 0, reach[-1], np.int16(-1)) if wider else rest
    for order in (range(1, len(rest)), range(len(rest) - 2, -1, -1)):
        for i in order:
            np.maximum(rest[i], rest[i - order.step] - 1, out=rest[i])
    rest = rest if wider else _shorter(rest, 0, reach[-1])
    return np.ascontiguousarray(np.moveaxis(rest >= 0, 0, -1))


def _longer(array: np.ndarray, axis: int, count: int, value: np.generic) -> np.ndarray:
    """With `count` cells of `value` more at each end of an axis."""
    width = [(count, count) if n == axis else (0, 0) for n in range(array.ndim)]
    return np.pad(array, width, constant_values=value)


def _shorter(array: np.ndarray, axis: int, count: int) -> np.ndarray:
    """Without the `count` cells at each end of an axis."""
    return array[(slice(None),) * axis + (slice(count, array.shape[axis] - count),)]


def _lower_parabolas(squared: np.ndarray, size: float, reach: int) -> np.ndarray:
    """(k, j, i): the smallest squared distance over a row's neighbours along j, up to `reach` of them."""
    lowest = squared.copy()
    for k in range(0, len(squared), 4):  # a few planes at a time stay in the cache
        here, best = squared[k : k + 4], lowest[k : k + 4]
        for step in range(1, min(reach, squared.shape[1] - 1) + 1):
            moved = here + np.float32((step * size) ** 2)
            np.minimum(best[:, :-step], moved[:, step:], out=best[:, :-step])
            np.minimum(best[:, step:], moved[:, :-step], out=best[:, step:])
    return lowest


def _ball(radius: float, sizes: list[float]) -> np.ndarray:
    """(m, n): the offsets of all cells within `radius` of one."""
    radius *= _JUST
    reach = [int(radius / size) for size in sizes]
    axes = [np.arange(-n, n + 1) * size for n, size in zip(reach, sizes, strict=True)]
    return np.argwhere(sum(axis**2 for axis in np.ix_(*axes)) <= radius**2) - reach


def _close(mask: np.ndarray, radius: float, sizes: list[float]) -> np.ndarray:
    return ~_grow(~_grow(mask, radius, sizes), radius, sizes)


def _open(mask: np.ndarray, radius: float, sizes: list[float]) -> np.ndarray:
    return ~_close(~mask, radius, sizes)
