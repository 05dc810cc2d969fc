"""From the networks' predictions to geometry: head, midplane, dense pose, skull boundary, eyes.

Pure functions of a ``Prediction`` and its cube's place in the world; ``search.py`` runs the networks.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from scipy.special import expit

from USMRISynthesisLib.alignment.common.unet import cell_centres
from USMRISynthesisLib.alignment.volume import pose as poses
from USMRISynthesisLib.alignment.volume.network import (
    EYE_LEFT,
    EYE_RIGHT,
    HEAD,
    LOG_SIGMA,
    STAGES,
    Prediction,
    X,
    Z,
)
from USMRISynthesisLib.geometry.canonical import HEAD_LENGTH_MM
from USMRISynthesisLib.geometry.similarity import Fit, affine, fit_similarity, scale_of

HEAD_CELLS = 8.0  # of the fields; fewer than these hold no head
_MOST_POINTS, _PLANE_POINTS = 4000, 1500


@functools.lru_cache(maxsize=4)
def _cells(size: int) -> np.ndarray:
    """`cell_centres` as (3, size ** 3), computed once: it is used about forty times for a head."""
    cells = cell_centres(size, 3).numpy().reshape(3, -1)
    cells.flags.writeable = False
    return cells


def head_probability(prediction: Prediction, n: int) -> np.ndarray:
    """(s, s, s): the probability that each cell of sample n belongs to the head; 0 where it is below 0.4."""
    share = torch.sigmoid(prediction.fields[n, HEAD]).numpy()
    return np.where(share > 0.4, share, 0)


def head_position(prediction: Prediction, n: int, unit_to_world: np.ndarray) -> tuple[np.ndarray, float] | None:
    """The head's centre of gravity (3,) and its length in the world, from the head's volume; None without one."""
    share = head_probability(prediction, n)
    if share.sum() < HEAD_CELLS:
        return None
    middle = _cells(len(share)) @ share.ravel() / share.sum()
    side = 2 * scale_of(unit_to_world)
    length = HEAD_LENGTH_MM / poses.SKULL_CUBE_ROOT_MM * float(np.cbrt(share.sum())) * side / len(share)
    return unit_to_world[:3, :3] @ middle + unit_to_world[:3, 3], length


def correspondences(
    prediction: Prediction, n: int, unit_to_world: np.ndarray, stage: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Correspondences from the head's cells of sample n: places in the world (m, 3), predicted canonical coordinates
    in mm (m, 3), and weights (m,)."""
    fields = prediction.fields[n].numpy().reshape(prediction.fields.shape[1], -1).astype(np.float64)
    share = head_probability(prediction, n).ravel()
    kept = share > 0
    cells = _cells(prediction.fields.shape[-1])[:, kept]
    places = cells.T @ unit_to_world[:3, :3].T + unit_to_world[:3, 3]
    predicted = fields[X : Z + 1, kept].T * (STAGES[stage].side_mm / 2)
    return places, predicted, share[kept] * np.exp(-2 * fields[LOG_SIGMA, kept].clip(-6, 1))


def midplane_of(predictions: Sequence[Prediction], units: Sequence[np.ndarray], length: float) -> poses.Midplane | None:
    """The plane through the midline, from the detection in each of the cubes `units`; length: of the head, world mm."""
    parts = [correspondences(one, 0, unit, "locate") for one, unit in zip(predictions, units, strict=True)]
    points, predicted, weights = (np.concatenate(column) for column in zip(*parts, strict=True))
    step = 1 + len(points) // _PLANE_POINTS
    distance = np.maximum(predicted[::step, 0], 0) * length / HEAD_LENGTH_MM
    try:
        return poses.fit_midplane(points[::step], distance, weights[::step])
    except (ValueError, np.linalg.LinAlgError):
        return None


def gradient_of(prediction: Prediction, n: int, unit_to_world: np.ndarray) -> np.ndarray | None:
    """(3, 3): gradient in the world of the coordinates that the coarse orientation predicts, rows x, y, z; None without
    a head. If front and back, or top and bottom, are not separated, the rows are short."""
    places, predicted, weights = correspondences(prediction, n, unit_to_world, "orient")
    try:
        return affine(places, predicted, weights)[:3, :3]
    except (ValueError, np.linalg.LinAlgError):
        return None


def dense_fit(prediction: Prediction, n: int, unit_to_world: np.ndarray, stage: str) -> Fit | None:
    """The similarity from world to canonical that fits the dense coordinates of sample n."""
    places, predicted, weights = correspondences(prediction, n, unit_to_world, stage)
    if len(places) < 30:
        return None
    try:
        return fit_similarity(places, predicted, weights)
    except ValueError:
        return None


def skull_points(distance: np.ndarray, unit_to_canonical: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (m, n) where a distance map changes sign between neighbouring cells, canonical mm, and weights (m,)."""
    n, size = distance.ndim, distance.shape[0]
    found: list[np.ndarray] = []
    inside = distance < 0
    for axis in range(n):
        here, there = ((slice(None),) * axis + (part,) for part in (slice(None, -1), slice(1, None)))
        at = np.nonzero(inside[here] != inside[there])
        if not len(at[0]):
            continue
        a, b = distance[here][at], distance[there][at]
        places = np.stack(at, axis=1).astype(np.float64)
        places[:, axis] += a / (a - b)
        found.append(places)
    if not found:
        return np.zeros((0, n)), np.zeros(0)
    unit = (np.vstack(found)[:, ::-1] + 0.5) * (2 / size) - 1
    unit = unit[:: 1 + len(unit) // _MOST_POINTS]
    points = unit @ unit_to_canonical[:n, :n].T + unit_to_canonical[:n, n]
    return points, np.ones(len(points))


def eyes_of(prediction: Prediction, unit_to_canonical: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Left and right eye: the centre of gravity of each map near its peak, and the probability that there is one."""
    places, sure = np.zeros((2, 3)), np.zeros(2)
    cells = _cells(prediction.maps.shape[-1])
    for row, channel in enumerate((EYE_LEFT, EYE_RIGHT)):
        logits = prediction.maps[0, channel].numpy().ravel()
        sure[row] = float(expit(float(logits.max())))
        share = np.exp(logits - logits.max())
        share[share < 0.05] = 0
        unit = cells @ share / share.sum()
        places[row] = unit_to_canonical[:3, :3] @ unit + unit_to_canonical[:3, 3]
    return places, sure


def size_misfit(head: np.ndarray, unit_to_canonical: np.ndarray) -> float:
    cell = abs(np.linalg.det(unit_to_canonical[:3, :3])) * (2 / head.shape[0]) ** 3
    return float(abs(np.log(max(np.cbrt(head.sum() * cell), 1.0) / poses.SKULL_CUBE_ROOT_MM)))


def mask_agreement(head: np.ndarray, skull: poses.Ellipsoid, unit_to_canonical: np.ndarray) -> float:
    cells = _cells(head.shape[0])
    places = unit_to_canonical[:3, :3] @ cells + unit_to_canonical[:3, 3:]
    local = skull.axes.T @ (places - skull.centre[:, None])
    inside = ((local / skull.semi_axes[:, None]) ** 2).sum(axis=0) <= 1
    values = head.ravel()
    if inside.all() or not inside.any():
        return 0.0
    return float(values[inside].mean() - values[~inside].mean())
