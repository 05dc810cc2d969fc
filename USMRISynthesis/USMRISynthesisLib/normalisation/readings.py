"""What the alignment network's maps say: midplane, structures, skull boundary, eyes, and the pose they agree on.

Pure readings of a ``Prediction`` in the world of its cube; ``network_align.py`` asks the network and decides.
"""

from __future__ import annotations

import numpy as np
import torch

from USMRISynthesisLib.normalisation import pose as poses
from USMRISynthesisLib.normalisation.canonical import HEAD_LENGTH_MM
from USMRISynthesisLib.normalisation.coordinates import Fit, fit_similarity, scale_of
from USMRISynthesisLib.normalisation.network import EYE_LEFT, EYE_RIGHT, FACE, FOSSA, HEAD, MIDLINE, Prediction, grid
from USMRISynthesisLib.normalisation.stages import MIDLINE_REACH_MM, STAGES

HEAD_CELLS = 40.0  # fewer than these hold no head
_MOST_POINTS = 4000  # of the skull's boundary


def midplane_of(said: Prediction, share: np.ndarray, unit_to_world: np.ndarray, length: float) -> poses.Midplane | None:
    """The plane through the midline in the cube's world; `share`: the head's probability, length: its own, world mm."""
    at = np.argwhere(share > 0)
    at = at[:: 1 + len(at) // _MOST_POINTS]
    index = tuple(at.T)
    unit = (at[:, ::-1] + 0.5) * (2 / share.shape[0]) - 1
    points = unit @ unit_to_world[:3, :3].T + unit_to_world[:3, 3]
    distance = np.maximum(said.maps[0, MIDLINE].numpy()[index], 0).astype(np.float64) * scale_of(unit_to_world)
    reach = MIDLINE_REACH_MM * length / HEAD_LENGTH_MM
    near = share[index].astype(np.float64) * np.clip(2 * (1 - distance / reach), 0, 1)  # at the reach it says nothing
    try:
        return poses.fit_midplane(points, distance, near)
    except (ValueError, np.linalg.LinAlgError):
        return None


def symmetric_frame_of(share: np.ndarray, unit_to_world: np.ndarray, midplane: poses.Midplane | None) -> np.ndarray:
    """R, A, S of the head as columns, up to half turns, from its midplane and its long axis; RAS without a plane."""
    if midplane is None:
        return np.eye(3)
    at = np.argwhere(share > 0)
    at = at[:: 1 + len(at) // _MOST_POINTS]
    points = ((at[:, ::-1] + 0.5) * (2 / share.shape[0]) - 1) @ unit_to_world[:3, :3].T
    return poses.symmetric_frame(points, share[tuple(at.T)].astype(np.float64), midplane)


def structures_of(said: Prediction, unit_to_world: np.ndarray, midplane: poses.Midplane | None) -> poses.Structures:
    """Centres of gravity of face and posterior fossa, and how clearly each is seen."""
    cells = grid(said.maps.shape[-1]).numpy().reshape(3, -1)
    centres, clear = np.zeros((2, 3)), np.zeros(2)
    for row, channel in enumerate((FACE, FOSSA)):
        share = torch.sigmoid(said.maps[0, channel]).numpy().ravel().astype(np.float64)
        share[share < 0.3] = 0
        if share.sum() > 0:
            centres[row] = unit_to_world[:3, :3] @ (cells @ share / share.sum()) + unit_to_world[:3, 3]
            clear[row] = (share @ share) / share.sum() * min(1.0, share.sum() / HEAD_CELLS)
    return poses.Structures(centres, clear, midplane)


def dense_fit(said: Prediction, n: int, unit_to_world: np.ndarray, stage: str) -> Fit | None:
    """The similarity from world to canonical that the dense coordinates of sample n agree on."""
    half_side = STAGES[stage].side_mm / 2
    offset = said.coordinates[n].numpy().reshape(3, -1)
    cells = grid(said.coordinates.shape[-1]).numpy().reshape(3, -1)
    maps = said.maps[n:n + 1, HEAD:HEAD + 1]
    inside = torch.sigmoid(torch.nn.functional.avg_pool3d(maps, 2))[0, 0].numpy().ravel()
    weight = np.where(inside > 0.5, inside, 0) * np.exp(-2 * said.log_sigma[n, 0].numpy().ravel().clip(-6, 1))
    kept = weight > 0
    if kept.sum() < 50:
        return None
    world = cells[:, kept].T @ unit_to_world[:3, :3].T + unit_to_world[:3, 3]
    canonical = (cells + offset)[:, kept].T.astype(np.float64) * half_side
    try:
        return fit_similarity(world, canonical, weight[kept].astype(np.float64))
    except ValueError:
        return None


def skull_points(distance: np.ndarray, unit_to_canonical: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (m, n) where a distance map changes sign between neighbouring cells, canonical mm, and weights (m,)."""
    n, size = distance.ndim, distance.shape[0]
    found = []
    for axis in range(n):
        a, b = distance.take(range(size - 1), axis), distance.take(range(1, size), axis)
        cross = np.argwhere((a < 0) != (b < 0))
        if not len(cross):
            continue
        at = tuple(cross.T)
        part = a[at] / (a[at] - b[at])
        places = cross.astype(np.float64)
        places[:, axis] += part
        found.append(places)
    if not found:
        return np.zeros((0, n)), np.zeros(0)
    unit = (np.vstack(found)[:, ::-1] + 0.5) * (2 / size) - 1
    unit = unit[:: 1 + len(unit) // _MOST_POINTS]
    points = unit @ unit_to_canonical[:n, :n].T + unit_to_canonical[:n, n]
    return points, np.ones(len(points))


def eyes_of(said: Prediction, unit_to_canonical: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Left and right eye: the centre of gravity of each map near its peak, and how sure it is that there is one."""
    places, sure = np.zeros((2, 3)), np.zeros(2)
    cells = grid(said.maps.shape[-1]).numpy().reshape(3, -1)
    for row, channel in enumerate((EYE_LEFT, EYE_RIGHT)):
        logits = said.maps[0, channel].numpy().ravel()
        sure[row] = 1 / (1 + np.exp(-float(np.clip(logits.max(), -30, 30))))
        share = np.exp(logits - logits.max())
        share[share < 0.05] = 0
        unit = cells @ share / share.sum()
        places[row] = unit_to_canonical[:3, :3] @ unit + unit_to_canonical[:3, 3]
    return places, sure


def size_misfit(head: np.ndarray, unit_to_canonical: np.ndarray) -> float:
    cell = abs(np.linalg.det(unit_to_canonical[:3, :3])) * (2 / head.shape[0]) ** 3
    return float(abs(np.log(max(np.cbrt(head.sum() * cell), 1.0) / poses.SKULL_CUBE_ROOT_MM)))


def mask_agreement(head: np.ndarray, skull: poses.Ellipsoid, unit_to_canonical: np.ndarray) -> float:
    cells = grid(head.shape[0]).numpy().reshape(3, -1)
    places = unit_to_canonical[:3, :3] @ cells + unit_to_canonical[:3, 3:]
    local = skull.axes.T @ (places - skull.centre[:, None])
    inside = ((local / skull.semi_axes[:, None]) ** 2).sum(axis=0) <= 1
    values = head.ravel()
    if inside.all() or not inside.any():
        return 0.0
    return float(values[inside].mean() - values[~inside].mean())
