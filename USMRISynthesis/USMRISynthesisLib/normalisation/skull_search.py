"""Searching for the skull: everything everywhere on a coarse grid, then uphill from the best places.

Parameters are those of ``skull_template.py``: centre, logarithms of the semi-axes, angles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import product

import numpy as np
from scipy import fft, optimize

from USMRISynthesisLib.normalisation.skull_template import MAX_TILT, RADII, RATIOS, directions, evidence, rotation_of

# Occipito-frontal diameter from 10 weeks to term; and as a share of the image, for a search that ends.
LENGTH_MM = (15.0, 135.0)
LENGTH_SHARE = (0.18, 0.95)

# A volume is acquired with the head in its middle. Maternal tissue offers thousands of arcs elsewhere: a place this
# share of the image away from the middle needs evidence that outweighs half a natural logarithm.
CENTRE_SHARE = 0.1

Bounds = tuple[np.ndarray, np.ndarray]


def best(channels: np.ndarray, cell_mm: float, weights: np.ndarray, start: np.ndarray | None) -> np.ndarray | None:
    """Parameters of the best skull, near ``start`` where given; None where no size is possible."""
    n = channels.ndim - 1
    candidates = search(channels, cell_mm, weights) if start is None else _around(start)
    if not len(candidates):
        return None
    bounds = None if start is None else (start - 2 * steps(start, n), start + 2 * steps(start, n))
    likely = evidence(channels, candidates, weights) - off_centre(channels, candidates)
    chosen = distinct(candidates, likely, n, 8 if n == 2 else 5)
    coarse = [refine(channels, weights, candidates[k], 1.0, 120 if n == 2 else 200, bounds) for k in chosen]
    coarse.sort(key=lambda found: -found[1])
    fine = [refine(channels, weights, p, 0.4, 250 if n == 2 else 400, bounds) for p, _ in coarse[:2]]
    return refine(channels, weights, max(fine, key=lambda found: found[1])[0], 0.15, 150 * n, bounds)[0]


def search(channels: np.ndarray, cell_mm: float, weights: np.ndarray) -> np.ndarray:
    """Candidates (m, 5 or 8): the two best places of every size, shape and tilt, on a coarser grid."""
    n = channels.ndim - 1
    factor = 2 if n == 2 else 3
    contrast = _mean_of_cells(channels[0], factor)
    extent = max(channels.shape[1:])
    side = fft.next_fast_len(int(np.ceil(extent / factor * 1.65)), real=True)
    spectrum = fft.rfftn(contrast, s=(side,) * n)
    profile = tuple(weights[:len(RADII)])
    kernels = (_plane_kernels if n == 2 else _volume_kernels)(profile, side, factor, extent)
    found = []
    for shape, kernel in kernels:
        if not LENGTH_MM[0] <= 2 * np.exp(shape[1]) * cell_mm <= LENGTH_MM[1]:
            continue
        response = fft.irfftn(spectrum * kernel, s=(side,) * n)[tuple(slice(s) for s in contrast.shape)].copy()
        reach = max(1, int(0.3 * np.exp(shape[1]) / factor))
        for _ in range(2):
            place = np.unravel_index(int(response.argmax()), response.shape)
            found.append(np.concatenate([(np.array(place[::-1]) + 0.5) * factor - 0.5, shape]))
            response[tuple(slice(max(0, p - reach), p + reach + 1) for p in place)] = -np.inf
    return np.array(found)


def _mean_of_cells(array: np.ndarray, factor: int) -> np.ndarray:
    sizes = [s // factor for s in array.shape]
    array = array[tuple(slice(s * factor) for s in sizes)]
    return array.reshape([v for s in sizes for v in (s, factor)]).mean(axis=tuple(range(1, 2 * array.ndim, 2)))


@lru_cache(maxsize=1)
def _plane_kernels(profile: tuple[float, ...], side: int, factor: int,
                   extent: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(_kernels(2, profile, side, factor, extent))  # 300 spectra, 50 MB: kept for the next frame


def _volume_kernels(profile: tuple[float, ...], side: int, factor: int,
                    extent: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    return _kernels(3, profile, side, factor, extent)


def _kernels(n: int, profile: tuple[float, ...], side: int, factor: int,
             extent: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Sizes, shapes and tilts to try, each with the conjugate spectrum of its template."""
    shortest, longest = (float(np.log(share * extent / 2)) for share in LENGTH_SHARE)
    lengths = np.exp(np.arange(shortest, longest, np.log(1.12)))
    for length in lengths:
        for ratios, angles in _shapes(n):
            logs = np.log(length * np.insert(np.array(ratios), 1, 1.0))
            shape = np.concatenate([logs, angles])
            surface = rotation_of(np.concatenate([np.zeros(n), shape])) * np.exp(logs) @ directions(n, True)
            points = RADII[:, None] * surface[:, None, :] / factor
            weights = np.repeat(np.array(profile) / points.shape[-1], points.shape[-1])
            kernel = _splat(points.reshape(n, -1)[::-1], weights, side)
            yield shape, np.conj(fft.rfftn(kernel)).astype(np.complex64)


