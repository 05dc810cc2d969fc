"""The parametric skull coordinate system: from skull, eyes and head pose to canonical space, in closed form.

After Namburete et al. 2018 (doi 10.1016/j.media.2018.02.006), whose coordinate system rests on the skull boundary,
the eye sockets and the head pose. Here:

1. An ellipsoid through the skull's boundary points (least squares in its algebraic form) gives centre and lengths.
   Part of a skull determines it poorly, so it is pulled towards the usual proportions (a prior whose weight is a
   number of points).
2. The network's pose gives the axes; the eyes, both or one, correct them where they are seen, each by its weight.
3. One weighted similarity (Umeyama) through all of these - the skull's six poles, the eyes - is the result.

Gestational age, where it is given, gives the expected length of the head, and the scale is weighted with it by both
uncertainties. Everything is in mm; "world" is whatever space the points are given in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from USMRISynthesisLib.geometry.canonical import HEAD_LENGTH_MM
from USMRISynthesisLib.geometry.similarity import affine, rotation_of, scale_of, similarity

# Of the simulated training heads, means: semi-axes along R, A, S and the centre of the skull's ellipsoid in canonical
# mm, the cube root of what the skull holds, and the places of left and right eye.
SKULL_SEMI_AXES_MM = np.array([36.4, 44.4, 35.0])
SKULL_CENTRE_MM = np.array([0.0, -0.5, 1.3])
SKULL_CUBE_ROOT_MM = 61.7
EYES_MM = np.array([[-16.3, 32.0, -26.7], [16.3, 32.0, -26.7]])
# Spread of single heads about these, as a standard deviation, mm.
_POLE_SPREAD_MM, _EYE_SPREAD_MM = 1.6, 2.2


@dataclass(frozen=True, eq=False)
class Ellipsoid:
    """Centre (3,), semi-axes (3,) and their directions as columns (3, 3); residual: rms distance of the points, mm."""

    centre: np.ndarray
    semi_axes: np.ndarray
    axes: np.ndarray
    residual: float


def head_length_mm(weeks: float) -> tuple[float, float]:
    """Mean and standard deviation of the occipito-frontal diameter, outer to outer, at a gestational age in weeks.

    INTERGROWTH-21st fetal growth standards, 14-40 weeks: Papageorghiou et al., Lancet 2014, 384:869-879.

    Raises:
        ValueError: outside 12-42 weeks, where the curves mean nothing.
    """
    if not 12 <= weeks <= 42:
        raise ValueError(f"gestational age {weeks:g} weeks is outside 12 to 42")
    square, log = weeks**2, np.log(weeks)
    mean = -12.4097 + 0.626342 * square - 0.148075 * square * log
    spread = np.exp(-0.880034 + 0.0631165 * square - 0.0317136 * square * log + 0.00408302 * square * log**2)
    return float(mean), float(spread)


def fit_ellipsoid(
    points: np.ndarray, axes: np.ndarray, weights: np.ndarray | None = None, *, prior: float = 0.0
) -> Ellipsoid:
    """Ellipsoid with known axes through boundary points.

    With the axes known the algebraic form sum_i a_i u_i^2 + b_i u_i = 1 is linear in its six unknowns. Points near
    one side leave some of them open: `prior` adds that many points' worth of an ellipsoid of the usual proportions,
    placed and sized by the points themselves.

    Args:
        points: (m, 3), m >= 6, world mm.
        axes: (3, 3), columns R, A, S of the head in the world.
        weights: (m,).

    Raises:
        ValueError: too few points, or none that an ellipsoid fits.
    """
    weight = np.ones(len(points)) if weights is None else np.asarray(weights, dtype=np.float64)
    if np.count_nonzero(weight > 0) < 6:
        raise ValueError("an ellipsoid needs at least six boundary points")
    local = points @ axes
    usual = _usual_sphere(local, weight)
    if usual is None:
        raise ValueError("the boundary points fit no ellipsoid")
    middle, length = usual
    u = (local - middle) / length
    rows, row_weights = u, weight / weight.sum()
    if prior > 0:
        poles = np.vstack([np.diag(SKULL_SEMI_AXES_MM / SKULL_SEMI_AXES_MM[1]) * s for s in (1, -1)])
        rows = np.vstack([u, poles])
        share = prior / (prior + len(points))
        row_weights = np.concatenate([row_weights * (1 - share), np.full(6, share / 6)])
    solution = _least_squares(np.column_stack([rows**2, rows]), np.ones(len(rows)), row_weights)
    square, linear = solution[:3], solution[3:]
    if not (square > 0).all():
        raise ValueError("the boundary points fit no ellipsoid")
    offset = -linear / (2 * square)
    level = 1 + float(square @ offset**2)
    semi = np.sqrt(level / square)
    radius = np.linalg.norm((u - offset) / semi, axis=1)
    distance = np.linalg.norm(u - offset, axis=1) * np.abs(1 - 1 / np.maximum(radius, 1e-6)) * length
    residual = float(np.sqrt((weight @ distance**2) / weight.sum()))
    return Ellipsoid(axes @ (middle + offset * length), semi * length, axes, residual)


def _usual_sphere(local: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, float] | None:
    """Centre and A semi-axis of the ellipsoid of usual proportions: a sphere once the axes are squeezed."""
    ratios = SKULL_SEMI_AXES_MM / SKULL_SEMI_AXES_MM[1]
    squeezed = local / ratios
    middle = weight @ squeezed / weight.sum()  # about their middle: squares of what lies far away lose digits
    squeezed = squeezed - middle
    design = np.column_stack([2 * squeezed, np.ones(len(local))])
    solution = _least_squares(design, (squeezed**2).sum(axis=1), weight / weight.sum())
    square = solution[3] + float(solution[:3] @ solution[:3])
    return ((solution[:3] + middle) * ratios, float(np.sqrt(square))) if square > 0 else None


def _least_squares(design: np.ndarray, target: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """By the normal equations, in a tenth of the time for thousands of rows; the shortest where several are as good."""
    weighted = design.T * weights
    solution: np.ndarray = np.linalg.lstsq(weighted @ design, weighted @ target, rcond=1e-12)[0]
    return solution


@dataclass(frozen=True, eq=False)
class Midplane:
    """The plane normal @ p = offset; residual: rms of what the distances to it leave over, mm."""

    normal: np.ndarray
    offset: float
    residual: float


def fit_midplane(points: np.ndarray, distance: np.ndarray, weights: np.ndarray) -> Midplane:
    """The plane that unsigned distances belong to.

    On either side of it the distance is linear in the place. So signs are guessed from a first plane, a plane is
    fitted to the signed distances, and so on until the signs stay; of several first planes the best result counts.

    Args:
        points: (m, 3) mm; distance: (m,) mm, 0 or more; weights: (m,).

    Raises:
        ValueError: fewer than four points carry weight.
    """
    if np.count_nonzero(weights > 0) < 4:
        raise ValueError("a plane needs points")
    near = weights * np.exp(-((distance / 5.0) ** 2))
    middle = near @ points / near.sum()
    scatter = ((points - middle) * near[:, None]).T @ (points - middle)
    starts = list(np.linalg.eigh(scatter)[1].T)
    starts += [
        np.array(v, dtype=float) / np.sqrt(2)
        for v in ((1, 1, 0), (1, -1, 0), (1, 0, 1), (1, 0, -1), (0, 1, 1), (0, 1, -1))
    ]
    found = [_refit(points, distance, weights, normal, float(normal @ middle)) for normal in starts]
    return min(found, key=lambda plane: plane.residual)


def _refit(
    points: np.ndarray, distance: np.ndarray, weights: np.ndarray, normal: np.ndarray, offset: float
) -> Midplane:
    design = np.column_stack([points, -np.ones(len(points))])
    kept, residual = weights, float("inf")
    for _ in range(12):
        side = np.where(points @ normal > offset, 1.0, -1.0)
        system = design.T @ (design * kept[:, None]) + 1e-9 * np.eye(4)
        solution = np.linalg.solve(system, design.T @ (kept * side * distance))
        length = max(float(np.linalg.norm(solution[:3])), 1e-9)
        normal, offset = solution[:3] / length, float(solution[3]) / length
        error = np.abs(points @ normal - offset) - distance
        residual = float(np.sqrt(weights @ error**2 / weights.sum()))
        sigma = max(1.48 * float(np.median(np.abs(error))), 0.3)
        kept = weights / (1 + (error / (2.5 * sigma)) ** 2) ** 2
    return Midplane(normal, offset, residual)


def parametric(
    skull: Ellipsoid | None,
    eyes: np.ndarray,
    eye_weights: np.ndarray,
    pose: np.ndarray,
    *,
    pose_spread_mm: float = 2.5,
    skull_weight: float = 1.0,
    full: bool = False,
) -> np.ndarray:
    """World to canonical (4, 4) from whatever of skull, eyes and pose is there.

    Args:
        skull: the ellipsoid, its axes those of the pose; None where too little is seen.
        eyes: (2, 3) left and right eye, world mm; the row of an eye that is not visible is ignored.
        eye_weights: (2,), 0-1; 0 for an eye that is not seen.
        pose: (4, 4), world to canonical, from the dense coordinates.
        pose_spread_mm: how far the pose may be off at the skull.
        skull_weight: 0-1.
        full: an affine map that also takes the head's own width and height to the usual ones.

    Raises:
        ValueError: an affine map is requested without a skull.
    """
    back = np.linalg.inv(pose)
    poles = np.vstack([np.diag(SKULL_SEMI_AXES_MM) * s for s in (1, -1)]) + SKULL_CENTRE_MM
    sources = [poles @ back[:3, :3].T + back[:3, 3]]
    targets, weights = [poles], [np.full(6, 1 / pose_spread_mm**2)]
    if skull is not None:
        found = np.vstack([(skull.axes * skull.semi_axes).T * s for s in (1, -1)]) + skull.centre
        sources.append(found)
        # A similarity takes the length from the front and back poles; width and height are the head's own.
        along = np.vstack([np.diag(skull.semi_axes * (SKULL_SEMI_AXES_MM[1] / skull.semi_axes[1]))] * 2)
        along[3:] *= -1
        targets.append(poles if full else along + SKULL_CENTRE_MM)
        weights.append(np.full(6, skull_weight / (_POLE_SPREAD_MM**2 + skull.residual**2)))
    seen = np.asarray(eye_weights) > 0
    if seen.any():
        sources.append(np.asarray(eyes)[seen])
        targets.append(EYES_MM[seen])
        weights.append(np.asarray(eye_weights)[seen] / _EYE_SPREAD_MM**2)
    source, target, weight = np.vstack(sources), np.vstack(targets), np.concatenate(weights)
    if full:
        if skull is None:
            raise ValueError("an affine map needs the skull")
        return affine(source, target, weight)
    return similarity(source, target, weight)


def with_age(matrix: np.ndarray, weeks: float, *, spread: float, centre: np.ndarray) -> np.ndarray:
    """The similarity with its scale pulled towards a gestational age's head length, about a point that stays.

    Args:
        matrix: (4, 4), world mm to canonical mm.
        weeks: gestational age.
        spread: relative standard deviation of the scale that the image gave.
        centre: (3,), canonical mm; it keeps its place.
    """
    length, deviation = head_length_mm(weeks)
    expected, expected_spread = np.log(HEAD_LENGTH_MM / length), deviation / length
    found = np.log(scale_of(matrix))
    share = spread**2 / (spread**2 + expected_spread**2)
    factor = float(np.exp(share * (expected - found)))
    result = matrix.copy()
    result[:3, :3] *= factor
    result[:3, 3] = centre + factor * (matrix[:3, 3] - centre)
    return result


def circumference_mm(semi_axes: np.ndarray) -> float:
    """Of an ellipse with these two semi-axes: Ramanujan's approximation."""
    a, b = float(semi_axes[0]), float(semi_axes[1])
    h = ((a - b) / (a + b)) ** 2
    return float(np.pi * (a + b) * (1 + 3 * h / (10 + np.sqrt(4 - 3 * h))))


def head_axes(matrix: np.ndarray) -> np.ndarray:
    """Columns R, A, S of the head in the world (3, 3), of a world-to-canonical similarity."""
    return rotation_of(matrix).T
