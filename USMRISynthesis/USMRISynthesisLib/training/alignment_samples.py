"""Batches for each stage of the alignment: which pose is drawn, and what the network should say about it.

Stages (normalisation/network_align.py runs them in this order):
    locate: the whole fan, any orientation; where the head is, how large, and where its midline runs.
    orient: a crop around the head, coarse; how upright it stands, and its dense coordinates where it nearly does.
    refine: the head nearly as it should stand; all heads.
    frame, plane: locate and orient of 2D frames (alignment_frames.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..normalisation.canonical import HEAD_LENGTH_MM
from ..normalisation.coordinates import cube_rotations, cube_to_world, random_rotation, small_rotation
from ..normalisation.network import grid
from ..normalisation.stages import MIDLINE_REACH_MM, STAGES
from .alignment_data import Head, disturb, eyes_of, no_head, sample

NO_HEAD = 0.12
POSED_DEG = 50.0
EYE_SIGMA_MM = 4.0
# The cube's rotations that turn the head half round about one of its own axes.
_HALF_TURNS = [n for n, turn in enumerate(cube_rotations()) if np.trace(np.abs(turn)) == 3 and np.trace(turn) < 3]


@dataclass(frozen=True, eq=False)
class Batch:
    """x (N, 1, *D), and what is true of it; n axes, d half of D. Where `posed` or `headed` is 0 the rest is void.

    head, brain, face, fossa (N, *D) 0-1;
    distance (N, *D) in half-sides; coordinates (N, n, *d), canonical minus grid in
    half-sides; eyes (N, 2, *D) distributions, zero for an unseen eye; midline (N, *D), distance to
    it in half-sides; upright (N,) 0-1; rotation (N, n, n);
    centre (N, n); log_scale (N,); headed (N,): holds a head; posed (N,): near enough for dense coordinates;
    signed (N,): 0 where the truth may be turned by 180 degrees (a real frame, whose face nobody marked).
    """

    x: Tensor
    head: Tensor
    brain: Tensor
    distance: Tensor
    coordinates: Tensor
    eyes: Tensor
    midline: Tensor
    face: Tensor
    fossa: Tensor
    upright: Tensor
    rotation: Tensor
    centre: Tensor
    log_scale: Tensor
    headed: Tensor
    posed: Tensor
    signed: Tensor


def upright_target(angle: float) -> float:
    """1 for a head as it should stand, 0 for one the other way round; falls steadily with the angle (radians)."""
    return float(((1 + np.cos(angle)) / 2) ** 2)


def draw_pose(stage: str, rng: np.random.Generator) -> np.ndarray:
    """`unit_to_anatomy` (4, 4): how a stage's cube lies in the head, drawn from what that stage meets."""
    form = STAGES[stage]
    if stage == "locate":
        if rng.random() < 0.6:  # the second look, with the head filling the cube
            return cube_to_world(150 * float(np.exp(rng.normal(0, 0.1))), rng.normal(0, 7.0, 3), random_rotation(rng))
        side = float(np.exp(rng.uniform(np.log(105), np.log(270))))
        reach = max(6.0, min(side / 2 - 34, 50.0))
        return cube_to_world(side, rng.uniform(-reach, reach, 3), random_rotation(rng))
    spread = 0.09 if stage == "orient" else 0.05
    side = form.side_mm * float(np.exp(np.clip(rng.normal(0, spread), -2.5 * spread, 2.5 * spread)))
    if stage == "refine":
        middle = rng.normal(0, 3.0, 3)
        return cube_to_world(side, middle, small_rotation(rng, 25.0 if rng.random() < 0.5 else 10.0))
    middle = rng.normal(0, 4.5, 3)
    kind = rng.random()
    axes = small_rotation(rng, 30.0)
    if 0.5 <= kind < 0.85:  # the flips that look most alike, half turns first of all
        axes = axes @ cube_rotations()[rng.integers(1, 24) if kind > 0.7 else rng.choice(_HALF_TURNS)]
    elif kind >= 0.85:
        axes = random_rotation(rng)
    return cube_to_world(side, middle, axes)


