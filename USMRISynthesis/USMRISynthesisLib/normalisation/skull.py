"""Finding the outer skull: an ellipse in a frame, an ellipsoid in a volume, by the same method.

The skull is a thick bright ring with a dark inside, broken by shadows and where it runs along the beam; maternal
tissue outside can be as bright. So an ellipse is judged by what lies on 16 copies of it, shrunk and grown about
its centre: the mean over all directions of the image, in two channels, times a template learnt from annotated
frames. Both channels saturate, so that no single echo decides, and directions without signal only count as
zero. The best ellipses of a coarse exhaustive correlation (in the Fourier domain) are refined by Nelder-Mead.

Everything here is in the cells of one isotropic working grid; axes are ordered x, y(, z), and the head's
semi-axes R, A(, S): in a frame (minor, major).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from scipy import fft, ndimage, optimize
from scipy.spatial.transform import Rotation

# Radii, as shares of the ellipse's own, and the template for local contrast and for brightness on them. Learnt
# by evaluation/alignment.py (learn_template) from half of the HC18 fetuses.
RADII = np.array([0.55, 0.65, 0.73, 0.79, 0.84, 0.88, 0.91, 0.94,
                  0.97, 1.0, 1.03, 1.06, 1.1, 1.15, 1.22, 1.32])
CONTRAST = np.array([-0.46, -0.94, -1.05, -0.63, -0.07, 0.02, 0.11, 1.27,
                     1.69, 0.64, 0.00, -0.97, -2.02, -1.87, -1.37, -1.19])
BRIGHTNESS = np.array([0.31, -0.30, -0.51, -0.34, -0.07, 0.12, 0.33, 0.76,
                       0.65, 0.12, 0.11, 0.18, 0.31, 0.85, 1.05, 0.47])
# Which radii are the ring, the dark inside and the surroundings, for a skull's prominence.
_RING, _INSIDE, _OUTSIDE = slice(7, 10), slice(2, 5), slice(11, 14)
RATIO_WEIGHT = -0.14
SIZE_WEIGHT = 1.82

# Width over length, and height over length, of the outer skull: mean and spread.
RATIOS = np.array([0.79, 0.85])
RATIO_SPREAD = 0.08
# Occipito-frontal diameter from 10 weeks to term; and as a share of the image, for a search that ends.
LENGTH_MM = (15.0, 135.0)
LENGTH_SHARE = (0.18, 0.95)
MAX_TILT = np.deg2rad(25.0)

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Skull:
    """An ellipse or ellipsoid in cells.

    Attributes:
        centre: (n,).
        semi_axes: (n,), ordered R, A(, S).
        rotation: (n, n), whose columns are those axes.
        prominence: local contrast of the ring above what lies inside and outside it; 0.8 is a clear skull, 0.4 is
            what noise offers.
    """

    centre: np.ndarray
    semi_axes: np.ndarray
    rotation: np.ndarray
    prominence: float = 0.0


def fit_skull(image: np.ndarray, fan: np.ndarray, cell_mm: float, *, start: Skull | None = None) -> Skull | None:
    """Find the skull.

    Args:
        image: (j, i) or (k, j, i) on an isotropic grid, smoothed to its cells. In 3D the grid's axes are R, A, S
            of the fetus to within 25 degrees.
        fan: same shape, bool.
        cell_mm: size of a cell.
        start: search only near this one.

    Returns:
        The best ellipse or ellipsoid, or None where no candidate has a possible size.
    """
    channels = _channels(image.astype(np.float32), fan)
    if start is None:
        candidates = _search(channels, fan, cell_mm)
    else:
        candidates = _around(_parameters(start))
    if not len(candidates):
        return None
    evidence = _evidence(channels, candidates)
    n = image.ndim
    bounds = _bounds(candidates[0], n) if start is not None else None
    coarse = [_refine(channels, p, 1.0, 120 if n == 2 else 200, bounds)
              for p in candidates[_distinct(candidates, evidence, n, 8 if n == 2 else 5)]]
    coarse.sort(key=lambda found: -found[1])
    fine = [_refine(channels, p, 0.4, 250 if n == 2 else 400, bounds) for p, _ in coarse[:2]]
    parameters, _ = max(fine, key=lambda found: found[1])
    contrast = _profiles(channels, parameters[None])[0, 0]
    prominence = contrast[_RING].mean() - (contrast[_INSIDE].mean() + contrast[_OUTSIDE].mean()) / 2
    centre, semi_axes, rotation = parameters[:n], np.exp(parameters[n:2 * n]), _rotation(parameters[2 * n:], n)
    if n == 2 and semi_axes[0] > semi_axes[1]:
        semi_axes, rotation = semi_axes[::-1], rotation[:, ::-1] * [1, -1]
    return Skull(centre, semi_axes, rotation, float(prominence))


def _channels(image: np.ndarray, fan: np.ndarray) -> np.ndarray:
    """(2, ...) float32: local contrast in -1..1, and brightness in 0..1; both 0 outside the fan."""
    inside = fan.astype(np.float32)
    image = image / max(float(np.percentile(image[fan], 99)), 1e-6) * inside
    sigma = 0.06 * max(image.shape)
    weight = ndimage.gaussian_filter(inside, sigma, truncate=3) + 1e-3
    mean = ndimage.gaussian_filter(image, sigma, truncate=3) / weight
    square = ndimage.gaussian_filter(image * image, sigma, truncate=3) / weight
    spread = np.sqrt(np.maximum(square - mean**2, 0))
    return np.stack([np.tanh((image - mean) / (spread + 0.04)) * inside, np.minimum(image / 0.6, 1)])


@lru_cache(maxsize=4)
def _directions(n: int, coarse: bool = False) -> np.ndarray:
    """(n, directions) unit vectors, evenly spread."""
    if n == 2:
        angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        return np.stack([np.cos(angle), np.sin(angle)])
    count = 128 if coarse else 256
    z = 1 - (2 * np.arange(count) + 1) / count
    angle = np.pi * (3 - np.sqrt(5)) * np.arange(count)
    return np.stack([np.sqrt(1 - z**2) * np.cos(angle), np.sqrt(1 - z**2) * np.sin(angle), z])


def _rotation(angles: np.ndarray, n: int) -> np.ndarray:
    """(n, n). One angle in the plane; pitch about R and yaw about S in space (no roll: it stays as assumed)."""
    if n == 2:
        c, s = np.cos(angles[0]), np.sin(angles[0])
        return np.array([[c, -s], [s, c]])
    return Rotation.from_rotvec([angles[0], 0.0, angles[1]]).as_matrix()


def _parameters(skull: Skull) -> np.ndarray:
    """(5,) or (8,): centre, logarithms of the semi-axes, angles."""
    n = len(skull.centre)
    if n == 2:
        angles = np.array([np.arctan2(skull.rotation[1, 0], skull.rotation[0, 0])])
    else:
        angles = Rotation.from_matrix(skull.rotation).as_rotvec()[[0, 2]]
    return np.concatenate([skull.centre, np.log(skull.semi_axes), angles])


def _profiles(channels: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """(ellipses, 2, radii): the channels' means over all directions."""
    n = channels.ndim - 1
    matrices = np.stack([_rotation(p[2 * n:], n) * np.exp(p[n:2 * n]) for p in parameters])
    surface = matrices @ _directions(n)  # ellipses, axes, directions
    points = parameters[:, :n, None, None] + RADII[:, None] * surface[:, :, None, :]
    where = points.transpose(1, 0, 2, 3)[::-1]  # array order
    return np.stack([ndimage.map_coordinates(c, where, order=1, cval=0.0).mean(-1) for c in channels], axis=1)


