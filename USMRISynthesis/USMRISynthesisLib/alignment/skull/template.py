"""Template of a skull: features of an ellipse or ellipsoid, and their weights.

An ellipse's parameters are its centre in cells, the logarithms of its semi-axes (R, A(, S)) and its angles: (5,) in
a frame, (8,) in a volume.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import ndimage

# Radii, as shares of the ellipse's own.
RADII = np.array([0.55, 0.65, 0.73, 0.79, 0.84, 0.88, 0.91, 0.94, 0.97, 1.0, 1.03, 1.06, 1.1, 1.15, 1.22, 1.32])
_RADII = RADII.astype(np.float32)
# Which of them are the ring, the dark inside and the surroundings.
_RING, _INSIDE, _OUTSIDE = slice(7, 10), slice(2, 5), slice(11, 14)
# The template: weights of the local contrast and of the brightness on these radii, of the deviation from the usual
# ratios, and of the size. They were fitted to half of the HC18 fetuses (frames) and to simulated heads (volumes), so
# that of many candidates the one with the best overlap scores highest. This repository has no program that fits them:
# the 68 numbers cannot be remade from it.
_TEMPLATE = {
    2: np.array(
        [
            -0.46,
            -0.94,
            -1.05,
            -0.63,
            -0.07,
            0.02,
            0.11,
            1.27,
            1.69,
            0.64,
            0.00,
            -0.97,
            -2.02,
            -1.87,
            -1.37,
            -1.19,
            0.31,
            -0.30,
            -0.51,
            -0.34,
            -0.07,
            0.12,
            0.33,
            0.76,
            0.65,
            0.12,
            0.11,
            0.18,
            0.31,
            0.85,
            1.05,
            0.47,
            -0.14,
            1.82,
        ]
    ),
    3: np.array(
        [
            0.08,
            -1.21,
            -1.71,
            -1.45,
            -2.40,
            -2.58,
            -0.95,
            1.07,
            1.81,
            0.98,
            -0.32,
            -0.88,
            -0.89,
            -1.43,
            -1.85,
            -0.86,
            0.67,
            1.46,
            2.82,
            3.54,
            2.39,
            0.79,
            0.02,
            -0.10,
            0.01,
            0.37,
            1.13,
            2.01,
            2.29,
            1.61,
            0.69,
            0.73,
            -0.53,
            4.48,
        ]
    ),
}
# Usual width over length, and height over length, of the outer skull, and their spread. In a volume the ellipsoid
# ends at the skull's base.
RATIOS = {2: np.array([0.79]), 3: np.array([0.83, 0.75])}
RATIO_SPREAD = 0.08
MAX_TILT = np.deg2rad(25.0)
# Without a cost to tilting, an ellipsoid leans over to gather tissue outside the head.
TILT_SPREAD = np.deg2rad(10.0)


def contrast_and_brightness(image: np.ndarray, fan: np.ndarray) -> np.ndarray:
    """(2, ...) float32: local contrast in -1..1, and brightness in 0..1; both 0 outside the fan."""
    inside = fan.astype(np.float32)
    image = image / max(float(np.percentile(image[fan], 99)), 1e-6) * inside
    mean, spread = _surroundings(image, inside, 0.06 * max(image.shape))
    # The two channels lie side by side in memory: both are sampled together (``_profiles``).
    channels = np.empty((*image.shape, 2), dtype=np.float32)
    channels[..., 0] = np.tanh((image - mean) / (spread + 0.04)) * inside
    channels[..., 1] = np.minimum(image / 0.6, 1)
    return np.moveaxis(channels, -1, 0)


def _surroundings(image: np.ndarray, inside: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the image around each cell.

    Both are smooth over several cells: a volume's are computed on every second one.
    """
    fields, shape = np.stack([inside, image, image * image]), image.shape
    if image.ndim == 3:
        fields = np.pad(fields, [(0, 0), *((0, size % 2) for size in shape)], mode="edge")
        for axis in (1, 2, 3):
            fields = (
                fields.take(range(0, fields.shape[axis], 2), axis) + fields.take(range(1, fields.shape[axis], 2), axis)
            ) / 2
        sigma /= 2
    inside, image, square = (ndimage.gaussian_filter(field, sigma, truncate=3) for field in fields)
    mean = image / (inside + 1e-3)
    spread = np.sqrt(np.maximum(square / (inside + 1e-3) - mean**2, 0))
    if len(shape) == 2:
        return mean, spread
    return _twice_as_fine(mean, shape), _twice_as_fine(spread, shape)


