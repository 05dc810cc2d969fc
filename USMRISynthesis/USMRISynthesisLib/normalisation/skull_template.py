"""What a skull looks like from its own point of view: features of an ellipse or ellipsoid, and their weights.

An ellipse's parameters are its centre in cells, the logarithms of its semi-axes (R, A(, S)) and its angles: (5,) in
a frame, (8,) in a volume.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

# Radii, as shares of the ellipse's own.
RADII = np.array([0.55, 0.65, 0.73, 0.79, 0.84, 0.88, 0.91, 0.94,
                  0.97, 1.0, 1.03, 1.06, 1.1, 1.15, 1.22, 1.32])
# Which of them are the ring, the dark inside and the surroundings.
_RING, _INSIDE, _OUTSIDE = slice(7, 10), slice(2, 5), slice(11, 14)
# The template: weights of the local contrast and of the brightness on these radii, of the deviation from the usual
# ratios, and of the size. Learnt by evaluation/skull_learning.py, for frames from half of the HC18 fetuses and for
# volumes from simulated heads.
_TEMPLATE = {2: np.array([
    -0.46, -0.94, -1.05, -0.63, -0.07, 0.02, 0.11, 1.27, 1.69, 0.64, 0.00, -0.97, -2.02, -1.87, -1.37, -1.19,
    0.31, -0.30, -0.51, -0.34, -0.07, 0.12, 0.33, 0.76, 0.65, 0.12, 0.11, 0.18, 0.31, 0.85, 1.05, 0.47,
    -0.14, 1.82]), 3: np.array([
    0.08, -1.21, -1.71, -1.45, -2.40, -2.58, -0.95, 1.07, 1.81, 0.98, -0.32, -0.88, -0.89, -1.43, -1.85, -0.86,
    0.67, 1.46, 2.82, 3.54, 2.39, 0.79, 0.02, -0.10, 0.01, 0.37, 1.13, 2.01, 2.29, 1.61, 0.69, 0.73,
    -0.53, 4.48])}
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
    sigma = 0.06 * max(image.shape)
    weight = ndimage.gaussian_filter(inside, sigma, truncate=3) + 1e-3
    mean = ndimage.gaussian_filter(image, sigma, truncate=3) / weight
    square = ndimage.gaussian_filter(image * image, sigma, truncate=3) / weight
    spread = np.sqrt(np.maximum(square - mean**2, 0))
    return np.stack([np.tanh((image - mean) / (spread + 0.04)) * inside, np.minimum(image / 0.6, 1)])


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
    """(n, n). One angle in the plane; pitch about R and yaw about S in space (no roll: it stays as assumed)."""
    if len(parameters) == 5:
        c, s = np.cos(parameters[4]), np.sin(parameters[4])
        return np.array([[c, -s], [s, c]])
    return Rotation.from_rotvec([parameters[6], 0.0, parameters[7]]).as_matrix()


def _profiles(channels: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """(ellipses, 2, radii): the channels' means over all directions."""
    n = channels.ndim - 1
    matrices = np.stack([rotation_of(p) * np.exp(p[n:2 * n]) for p in parameters])
    surface = matrices @ directions(n)  # ellipses, axes, directions
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
    deviation = (((ratios - RATIOS[n]) / RATIO_SPREAD) ** 2).mean(axis=1)
    size = logs.mean(axis=1) - np.log(max(channels.shape[1:]))
    return np.column_stack([_profiles(channels, parameters).reshape(len(parameters), -1), deviation, size])


def evidence(channels: np.ndarray, parameters: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(ellipses,): how well the template fits each, less what a tilt away from the assumed axes costs."""
    tilt = parameters[:, 6:] / TILT_SPREAD if channels.ndim == 4 else np.zeros((len(parameters), 1))
    return features(channels, parameters) @ weights - (tilt**2).sum(axis=1)


def template(n: int) -> np.ndarray:
    """Weights (34,) of the features for frames (n = 2) or volumes (3)."""
    return _TEMPLATE[n]


def prominence(channels: np.ndarray, parameters: np.ndarray) -> float:
    """Local contrast of the ring above what lies inside and outside it, without template or size."""
    contrast = _profiles(channels, parameters[None])[0, 0]
    return float(contrast[_RING].mean() - (contrast[_INSIDE].mean() + contrast[_OUTSIDE].mean()) / 2)
