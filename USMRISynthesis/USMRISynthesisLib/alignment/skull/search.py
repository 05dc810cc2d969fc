"""Searching for the skull: everything everywhere on a coarse grid, then uphill from the best places.

Parameters are those of ``template.py``: centre, logarithms of the semi-axes, angles.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from functools import lru_cache

import numpy as np
from scipy import fft

from USMRISynthesisLib.alignment.skull.template import MAX_TILT, RADII, RATIOS, directions, fit_score, rotation_of

# Occipito-frontal diameter from 10 weeks to term; and as a share of the image, for a search that ends.
LENGTH_MM = (15.0, 135.0)
LENGTH_SHARE = (0.18, 0.95)

# A volume is acquired with the head in its middle. Maternal tissue offers thousands of arcs elsewhere: a place this
# share of the image away from the middle needs a fit score that is higher by half a natural logarithm.
CENTRE_SHARE = 0.1
# Best places kept of every size, shape and tilt.
PLACES = 3

Bounds = tuple[np.ndarray, np.ndarray]


def best(channels: np.ndarray, cell_mm: float, weights: np.ndarray, start: np.ndarray | None) -> np.ndarray | None:
    """Parameters of the best skull, near ``start`` where given; None where no size is possible."""
    n = channels.ndim - 1
    candidates = search(channels, cell_mm, weights) if start is None else _around(start)
    if not len(candidates):
        return None
    bounds = None if start is None else (start - 2 * steps(start, n), start + 2 * steps(start, n))
    likely = fit_score(channels, candidates, weights, n == 3) - off_centre(channels, candidates)
    chosen = distinct(candidates, likely, n, 8 if n == 2 else 5)
    coarse = climb(channels, weights, candidates[chosen], 1.0, 120 if n == 2 else 200, bounds, nearest=n == 3)
    coarse.sort(key=lambda found: -found[1])
    fine = climb(channels, weights, np.array([p for p, _ in coarse[:2]]), 0.4, 250 if n == 2 else 400, bounds)
    return refine(channels, weights, max(fine, key=lambda found: found[1])[0], 0.15, 150 * n, bounds)[0]


def search(channels: np.ndarray, cell_mm: float, weights: np.ndarray) -> np.ndarray:
    """Candidates (m, 5 or 8): the two best places of every size, shape and tilt, on a coarser grid."""
    n = channels.ndim - 1
    factor = 2 if n == 2 else 3
    contrast = _mean_of_cells(channels[0], factor)
    extent = max(channels.shape[1:])
    side = fft.next_fast_len(int(np.ceil(extent / factor * 1.65)), real=True)
    profile = tuple(weights[: len(RADII)])
    kernels = (_plane_kernels if n == 2 else _volume_kernels)(profile, side, factor, extent)
    found = []
    reached, spectrum = -1, np.empty(0)
    for shape, radius, kernel in kernels:
        if not LENGTH_MM[0] <= 2 * np.exp(shape[1]) * cell_mm <= LENGTH_MM[1]:
            continue
        if radius != reached:  # a kernel's centre lies at its radius: the image moves along
            reached, spectrum = radius, _spectrum(np.pad(contrast, [(0, side - s) for s in contrast.shape]), radius)
        response = _correlation(spectrum, kernel, contrast.shape)
        reach = max(1, int(0.3 * np.exp(shape[1]) / factor))
        for _ in range(PLACES):
            place = np.unravel_index(int(response.argmax()), response.shape)
            found.append(np.concatenate([(np.array(place[::-1]) + 0.5) * factor - 0.5, shape]))
            response[tuple(slice(max(0, p - reach), p + reach + 1) for p in place)] = -np.inf
    return np.array(found)


def _spectrum(image: np.ndarray, shift: int) -> np.ndarray:
    return np.asarray(fft.rfftn(np.roll(image, (shift,) * image.ndim, tuple(range(image.ndim)))))


def _correlation(spectrum: np.ndarray, kernel: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """``irfftn(spectrum * kernel)`` cut to ``shape``; each axis is cut before the next is transformed."""
    response = spectrum * kernel
    for axis, size in enumerate(shape[:-1]):
        response = fft.ifft(response, axis=axis, overwrite_x=True)
        response = response[(slice(None),) * axis + (slice(size),)]
    return np.ascontiguousarray(fft.irfft(response, spectrum.shape[0], axis=-1)[..., : shape[-1]])


def _mean_of_cells(array: np.ndarray, factor: int) -> np.ndarray:
    sizes = [s // factor for s in array.shape]
    array = array[tuple(slice(s * factor) for s in sizes)]
    return array.reshape([v for s in sizes for v in (s, factor)]).mean(axis=tuple(range(1, 2 * array.ndim, 2)))


@lru_cache(maxsize=1)
def _plane_kernels(
    profile: tuple[float, ...], side: int, factor: int, extent: int
) -> list[tuple[np.ndarray, int, np.ndarray]]:
    return list(_kernels(2, profile, side, factor, extent))  # 300 spectra, 50 MB: kept for the next frame


def _volume_kernels(
    profile: tuple[float, ...], side: int, factor: int, extent: int
) -> Iterator[tuple[np.ndarray, int, np.ndarray]]:
    return _kernels(3, profile, side, factor, extent)


def _kernels(
    n: int, profile: tuple[float, ...], side: int, factor: int, extent: int
) -> Iterator[tuple[np.ndarray, int, np.ndarray]]:
    """Sizes, shapes and tilts to try, each with its template's radius in cells and conjugate spectrum."""
    shortest, longest = (float(np.log(share * extent / 2)) for share in LENGTH_SHARE)
    lengths = np.exp(np.arange(shortest, longest, np.log(1.12)))
    for length in lengths:
        radius = int(np.ceil(RADII[-1] * length / factor)) + 1
        for ratios, angles in _shapes(n, length / factor):
            logs = np.log(length * np.insert(np.array(ratios), 1, 1.0))
            shape = np.concatenate([logs, angles])
            surface = rotation_of(np.concatenate([np.zeros(n), shape])) * np.exp(logs) @ directions(n, True)
            points = RADII[:, None] * surface[:, None, :] / factor
            weights = np.repeat(np.array(profile) / points.shape[-1], points.shape[-1])
            kernel = _splat(points.reshape(n, -1)[::-1] + radius, weights, 2 * radius + 2)
            spectrum = fft.rfft(kernel, side, axis=-1)
            for axis in range(n - 2, -1, -1):
                spectrum = fft.fft(spectrum, side, axis=axis)
            yield shape, radius, np.conj(spectrum).astype(np.complex64)


