"""Closed forms between two sets of coordinates: similarity, affine, the cube's 24 rotations (numpy only).

Matrices are 4x4 (or 3x3 in the plane), acting on columns, mm. Rotations are proper: nothing here mirrors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations, product

import numpy as np

# Residuals beyond this many robust standard deviations count less, and less the further out (Geman-McClure).
_CUT = 2.5


@dataclass(frozen=True, eq=False)
class Fit:
    """A similarity through pairs of points.

    Attributes:
        matrix: (n + 1, n + 1), from source to target.
        scale: of the similarity.
        residual: root of the weighted mean square of what is left, in target units.
        inliers: share of the weight that counts, 0-1.
        spread: effective number of points along the poorest axis: the smallest weighted variance of the source,
            as its square root; near 0 the points lie in a plane and the rotation is not determined.
    """

    matrix: np.ndarray
    scale: float
    residual: float
    inliers: float
    spread: float


def similarity(source: np.ndarray, target: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The least-squares similarity (n + 1, n + 1) from `source` (m, n) to `target` (m, n).

    Weighted form of Umeyama, IEEE PAMI 1991, 13(4):376-380: rotation by SVD of the cross-covariance, with the
    last singular direction turned where the best orthogonal matrix would mirror.

    Raises:
        ValueError: too few points, or all in one place.
    """
    weight = np.ones(len(source)) if weights is None else np.asarray(weights, dtype=np.float64)
    n = source.shape[1]
    total = weight.sum()
    if np.count_nonzero(weight > 0) < n or not total > 0:
        raise ValueError(f"a similarity in {n}D needs at least {n} points")
    weight = weight / total
    middle, aim = weight @ source, weight @ target
    a, b = source - middle, target - aim
    variance = float(weight @ (a**2).sum(axis=1))
    if not variance > 1e-12:
        raise ValueError("all points are in one place")
    u, values, v = np.linalg.svd((b * weight[:, None]).T @ a)
    sign = np.ones(n)
    sign[-1] = np.sign(np.linalg.det(u) * np.linalg.det(v)) or 1.0
    matrix = np.eye(n + 1)
    matrix[:n, :n] = float(values @ sign) / variance * (u * sign) @ v
    matrix[:n, n] = aim - matrix[:n, :n] @ middle
    return matrix


def affine(source: np.ndarray, target: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The least-squares affine map (n + 1, n + 1); raises ValueError where the points do not determine it."""
    n = source.shape[1]
    root = np.sqrt(np.ones(len(source)) if weights is None else weights)[:, None]
    design = np.column_stack([source, np.ones(len(source))]) * root
    solution, _, rank, _ = np.linalg.lstsq(design, target * root, rcond=1e-9)
    if rank < n + 1:
        raise ValueError("the points do not determine an affine map")
    matrix = np.eye(n + 1)
    matrix[:n] = solution.T
    return matrix


def fit_similarity(source: np.ndarray, target: np.ndarray, weights: np.ndarray, *, rounds: int = 8) -> Fit:
    """Robust similarity: re-weighted least squares in which points that disagree fade out.

    Args:
        source: (m, n), where the points are.
        target: (m, n), the corresponding points.
        weights: (m,), inverse variances, or any other confidence.

    Raises:
        ValueError: as `similarity`.
    """
    kept = np.asarray(weights, dtype=np.float64)
    matrix = similarity(source, target, kept)
    n = source.shape[1]
    fade = np.ones(len(source))
    error = np.zeros(len(source))
    for _ in range(rounds):
        error = np.linalg.norm(source @ matrix[:n, :n].T + matrix[:n, n] - target, axis=1)
        sigma = max(_weighted_median(error, kept) / 1.54, 1e-6)  # the median length of a unit normal in 3D is 1.54
        fade = 1 / (1 + (error / (_CUT * sigma)) ** 2) ** 2
        before, matrix = matrix, similarity(source, target, kept * fade)
        if np.abs(matrix - before).max() < 1e-6:
            break
    weight = kept / kept.sum()
    middle = weight @ source
    scatter = ((source - middle) * weight[:, None]).T @ (source - middle)
    used = weight * fade
    residual = float(np.sqrt(used @ error**2 / used.sum()))
    return Fit(matrix, scale_of(matrix), residual, float(used.sum()), float(np.sqrt(np.linalg.eigvalsh(scatter)[0])))


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    running = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(running, 0.5 * running[-1])])


def scale_of(matrix: np.ndarray) -> float:
    """The scale of a similarity, or the mean one of an affine map."""
    n = len(matrix) - 1
    return float(abs(np.linalg.det(matrix[:n, :n])) ** (1 / n))


def rotation_of(matrix: np.ndarray) -> np.ndarray:
    """The nearest rotation (n, n) to the linear part of a homogeneous matrix (n + 1, n + 1)."""
    n = len(matrix) - 1
    return nearest_rotation(matrix[:n, :n])


def nearest_rotation(matrix: np.ndarray) -> np.ndarray:
    """The proper rotation (n, n) nearest to a matrix (n, n) in the Frobenius norm."""
    u, _, v = np.linalg.svd(matrix)
    sign = np.ones(len(matrix))
    sign[-1] = np.sign(np.linalg.det(u @ v)) or 1.0
    return np.asarray((u * sign) @ v)


def angle_deg(first: np.ndarray, second: np.ndarray) -> float:
    """Angle between two rotations (3, 3) in degrees."""
    return float(np.rad2deg(np.arccos(np.clip((np.sum(first * second) - 1) / 2, -1, 1))))


@lru_cache(maxsize=1)
def cube_rotations() -> np.ndarray:
    """(24, 3, 3): the proper rotations of a cube, the identity first."""
    found = []
    for order, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        matrix = np.zeros((3, 3))
        matrix[range(3), order] = signs
        if np.linalg.det(matrix) > 0:
            found.append(matrix)
    found.sort(key=lambda m: -np.trace(m))
    return np.stack(found)


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    """A rotation (3, 3), uniform over the sphere of rotations (a normal quaternion, normalised)."""
    w, x, y, z = (q := rng.standard_normal(4)) / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def small_rotation(rng: np.random.Generator, most_deg: float) -> np.ndarray:
    """A rotation about a random axis by an angle uniform in 0..most_deg."""
    axis = rng.standard_normal(3)
    axis /= np.linalg.norm(axis)
    angle = np.deg2rad(rng.uniform(0, most_deg))
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)


def turn_about_x(angle: float) -> np.ndarray:
    """A rotation (3, 3) about the first axis by an angle in degrees."""
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def cube_to_world(side_mm: float, centre: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """(n + 1, n + 1): a cube's (or square's) own coordinates, -1 and 1 at its faces -> world mm.

    Args:
        side_mm: length of the cube's side.
        centre: (n,), its middle in the world.
        axes: (n, n), columns are the cube's x, y(, z) in the world.
    """
    n = len(centre)
    matrix = np.eye(n + 1)
    matrix[:n, :n] = axes * (side_mm / 2)
    matrix[:n, n] = centre
    return matrix