def features(channels: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """(ellipses, 34): 16 contrasts, 16 brightnesses, squared deviation from the usual ratios, log of the size."""
    n = channels.ndim - 1
    logs = parameters[:, n:2 * n]
    ratios = np.exp(np.delete(logs, 1, axis=1) - logs[:, 1:2])
    if n == 2:
        ratios = np.minimum(ratios, 1 / ratios)
    deviation = (((ratios - RATIOS[:n - 1]) / RATIO_SPREAD) ** 2).mean(axis=1)
    size = logs.mean(axis=1) - np.log(max(channels.shape[1:]))
    return np.column_stack([_profiles(channels, parameters).reshape(len(parameters), -1), deviation, size])


def _evidence(channels: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    return features(channels, parameters) @ np.concatenate([CONTRAST, BRIGHTNESS, [RATIO_WEIGHT, SIZE_WEIGHT]])


def _search(channels: np.ndarray, fan: np.ndarray, cell_mm: float) -> np.ndarray:
    """Candidates (m, 5 or 8): the two best places of every size, shape and tilt, on a coarser grid."""
    n = channels.ndim - 1
    factor = 2 if n == 2 else 3
    contrast = _mean_of_cells(channels[0], factor)
    extent = max(channels.shape[1:])
    side = fft.next_fast_len(int(np.ceil(extent / factor * 1.65)), real=True)
    spectrum = fft.rfftn(contrast, s=(side,) * n)
    kernels = _plane_kernels(side, factor, extent) if n == 2 else _kernels(3, side, factor, extent)
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
def _plane_kernels(side: int, factor: int, extent: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(_kernels(2, side, factor, extent))  # 300 spectra, 50 MB: kept for the next frame


def _kernels(n: int, side: int, factor: int, extent: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Sizes, shapes and tilts to try, each with the conjugate spectrum of its template."""
    lengths = np.exp(np.arange(*np.log(np.array(LENGTH_SHARE) * extent / 2), np.log(1.12)))
    for length in lengths:
        for ratios, angles in _shapes(n):
            logs = np.log(length * np.insert(np.array(ratios), 1, 1.0))
            matrix = _rotation(np.array(angles), n) * np.exp(logs)
            points = RADII[:, None] * (matrix @ _directions(n, True))[:, None, :] / factor
            weights = np.repeat(CONTRAST / points.shape[-1], points.shape[-1])
            kernel = _splat(points.reshape(n, -1)[::-1], weights, side)
            yield np.concatenate([logs, angles]), np.conj(fft.rfftn(kernel)).astype(np.complex64)


def _shapes(n: int) -> list[tuple[tuple[float, ...], tuple[float, ...]]]:
    """Ratios R/A(, S/A) and angles."""
    if n == 2:
        return [((ratio,), (angle,)) for ratio, count in ((0.72, 12), (0.86, 8))
                for angle in np.arange(count) * np.pi / count]
    tilt = np.deg2rad(17)
    return [((0.79, 0.85), (pitch, yaw)) for pitch, yaw in ((0, 0), (tilt, 0), (-tilt, 0), (0, tilt), (0, -tilt))]


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


def _distinct(candidates: np.ndarray, evidence: np.ndarray, n: int, count: int) -> list[int]:
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


def _around(parameters: np.ndarray) -> np.ndarray:
    """A start and slightly larger and smaller ones."""
    n = 2 if len(parameters) == 5 else 3
    candidates = np.repeat(parameters[None], 3, axis=0)
    candidates[:, n:2 * n] += np.log([[1.0], [0.92], [1.08]])
    return candidates


def _steps(parameters: np.ndarray, n: int) -> np.ndarray:
    radius = np.exp(parameters[n:2 * n].mean())
    angles = [0.2] if n == 2 else [0.12, 0.12]
    return np.array([0.08 * radius] * n + [0.08] * n + angles)


def _bounds(parameters: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    reach = 2 * _steps(parameters, n)
    return parameters - reach, parameters + reach


def _refine(channels: np.ndarray, start: np.ndarray, scale: float, evaluations: int,
            bounds: tuple[np.ndarray, np.ndarray] | None) -> tuple[np.ndarray, float]:
    """Climb from one candidate; returns its parameters and evidence."""
    n = channels.ndim - 1
    steps = scale * _steps(start, n)
    cost: Callable[[np.ndarray], float] = lambda v: _cost(channels, start + v * steps, bounds)  # noqa: E731
    simplex = np.vstack([np.zeros(len(start)), np.eye(len(start))])
    found = optimize.minimize(cost, np.zeros(len(start)), method="Nelder-Mead", options={
        "maxfev": evaluations, "initial_simplex": simplex, "xatol": 0.02, "fatol": 0.005})
    return start + found.x * steps, -float(found.fun)


def _cost(channels: np.ndarray, parameters: np.ndarray, bounds: tuple[np.ndarray, np.ndarray] | None) -> float:
    n = channels.ndim - 1
    beyond = 0.0
    if n == 3:
        beyond += float(np.maximum(np.abs(parameters[6:]) - MAX_TILT, 0).sum())
    if bounds is not None:
        beyond += float(np.maximum(bounds[0] - parameters, 0).sum() + np.maximum(parameters - bounds[1], 0).sum())
    return 50 * beyond - float(_evidence(channels, parameters[None])[0])
