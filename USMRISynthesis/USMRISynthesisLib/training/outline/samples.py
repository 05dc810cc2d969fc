"""Batches of squares cut out of frames in any direction, with the targets of the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from USMRISynthesisLib.alignment.common.unet import cell_centres
from USMRISynthesisLib.alignment.frame.network import (
    FACE_SIZE,
    SIZE,
)
from USMRISynthesisLib.alignment.frame.outline import FACE_SIDE, square
from USMRISynthesisLib.datasets.disturbance import disturb, no_head
from USMRISynthesisLib.datasets.frames import Picture
from USMRISynthesisLib.geometry.ellipse import Ellipse

NO_HEAD, WHOLE = 0.12, 0.4
# Of the head in the square: less is no head, more is one, between them there is no target.
_LITTLE, _MUCH = 0.1, 0.6
_STRETCH = 0.08
REAL_FACES = 1 / 3  # two dozen fetuses: the simulated faces must lead


@dataclass(frozen=True, eq=False)
class FrameBatch:
    """x (N, 1, S, S), and what is true of it; s is half of S.

    head (N, s, s) 0-1; distance (N, s, s) half-sides; midline (N, 2) cosine and sine of twice the angle, shorter for a
    rounder head; headed (N,) 0-1, clear (N,) whether that is so; there (N,): the head is to be outlined.
    """

    x: Tensor
    head: Tensor
    distance: Tensor
    midline: Tensor
    headed: Tensor
    clear: Tensor
    there: Tensor


def draw(
    real: Sequence[Picture],
    simulated: Sequence[Picture],
    rng: np.random.Generator,
    counts: tuple[int, int],
    *,
    strength: float = 1.0,
) -> FrameBatch:
    """A batch of `counts` real and simulated frames; fetuses and heads are drawn alike, whatever their frames."""
    rows = []
    for pictures, count in zip((real, simulated), counts, strict=True):
        groups: dict[str, list[Picture]] = {}
        for picture in pictures:
            groups.setdefault(picture.group, []).append(picture)
        names = sorted(groups)
        for _ in range(count):
            some = groups[names[int(rng.integers(len(names)))]]
            rows.append(one(some[int(rng.integers(len(some)))], rng, strength))
    return FrameBatch(**{name: torch.stack([row[name] for row in rows]) for name in rows[0]})


def draw_square(picture: Picture, rng: np.random.Generator) -> np.ndarray:
    """`unit_to_plane` (3, 3): the whole fan or the head filling the square, turned anyhow, mirrored, stretched."""
    ellipse, extent = picture.ellipse, picture.pyramid.extent
    if rng.random() < WHOLE:
        side = extent * float(np.exp(rng.uniform(-0.1, 0.4)))
        centre = picture.pyramid.centre + rng.uniform(-0.15, 0.15, 2) * extent
    else:
        side = 1.35 * ellipse.length * float(np.exp(rng.normal(0, 0.12)))
        centre = ellipse.centre + rng.normal(0, 0.06, 2) * ellipse.length
    turn = square(side, centre, float(rng.uniform(0, 2 * np.pi)), bool(rng.random() < 0.5))
    about = _rotation(float(rng.uniform(0, np.pi)))
    stretch = np.eye(3)
    stretch[:2, :2] = about @ np.diag(np.exp(rng.uniform(-_STRETCH, _STRETCH, 2))) @ about.T
    return turn @ stretch


def one(picture: Picture, rng: np.random.Generator, strength: float = 1.0) -> dict[str, Tensor]:
    """One sample as the rows of a `FrameBatch`."""
    unit = draw_square(picture, rng)
    empty = rng.random() < NO_HEAD
    if empty and rng.random() < 0.5:
        unit = _off_head_square(picture, rng, unit)
    x = picture.pyramid.cut(unit, SIZE)[0, 0]
    fan = (x > -1).float()
    ellipse = picture.ellipse.moved(np.linalg.inv(unit))
    places = cell_centres(SIZE // 2, 2).numpy()
    distance = ellipse.distance(places)
    share = _seen(ellipse, distance, fan)
    if empty and share > _LITTLE:
        x, share = no_head(x, fan, rng), 0.0
    x = disturb(x, fan, rng, strength)
    there = share >= _MUCH
    semi, along = ellipse.semi_axes, ellipse.directions[:, 0]
    oblong = min(1.0, (1 - semi[1] / semi[0]) / 0.12)
    midline = oblong * np.array([along[0] ** 2 - along[1] ** 2, 2 * along[0] * along[1]])
    head = torch.from_numpy((distance < 0).astype(np.float32)) if share > 0 else torch.zeros(SIZE // 2, SIZE // 2)
    return {
        "x": x[None], "head": head, "distance": torch.from_numpy(distance.astype(np.float32)),
        "midline": torch.from_numpy(midline.astype(np.float32)),
        "headed": torch.tensor(float(there)), "clear": torch.tensor(float(there or share <= _LITTLE)),
        "there": torch.tensor(float(there)),
    }  # fmt: skip


def draw_faces(
    simulated: Sequence[Picture],
    rng: np.random.Generator,
    count: int,
    *,
    real: Sequence[Picture] = (),
    strength: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Upright squares x (N, 1, S, S) of frames whose face is known, and whether it lies where y grows, (N,) 0-1.

    Of `real` frames, some of which know their face, a third is drawn.
    """
    kinds = [[picture for picture in kind if picture.front is not None] for kind in (simulated, real)]
    squares, answers = [], []
    for _ in range(count):
        known = kinds[1] if kinds[1] and rng.random() < REAL_FACES else kinds[0]
        picture = known[int(rng.integers(len(known)))]
        assert picture.front is not None
        ahead = bool(rng.random() < 0.5)
        angle = float(np.arctan2(picture.front[1], picture.front[0])) - np.pi / 2 + (0.0 if ahead else np.pi)
        length = picture.ellipse.length
        unit = square(
            FACE_SIDE * length * float(np.exp(rng.normal(0, 0.05))),
            picture.ellipse.centre + rng.normal(0, 0.03, 2) * length,
            angle + float(rng.normal(0, np.deg2rad(6))),
            bool(rng.random() < 0.5),
        )
        x = picture.pyramid.cut(unit, FACE_SIZE)[0, 0]
        squares.append(disturb(x, (x > -1).float(), rng, strength)[None])
        answers.append(float(ahead))
    return torch.stack(squares), torch.tensor(answers)


def _seen(ellipse: Ellipse, distance: np.ndarray, fan: Tensor) -> float:
    """The share of the head that lies in the square and in the fan."""
    cells = distance.shape[0]
    inside = (distance < 0) & (fan[::2, ::2].numpy() > 0)
    area = np.pi * float(np.prod(ellipse.semi_axes)) * cells**2 / 4
    return float(inside.sum() / max(area, 1.0))


def _off_head_square(picture: Picture, rng: np.random.Generator, otherwise: np.ndarray) -> np.ndarray:
    """A square of the fan that the head hardly reaches; `otherwise` where there is none."""
    pyramid = picture.pyramid
    for _ in range(12):
        side = pyramid.extent * float(rng.uniform(0.2, 0.55))
        centre = pyramid.centre + rng.uniform(-0.5, 0.5, 2) * pyramid.extent
        unit = square(side, centre, float(rng.uniform(0, 2 * np.pi)), bool(rng.random() < 0.5))
        inside = picture.ellipse.moved(np.linalg.inv(unit)).distance(cell_centres(16, 2).numpy()) < 0
        if inside.mean() < 0.08 and float((pyramid.cut(unit, 16) > -1).float().mean()) > 0.5:
            return unit
    return otherwise


def _rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