def draw(stage: str, heads: Sequence[Head], rng: np.random.Generator, count: int, *, strength: float = 1.0) -> Batch:
    """A batch of one of the 3D stages."""
    rows = []
    for _ in range(count):
        head = heads[int(rng.integers(len(heads)))]
        mirrored = bool(rng.random() < 0.5)
        rows.append(one(stage, head, draw_pose(stage, rng), mirrored, rng, strength))
    return collate(rows)


def collate(rows: Sequence[dict[str, Tensor]]) -> Batch:
    return Batch(**{name: torch.stack([row[name] for row in rows]) for name in rows[0]})


def one(stage: str, head: Head, unit_to_anatomy: np.ndarray, mirrored: bool, rng: np.random.Generator | None,
        strength: float = 1.0) -> dict[str, Tensor]:
    """One sample as the rows of a `Batch`; without `rng` nothing is disturbed and the head is there."""
    form = STAGES[stage]
    size, half_side = form.size, form.side_mm / 2
    cut = sample(head, unit_to_anatomy, size, mirrored=mirrored)
    x, headed = cut.x, 1.0
    if rng is not None:
        if rng.random() < NO_HEAD:
            x, headed = no_head(x, cut.fan, rng), 0.0
        x = disturb(x, cut.fan, rng, strength)
    scale = float(np.cbrt(np.linalg.det(unit_to_anatomy[:3, :3])))  # mm a half-side, as drawn
    rotation = unit_to_anatomy[:3, :3] / scale
    angle = float(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1)))
    cells = grid(size // 2)
    along = unit_to_anatomy[0].astype(np.float32)
    across = torch.einsum("a,a...->...", torch.from_numpy(along[:3]), grid(size)) + float(along[3])
    linear = torch.from_numpy(unit_to_anatomy[:3, :3].astype(np.float32))
    offset = torch.from_numpy(unit_to_anatomy[:3, 3].astype(np.float32))
    anatomy = torch.einsum("ab,b...->a...", linear, cells) + offset.reshape(3, 1, 1, 1)
    to_unit = np.linalg.inv(unit_to_anatomy)
    eyes = eyes_of(head, mirrored) @ to_unit[:3, :3].T + to_unit[:3, 3]
    return {
        "x": x[None], "head": (cut.distance < 0).float() * headed, "brain": cut.brain * headed,
        "distance": cut.distance / scale, "coordinates": anatomy / half_side - cells,
        "eyes": _eye_maps(eyes, cut.fan, EYE_SIGMA_MM / scale, apart=angle < np.deg2rad(POSED_DEG)) * headed,
        "face": cut.face * headed, "fossa": cut.fossa * headed,
        "midline": across.abs().clamp(max=MIDLINE_REACH_MM) / scale,
        "upright": torch.tensor(upright_target(angle) * headed),
        "rotation": torch.from_numpy(rotation.astype(np.float32)),
        "centre": torch.from_numpy(to_unit[:3, 3].astype(np.float32)),
        "log_scale": torch.tensor(float(np.log(HEAD_LENGTH_MM / 2 / scale))),
        "headed": torch.tensor(headed),
        "posed": torch.tensor(headed * float(stage != "locate" and angle < np.deg2rad(POSED_DEG))),
        "signed": torch.tensor(1.0),
    }  # fmt: skip


def _eye_maps(eyes: np.ndarray, fan: Tensor, sigma: float, *, apart: bool) -> Tensor:
    """(2, s, s, s): a Gaussian for each eye that lies in the cube and in the fan, else zeros; each map sums to 1 or 0.

    Which eye is which is asked of a head that stands upright alone; else both are in the first map.
    """
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
    if not apart:
        maps[0] = maps.sum(dim=0) / maps.sum().clamp_min(1.0)
        maps[1] = 0
    return maps
