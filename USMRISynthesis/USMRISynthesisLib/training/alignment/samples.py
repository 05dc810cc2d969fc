"""Batches for the stages of the alignment: which pose is drawn, and the targets of the network for it.

Stages (`alignment/volume/search.py` runs them in this order):
    locate: the whole fan, or the head filling the cube, in any orientation; where the head is and its midline runs.
    orient: the midplane lies across the cube's first axis, and the head is turned about that axis anyhow.
    refine: the head nearly upright; some are turned further, so that the network learns to report it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from USMRISynthesisLib.alignment.common.unet import cell_centres
from USMRISynthesisLib.alignment.volume.network import (
    STAGES,
)
from USMRISynthesisLib.datasets.disturbance import cut_out, disturb, no_head
from USMRISynthesisLib.datasets.heads import Head, Sampled, eyes_of, sample
from USMRISynthesisLib.geometry.similarity import (
    cube_rotations,
    cube_to_world,
    random_rotation,
    small_rotation,
    turn_about_x,
)

NO_HEAD = 0.1
POSED_DEG = 40.0  # beyond, a head does not nearly stand as it should
EYE_SIGMA_MM = 4.0
_ASPECT = 0.03  # standard deviation of the logarithm of a voxel's sides


@dataclass(frozen=True, eq=False)
class Batch:
    """x (N, 1, S, S, S), and what is true of it; s is half of S.

    head (N, s, s, s) 0-1; coordinates (N, 3, s, s, s), canonical, in half-sides of the stage's cube (`locate`: x
    without its sign, y and z carry no loss; `orient`: x along the cube's own first axis); upright (N,) 0-1: the
    target of the stage's own score; headed (N,): holds a head; posed (N,): its coordinates carry
    a loss. For a stage with maps, else without cells: brain and head_fine (N, S, S, S) 0-1, distance to the skull
    (N, S, S, S) in half-sides, eyes (N, 2, S, S, S) distributions, zero for an unseen eye.
    """

    x: Tensor
    head: Tensor
    coordinates: Tensor
    upright: Tensor
    headed: Tensor
    posed: Tensor
    brain: Tensor
    head_fine: Tensor
    distance: Tensor
    eyes: Tensor


def upright_target(angle: float) -> float:
    """1 for a head as it should stand, 0 for one the other way round; falls steadily with the angle (radians)."""
    return float(((1 + np.cos(angle)) / 2) ** 2)


def draw_pose(stage: str, rng: np.random.Generator) -> np.ndarray:
    """`unit_to_anatomy` (4, 4): how a stage's cube lies in the head, drawn from the poses of that stage."""
    side = STAGES[stage].side_mm
    if stage == "locate":
        if rng.random() < 0.7:  # the second pass, with the head filling the cube
            return cube_to_world(side * float(np.exp(rng.normal(0, 0.1))), rng.normal(0, 6.0, 3), random_rotation(rng))
        side = float(np.exp(rng.uniform(np.log(105), np.log(270))))
        reach = max(6.0, min(side / 2 - 34, 50.0))
        return cube_to_world(side, rng.uniform(-reach, reach, 3), random_rotation(rng))
    spread = 0.08 if stage == "orient" else 0.05
    side = side * float(np.exp(np.clip(rng.normal(0, spread), -2.5 * spread, 2.5 * spread)))
    if stage == "orient":
        # A midplane has two sides: seen from the left a profile faces the other way than from the right.
        turn = np.diag([-1.0, 1.0, -1.0]) if rng.random() < 0.5 else np.eye(3)
        axes = turn @ turn_about_x(rng.uniform(0, 360)) @ small_rotation(rng, 25.0)
        return cube_to_world(side, rng.normal(0, 4.5, 3), axes)
    middle = rng.normal(0, 3.0, 3)
    axes = small_rotation(rng, 30.0 if rng.random() < 0.4 else 12.0)
    if rng.random() < 0.15:
        axes = axes @ (
            cube_rotations()[rng.integers(1, 24)] if rng.random() < 0.5 else turn_about_x(rng.uniform(40, 320))
        )
    return cube_to_world(side, middle, axes)


def draw(stage: str, heads: Sequence[Head], rng: np.random.Generator, count: int, *, strength: float = 1.0) -> Batch:
    """A batch of a stage. Directions of the probe are drawn alike, however many heads there are of each:
    what is bright and what is in shadow depends on nothing more.
    """
    views: dict[str, list[Head]] = {}
    for head in heads:
        views.setdefault(head.view, []).append(head)
    names, rows = sorted(views), []
    for _ in range(count):
        some = views[names[int(rng.integers(len(names)))]]
        head = some[int(rng.integers(len(some)))]
        mirrored = bool(rng.random() < 0.5)
        rows.append(one(stage, head, draw_pose(stage, rng), mirrored, rng, strength))
    return Batch(**{name: torch.stack([row[name] for row in rows]) for name in rows[0]})


