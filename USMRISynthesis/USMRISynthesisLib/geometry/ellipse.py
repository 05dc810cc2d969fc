"""Ellipses in a plane: their distance, from a mask in closed form, and through a field of distances.

Lengths are in whatever unit the plane has. numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_ROUNDS, _STEP = 12, 1e-4


@dataclass(frozen=True, eq=False)
class Ellipse:
    """centre (2,) x, y; axes (2, 2), which takes the unit circle to the ellipse about its centre."""

    centre: np.ndarray
    axes: np.ndarray

    @property
    def semi_axes(self) -> np.ndarray:
        """(2,) major, minor."""
        return np.asarray(np.linalg.svd(self.axes)[1])

    @property
    def directions(self) -> np.ndarray:
        """(2, 2): columns are the directions of the major and the minor axis, the second a quarter turn on."""
        along = np.linalg.svd(self.axes)[0][:, 0]
        return np.array([[along[0], -along[1]], [along[1], along[0]]])

    @property
    def length(self) -> float:
        """The major axis, end to end."""
        return float(2 * self.semi_axes[0])

    def moved(self, matrix: np.ndarray) -> Ellipse:
        """Its image under an affine map (3, 3), which is an ellipse too."""
        return Ellipse(matrix[:2, :2] @ self.centre + matrix[:2, 2], matrix[:2, :2] @ self.axes)

    def distance(self, places: np.ndarray) -> np.ndarray:
        """Signed distance of places (2, ...), negative inside: exact to first order near the ellipse."""
        flat = places.reshape(2, -1) - self.centre[:, None]
        inverse = np.linalg.inv(self.axes)
        unit = inverse @ flat
        radius = np.maximum(np.sqrt((unit**2).sum(axis=0)), 1e-6)
        slope = np.sqrt(((inverse.T @ unit) ** 2).sum(axis=0)) / radius
        return np.asarray(((radius - 1) / np.maximum(slope, 1e-12)).reshape(places.shape[1:]))

    def outline(self, count: int = 64) -> np.ndarray:
        """(2, count) places on it."""
        angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
        return np.asarray(self.centre[:, None] + self.axes @ np.stack([np.cos(angle), np.sin(angle)]))


def from_mask(weights: np.ndarray, places: np.ndarray) -> Ellipse | None:
    """The ellipse with the first and second moments of a mask; None where there is too little of it.

    Args:
        weights: (m,) 0-1. places: (2, m).
    """
    total = float(weights.sum())
    if total < 12:
        return None
    centre = places @ weights / total
    away = places - centre[:, None]
    moments, directions = np.linalg.eigh((away * weights) @ away.T / total)
    if moments[0] <= 0:
        return None
    return Ellipse(centre, directions * (2 * np.sqrt(moments)))


def through_distances(
    places: np.ndarray, distances: np.ndarray, weights: np.ndarray, start: Ellipse, tolerance: float
) -> tuple[Ellipse, float] | None:
    """The ellipse whose distance field fits best: robust Gauss-Newton steps on its five parameters.

    Args:
        places: (2, m). distances: (m,) signed, as predicted at these places. weights: (m,).
        start: where to begin. tolerance: differences far beyond this count for little.

    Returns:
        The ellipse and the weighted mean of the absolute differences that are left; None where nothing fits.
    """
    found = start
    if distances.size < 12 or float(weights.sum()) <= 0:
        return None
    for _ in range(_ROUNDS):
        left = found.distance(places) - distances
        robust = weights / (1 + (left / tolerance) ** 2)
        size = found.semi_axes[0]
        slopes = np.stack(
            [(_changed(found, n, _STEP, size).distance(places) - distances - left) / _STEP for n in range(5)]
        )
        curve = (slopes * robust) @ slopes.T + 1e-6 * robust.sum() * size**2 * np.eye(5)
        step = -np.linalg.solve(curve, (slopes * robust) @ left)
        step *= min(1.0, 0.2 / max(float(np.abs(step).max()), 1e-9))
        for n in range(5):
            found = _changed(found, n, float(step[n]), size)
        semi = found.semi_axes
        if not np.isfinite(semi).all() or semi[1] < 0.2 * semi[0] or semi[0] > 4 * start.semi_axes[0]:
            return None
        if np.abs(step).max() < 1e-5:
            break
    left = np.abs(found.distance(places) - distances)
    return found, float((left * weights).sum() / weights.sum())


def _changed(ellipse: Ellipse, n: int, amount: float, size: float) -> Ellipse:
    """A small change of one parameter: the centre's x or y by a share of `size`, or a stretch of the plane."""
    if n < 2:
        return Ellipse(ellipse.centre + amount * size * np.eye(2)[n], ellipse.axes)
    stretch = (np.diag([1.0, 0.0]), np.diag([0.0, 1.0]), np.array([[0.0, 1.0], [1.0, 0.0]]))[n - 2]
    return Ellipse(ellipse.centre, (np.eye(2) + amount * stretch) @ ellipse.axes)