def _shapes(n: int) -> list[tuple[tuple[float, ...], tuple[float, ...]]]:
    """Ratios R/A(, S/A) and angles."""
    if n == 2:
        return [((ratio,), (angle,)) for ratio, count in ((0.72, 12), (0.86, 8))
                for angle in np.arange(count) * np.pi / count]
    tilt = np.deg2rad(17)
    return [(tuple(RATIOS[3]), (pitch, yaw)) for pitch, yaw in ((0, 0), (tilt, 0), (-tilt, 0), (0, tilt), (0, -tilt))]


def _splat(points: np.ndarray, weights: np.ndarray, side: int) -> np.ndarray:
    """Weighted points (n, m) about the origin on a periodic grid, linearly shared among neighbours."""
    lower = np.floor(points).astype(int)
    share = points - lower
    flat = np.zeros(side ** len(points), dtype=np.float32)
    for corner in product((0, 1), repeat=len(points)):
        offset = np.array(corner)[:, None]
        index = np.ravel_multi_index(tuple((lower + offset) % side), (side,) * len(points))
        part = weights * np.where(offset == 1, share, 1 - share).prod(axis=0)
        flat += np.bincount(index, part, minlength=flat.size).astype(np.float32)
    return flat.reshape((side,) * len(points))


def distinct(candidates: np.ndarray, evidence: np.ndarray, n: int, count: int) -> list[int]:
    """Indices of the best candidates that differ in place or size."""
    kept: list[int] = []
    for index in np.argsort(-evidence):
        new = candidates[index]
        if all(np.linalg.norm(new[:n] - candidates[k][:n]) > 0.15 * np.exp(candidates[k][n])
               or abs(new[n + 1] - candidates[k][n + 1]) > 0.15 for k in kept):
            kept.append(int(index))
            if len(kept) == count:
                break
    return kept


def off_centre(channels: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """(m,) what a volume's candidates lose for lying away from its middle; frames are cropped anyhow: nothing."""
    n = channels.ndim - 1
    if n == 2:
        return np.zeros(len(candidates))
    middle = (np.array(channels.shape[:0:-1]) - 1) / 2
    away = (candidates[:, :3] - middle) / (CENTRE_SHARE * max(channels.shape[1:]))
    return np.asarray(0.5 * (away**2).sum(axis=1))


def _around(parameters: np.ndarray) -> np.ndarray:
    """A start and slightly larger and smaller ones."""
    n = 2 if len(parameters) == 5 else 3
    candidates = np.repeat(parameters[None], 3, axis=0)
    candidates[:, n:2 * n] += np.log([[1.0], [0.92], [1.08]])
    return candidates


def steps(parameters: np.ndarray, n: int) -> np.ndarray:
    """What counts as a small change of each parameter."""
    radius = np.exp(parameters[n:2 * n].mean())
    angles = [0.2] if n == 2 else [0.12, 0.12]
    return np.array([0.08 * radius] * n + [0.08] * n + angles)


def refine(channels: np.ndarray, weights: np.ndarray, start: np.ndarray, scale: float, evaluations: int,
            bounds: Bounds | None) -> tuple[np.ndarray, float]:
    """Climb from one candidate; returns its parameters and evidence."""
    n = channels.ndim - 1
    step = scale * steps(start, n)
    cost: Callable[[np.ndarray], float] = lambda v: _cost(channels, weights, start + v * step, bounds)  # noqa: E731
    simplex = np.vstack([np.zeros(len(start)), np.eye(len(start))])
    found = optimize.minimize(cost, np.zeros(len(start)), method="Nelder-Mead", options={
        "maxfev": evaluations, "initial_simplex": simplex, "xatol": 0.02, "fatol": 0.005})
    return start + found.x * step, -float(found.fun)


def _cost(channels: np.ndarray, weights: np.ndarray, parameters: np.ndarray, bounds: Bounds | None) -> float:
    n = channels.ndim - 1
    beyond = 0.0
    if n == 3:
        beyond += float(np.maximum(np.abs(parameters[6:]) - MAX_TILT, 0).sum())
    if bounds is not None:
        beyond += float(np.maximum(bounds[0] - parameters, 0).sum() + np.maximum(parameters - bounds[1], 0).sum())
    likely = evidence(channels, parameters[None], weights) - off_centre(channels, parameters[None])
    return 50 * beyond - float(likely[0])