def _twice_as_fine(field: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Linear between the centres of cells, each of which becomes two along every axis; cut to ``shape``."""
    for axis, size in enumerate(shape):
        line = np.moveaxis(field, axis, 0)
        ends = np.concatenate([line[:1], line, line[-1:]])
        fine = np.empty((2 * len(line), *line.shape[1:]), dtype=field.dtype)
        fine[0::2] = 0.75 * line + 0.25 * ends[:-2]
        fine[1::2] = 0.75 * line + 0.25 * ends[2:]
        field = np.moveaxis(fine[:size], 0, axis)
    return field


@lru_cache(maxsize=4)
def directions(n: int, coarse: bool = False) -> np.ndarray:
    """(n, directions) unit vectors, evenly spread; in 3D without the base, which is no shell."""
    if n == 2:
        angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        return np.stack([np.cos(angle), np.sin(angle)])
    count = 128 if coarse else 256
    z = 1 - (2 * np.arange(count) + 1) / count
    angle = np.pi * (3 - np.sqrt(5)) * np.arange(count)
    sphere = np.stack([np.sqrt(1 - z**2) * np.cos(angle), np.sqrt(1 - z**2) * np.sin(angle), z])
    return sphere[:, z > -0.5]


def rotation_of(parameters: np.ndarray) -> np.ndarray:
    """(..., n, n). One angle in the plane; pitch about R and yaw about S in space (no roll: it stays as assumed)."""
    if parameters.shape[-1] == 5:
        c, s = np.cos(parameters[..., 4]), np.sin(parameters[..., 4])
        rows = [[c, -s], [s, c]]
    else:
        pitch, yaw = parameters[..., 6], parameters[..., 7]
        angle = np.maximum(np.hypot(pitch, yaw), 1e-12)
        x, z, c, s = pitch / angle, yaw / angle, np.cos(angle), np.sin(angle)
        xx, xz, zz = (1 - c) * x * x, (1 - c) * x * z, (1 - c) * z * z
        rows = [[c + xx, -s * z, xz], [s * z, c, -s * x], [xz, s * x, c + zz]]  # a turn about the axis (x, 0, z)
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def _profiles(channels: np.ndarray, parameters: np.ndarray, nearest: bool = False) -> np.ndarray:
    """(ellipses, 2, radii): the channels' means over all directions; outside the grid they count as 0.

    Linear, or the ``nearest`` cell: a quarter of the time, and what the many directions average is nearly the same.
    """
    n, m = channels.ndim - 1, len(parameters)
    shape = channels.shape[1:]
    # Contrast and brightness as the halves of one complex number: one fetch brings both.
    pairs = np.ascontiguousarray(np.moveaxis(channels, 0, -1), dtype=np.float32).view(np.complex64).ravel()
    matrices = rotation_of(parameters) * np.exp(parameters[:, None, n : 2 * n])
    surface = (matrices @ directions(n)).astype(np.float32)  # ellipses, axes, directions
    points = parameters[:, :n, None, None].astype(np.float32) + _RADII[:, None] * surface[:, :, None, :]
    count = points.shape[-1]
    weights: np.ndarray = np.ones(1, dtype=np.float32)
    index: np.ndarray = np.zeros(1, dtype=np.int32)
    seen: np.ndarray = np.ones(1, dtype=bool)
    stride = 1
    for axis in range(n):  # x first, whose cells are neighbours in memory
        along, last = points[:, axis, :, None, :], np.float32(shape[-1 - axis] - 1)
        inside = np.minimum(np.maximum(along, 0), last)
        seen = seen & (inside == along)
        if nearest:
            index = index + (inside + np.float32(0.5)).astype(np.int32) * stride
        else:
            lower = np.minimum(inside, last - 1).astype(np.int32)
            upper = weights * (inside - lower)
            weights = np.concatenate([weights - upper, upper], axis=2)
            index = np.concatenate([index + lower * stride, index + (lower + 1) * stride], axis=2)
        stride *= shape[-1 - axis]
    weights = (weights * seen).reshape(m, len(RADII), 1, -1)
    values = pairs.take(index).view(np.float32).reshape(m, len(RADII), -1, 2)
    return (weights @ values)[:, :, 0].transpose(0, 2, 1) / count


def features(channels: np.ndarray, parameters: np.ndarray, nearest: bool = False) -> np.ndarray:
    """(ellipses, 34): 16 contrasts, 16 brightnesses, squared deviation from the usual ratios, log of the size."""
    n = channels.ndim - 1
    logs = parameters[:, n : 2 * n]
    ratios = np.exp(np.delete(logs, 1, axis=1) - logs[:, 1:2])
    if n == 2:
        ratios = np.minimum(ratios, 1 / ratios)
    deviation = (((ratios - RATIOS[n]) / RATIO_SPREAD) ** 2).mean(axis=1)
    size = logs.mean(axis=1) - np.log(max(channels.shape[1:]))
    return np.column_stack([_profiles(channels, parameters, nearest).reshape(len(parameters), -1), deviation, size])


def fit_score(channels: np.ndarray, parameters: np.ndarray, weights: np.ndarray, nearest: bool = False) -> np.ndarray:
    """(ellipses,): how well the template fits each, less what a tilt away from the assumed axes costs."""
    tilt = parameters[:, 6:] / TILT_SPREAD if channels.ndim == 4 else np.zeros((len(parameters), 1))
    return features(channels, parameters, nearest) @ weights - (tilt**2).sum(axis=1)


def template(n: int) -> np.ndarray:
    """Weights (34,) of the features for frames (n = 2) or volumes (3)."""
    return _TEMPLATE[n]


def prominence(channels: np.ndarray, parameters: np.ndarray) -> float:
    """Local contrast of the ring above what lies inside and outside it, without template or size."""
    contrast = _profiles(channels, parameters[None])[0, 0]
    return float(contrast[_RING].mean() - (contrast[_INSIDE].mean() + contrast[_OUTSIDE].mean()) / 2)