def one(
    stage: str,
    head: Head,
    unit_to_anatomy: np.ndarray,
    mirrored: bool,
    rng: np.random.Generator | None,
    strength: float = 1.0,
) -> dict[str, Tensor]:
    """One sample as the rows of a `Batch`; without `rng` nothing is disturbed and the head is there."""
    form = STAGES[stage]
    if rng is not None:  # voxels are not always as long as the file says
        unit_to_anatomy = unit_to_anatomy @ np.diag([*np.exp(rng.normal(0, _ASPECT, 3)), 1.0])
    half = form.size // 2
    cut = sample(head, unit_to_anatomy, form.size, truth=None if form.maps else half, mirrored=mirrored)
    x, headed = cut.x, 1.0
    if rng is not None:
        if rng.random() < NO_HEAD:
            x, headed = no_head(x, cut.fan, rng), 0.0
        else:
            x = cut_out(x, cut.distance, rng)
        x = disturb(x, cut.fan, rng, strength)
    linear = torch.from_numpy(unit_to_anatomy[:3, :3].astype(np.float32))
    offset = torch.from_numpy(unit_to_anatomy[:3, 3].astype(np.float32)).reshape(3, 1, 1, 1)
    coordinates = (torch.einsum("ab,b...->a...", linear, cell_centres(half, 3)) + offset) * (2 / form.side_mm)
    upright, posed = 1.0, True
    if stage == "locate":
        coordinates[0] = coordinates[0].abs()
    elif stage == "orient":
        coordinates[0] *= float(np.sign(unit_to_anatomy[0, 0]))
    elif stage == "refine":
        cosine = (np.trace(unit_to_anatomy[:3, :3]) / np.cbrt(np.linalg.det(unit_to_anatomy[:3, :3])) - 1) / 2
        angle = float(np.arccos(np.clip(cosine, -1, 1)))
        upright, posed = upright_target(angle), angle < np.deg2rad(POSED_DEG)
    inside = (cut.distance < 0).float() * headed
    coarse = inside if not form.maps else torch.nn.functional.max_pool3d(inside[None], 2)[0]
    return {
        "x": x[None], "head": coarse, "coordinates": coordinates, "upright": torch.tensor(upright * headed),
        "headed": torch.tensor(headed), "posed": torch.tensor(headed * float(posed)),
        **_maps(form.maps > 0, head, unit_to_anatomy, mirrored, cut, inside, headed),
    }  # fmt: skip


def _maps(
    wanted: bool, head: Head, unit_to_anatomy: np.ndarray, mirrored: bool, cut: Sampled, inside: Tensor, headed: float
) -> dict[str, Tensor]:
    if not wanted:
        return dict.fromkeys(("brain", "head_fine", "distance", "eyes"), torch.zeros(0))
    scale = float(np.cbrt(np.linalg.det(unit_to_anatomy[:3, :3])))  # mm a half-side, as drawn
    to_unit = np.linalg.inv(unit_to_anatomy)
    eyes = eyes_of(head, mirrored) @ to_unit[:3, :3].T + to_unit[:3, 3]
    return {
        "brain": cut.brain * headed,
        "head_fine": inside,
        "distance": cut.distance / scale,
        "eyes": _eye_maps(eyes, cut.fan, EYE_SIGMA_MM / scale) * headed,
    }


def _eye_maps(eyes: np.ndarray, fan: Tensor, sigma: float) -> Tensor:
    """(2, s, s, s): a Gaussian, of sum 1, for each eye that lies in the cube and in the fan, else zeros."""
    size = fan.shape[0]
    axis = (torch.arange(size) + 0.5) * (2 / size) - 1
    maps = torch.zeros(2, *fan.shape)
    for n, eye in enumerate(eyes):
        if not np.isfinite(eye).all() or np.abs(eye).max() > 0.97:
            continue
        i, j, k = (int(v) for v in np.clip((eye + 1) / 2 * size, 0, size - 1))
        if fan[k, j, i] < 0.5:
            continue
        x, y, z = (torch.softmax(-((axis - float(place)) ** 2) / (2 * sigma**2), dim=0) for place in eye)
        maps[n] = z[:, None, None] * y[:, None] * x  # a Gaussian is separable, and so is its sum
    return maps
