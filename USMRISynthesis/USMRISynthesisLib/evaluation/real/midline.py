"""The midline that an image of the head shows: the line about which its two halves are most alike."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

STEP_MM = 0.6
REACH_DEG, REACH_MM = 24.0, 7.2  # beyond the start to which the midline is searched
_COARSE_DEG, _FINE_DEG = 2.0, 0.5
_SMOOTH_MM = 0.9
_LEAST = 400  # pairs of points that must be compared


def symmetry_line(
    image: np.ndarray, inner: np.ndarray, centre: np.ndarray, axis: np.ndarray, pixel_mm: float
) -> tuple[np.ndarray, np.ndarray] | None:
    """A point (2,) and a unit vector (2,) of the image's line of symmetry, in pixels (x right, y down).

    The halves are compared by normalised cross-correlation where both are inside, within REACH_DEG and REACH_MM of the
    start.

    Args:
        image: (j, i). inner: (j, i) bool, the head without its rim, which has a symmetry of its own.
        centre, axis: (2,), where the search starts.

    Returns:
        None where too little of the image lies inside.
    """
    smooth = ndimage.gaussian_filter(np.asarray(image, np.float32), _SMOOTH_MM / pixel_mm)
    inside = np.asarray(inner, np.float32)
    start = float(np.rad2deg(np.arctan2(axis[1], axis[0])))
    found = (-np.inf, start, 0.0)
    for step, reach in ((_COARSE_DEG, REACH_DEG), (_FINE_DEG, _COARSE_DEG)):
        middle = found[1]
        for angle in np.arange(middle - reach, middle + reach + 1e-6, step):
            found = max(found, _best_offset(smooth, inside, centre, float(angle), pixel_mm))
    if not np.isfinite(found[0]):
        return None
    turn = np.deg2rad(found[1])
    along = np.array([np.cos(turn), np.sin(turn)])
    return centre + found[2] / pixel_mm * np.array([-along[1], along[0]]), along


def _best_offset(
    image: np.ndarray, inside: np.ndarray, centre: np.ndarray, angle: float, pixel_mm: float
) -> tuple[float, float, float]:
    """Likeness of the halves, the angle, and the line's offset in mm across it from the centre, the best there is."""
    half = int(np.hypot(*image.shape) * pixel_mm / 2 / STEP_MM)
    places = np.arange(-half, half + 1) * (STEP_MM / pixel_mm)
    turn = np.deg2rad(angle)
    along, across = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
    points = centre + places[:, None, None] * along + places[None, :, None] * across  # (along, across, xy)
    index = points[..., ::-1].transpose(2, 0, 1)
    values = ndimage.map_coordinates(image, index, order=1)
    seen = ndimage.map_coordinates(inside, index, order=0) > 0.5
    best = (-np.inf, angle, 0.0)
    most = round(2 * REACH_MM / STEP_MM)
    for twice in range(-most, most + 1):  # the line at half of it: mirrored, column c becomes 2 half + twice - c
        low, high = max(0, twice), min(2 * half, 2 * half + twice)
        one = slice(low, high + 1)
        mirrored = values[:, one][:, ::-1]
        both = seen[:, one] & seen[:, one][:, ::-1]
        if both.sum() < _LEAST:
            continue
        a, b = values[:, one][both], mirrored[both]
        spread = float(a.std() * b.std())
        if spread > 1e-6:
            alike = float(((a - a.mean()) * (b - b.mean())).mean()) / spread
            best = max(best, (alike, angle, twice / 2 * STEP_MM))
    return best


def angle_between_deg(a: np.ndarray, b: np.ndarray) -> float:
    """Angle in degrees, 0-90, between two lines (2,)."""
    return float(np.rad2deg(np.arccos(np.clip(abs(a @ b) / np.linalg.norm(a) / np.linalg.norm(b), 0, 1))))


def distance_from_line(point: np.ndarray, on: np.ndarray, axis: np.ndarray) -> float:
    """Distance of a point (2,) from a line."""
    normal = np.array([-axis[1], axis[0]]) / np.linalg.norm(axis)
    return float(abs(normal @ (point - on)))