def _shapes(n: int, length: float) -> list[tuple[tuple[float, ...], tuple[float, ...]]]:
    """Ratios R/A(, S/A) and angles, for a semi-axis A of ``length`` cells."""
    if n == 2:
        return [
            ((ratio,), (angle,))
            for ratio, count in ((0.72, 12), (0.86, 8))
            for angle in np.arange(count) * np.pi / count
        ]
    tilt = np.deg2rad(17)
    if tilt * length < 1.5:  # then the coarse grid hardly resolves it
        return [(tuple(RATIOS[3]), (0.0, 0.0))]
    return [(tuple(RATIOS[3]), (pitch, yaw)) for pitch, yaw in ((0, 0), (tilt, 0), (-tilt, 0), (0, tilt), (0, -tilt))]


def _splat(points: np.ndarray, weights: np.ndarray, side: int) -> np.ndarray:
    """Weighted points (n, m) on a grid of that many cells a side, linearly shared among neighbours."""
    n = len(points)
    lower = points.astype(np.intp)  # none is negative
    share = points - lower
    index = np.ravel_multi_index(tuple(lower), (side,) * n)
    for axis in range(n):
        upper = weights * np.tile(share[axis], len(weights) // len(share[axis]))
        weights = np.concatenate([weights - upper, upper])
        index = np.concatenate([index, index + side ** (n - 1 - axis)])
    return np.bincount(index, weights, minlength=side**n).astype(np.float32).reshape((side,) * n)


def distinct(candidates: np.ndarray, fit_score: np.ndarray, n: int, count: int) -> list[int]:
    """Indices of the best candidates that differ in place or size."""
    kept: list[int] = []
    for index in np.argsort(-fit_score):
        new = candidates[index]
        if all(
            np.linalg.norm(new[:n] - candidates[k][:n]) > 0.15 * np.exp(candidates[k][n])
            or abs(new[n + 1] - candidates[k][n + 1]) > 0.15
            for k in kept
        ):
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
    candidates[:, n : 2 * n] += np.log([[1.0], [0.92], [1.08]])
    return candidates


def steps(parameters: np.ndarray, n: int) -> np.ndarray:
    """What counts as a small change of each parameter."""
    radius = np.exp(parameters[n : 2 * n].mean())
    angles = [0.2] if n == 2 else [0.12, 0.12]
    return np.array([0.08 * radius] * n + [0.08] * n + angles)


def refine(
    channels: np.ndarray, weights: np.ndarray, start: np.ndarray, scale: float, evaluations: int, bounds: Bounds | None
) -> tuple[np.ndarray, float]:
    """Climb from one candidate; returns its parameters and fit score."""
    return climb(channels, weights, start[None], scale, evaluations, bounds)[0]


def climb(
    channels: np.ndarray,
    weights: np.ndarray,
    starts: np.ndarray,
    scale: float,
    evaluations: int,
    bounds: Bounds | None,
    *,
    nearest: bool = False,
) -> list[tuple[np.ndarray, float]]:
    """Climb from each candidate (m, 5 or 8), all in step: their next points are evaluated at once.

    Returns:
        Parameters and fit score of each.
    """
    n = channels.ndim - 1
    step = [scale * steps(start, n) for start in starts]
    climbers = [_nelder_mead(starts.shape[1], evaluations) for _ in starts]
    wanted = {k: next(climber) for k, climber in enumerate(climbers)}
    found: list[tuple[np.ndarray, float]] = [(start, -np.inf) for start in starts]
    while wanted:
        requested = [starts[k] + points * step[k] for k, points in wanted.items()]
        costs = np.split(
            _costs(channels, weights, np.vstack(requested), bounds, nearest),
            np.cumsum([len(points) for points in requested])[:-1],
        )
        for k, cost in zip(list(wanted), costs, strict=True):
            try:
                wanted[k] = climbers[k].send(cost)
            except StopIteration as end:
                del wanted[k]
                found[k] = starts[k] + end.value[0] * step[k], -end.value[1]
    return found


def _nelder_mead(size: int, evaluations: int) -> Generator[np.ndarray, np.ndarray, tuple[np.ndarray, float]]:
    """Nelder and Mead's simplex search from the origin with unit steps, as a dialogue.

    Yields points (q, size) and is sent their costs (q,); returns the best point and its cost after so many
    evaluations, or where the simplex is smaller than 0.02 and the costs differ by less than 0.005.
    """
    points = np.vstack([np.zeros(size), np.eye(size)])
    costs = yield points
    left = evaluations - len(points)
    while True:
        order = np.argsort(costs, kind="stable")
        points, costs = points[order], costs[order]
        if left <= 0 or (costs[-1] - costs[0] <= 0.005 and np.abs(points[1:] - points[0]).max() <= 0.02):
            return points[0], float(costs[0])
        middle = points[:-1].mean(axis=0)
        away = middle - points[-1]
        new = middle + away
        cost = float((yield new[None])[0])
        left -= 1
        if cost < costs[0]:
            further = middle + 2 * away
            its = float((yield further[None])[0])
            left -= 1
            points[-1], costs[-1] = (further, its) if its < cost else (new, cost)
        elif cost < costs[-2]:
            points[-1], costs[-1] = new, cost
        else:
            nearer = middle + (0.5 if cost < costs[-1] else -0.5) * away
            its = float((yield nearer[None])[0])
            left -= 1
            if its <= min(cost, costs[-1]):
                points[-1], costs[-1] = nearer, its
            else:
                points[1:] = (points[0] + points[1:]) / 2
                costs[1:] = yield points[1:]
                left -= size


def _costs(
    channels: np.ndarray, weights: np.ndarray, parameters: np.ndarray, bounds: Bounds | None, nearest: bool
) -> np.ndarray:
    n, largest = channels.ndim - 1, np.log(max(channels.shape[1:]))
    # Larger is likelier, other things alike: where there is no skull a climb would go on for ever.
    beyond = np.maximum(parameters[:, n : 2 * n] - largest, 0).sum(axis=1)
    parameters = parameters.copy()
    parameters[:, n : 2 * n] = np.minimum(parameters[:, n : 2 * n], largest)
    if channels.ndim == 4:
        beyond += np.maximum(np.abs(parameters[:, 6:]) - MAX_TILT, 0).sum(axis=1)
    if bounds is not None:
        outside = np.maximum(bounds[0] - parameters, 0) + np.maximum(parameters - bounds[1], 0)
        beyond += outside.sum(axis=1)
    likely = fit_score(channels, parameters, weights, nearest) - off_centre(channels, parameters)
    return np.asarray(50 * beyond - likely)
