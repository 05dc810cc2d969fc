"""What the support map learns from: a generator's output on simulated heads, in one plane and in all, and its errors.

All of it on the cells of 1.2 mm that the network sees: 700 heads take 3 GB of memory.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from USMRISynthesisLib.datasets.simulated import Case, case_files, read_case
from USMRISynthesisLib.geometry.canonical import canonical_axis_mm
from USMRISynthesisLib.geometry.planes import ALL, PLANES, supported_planes, to_plane
from USMRISynthesisLib.synthesis.engine import LoadedGenerator
from USMRISynthesisLib.synthesis.multiplane import combined, run_planes
from USMRISynthesisLib.synthesis.reliability import (
    HEAD_STATISTICS,
    IMAGES,
    ONE_PLANE,
    SPREAD_SCALE,
    WRONG,
    Head,
    cells_of,
    error_of,
    head_statistics,
    spread_of,
)
from USMRISynthesisLib.ultrasound.intensity import normalise_ultrasound

JUDGED = "cells-2"  # another name whenever heads are judged otherwise, so that none judged before is taken for one
ENOUGH = 75.0  # cells of brain for a slice to be looked at
_DEPTH = slice(0, 1)  # of what is told
_WHOLE = slice(1, 1 + HEAD_STATISTICS)


class SupportBatch(NamedTuple):
    """cells (N, IMAGES + 2, H, W), told (N, CONDITIONS, 1, 1): see `synthesis.reliability.Head`; wrong, error (a mean
    of MR 0-1),
    inside (N, 1, H, W): means over each cell, the first two with 0 for what is not inside.
    """

    cells: Tensor
    conditions: Tensor
    wrong: Tensor
    error: Tensor
    inside: Tensor


@dataclass(frozen=True, eq=False)
class Made:
    """What a generator made of a head, uint8 cells (K, H, W): mr for [-1, 1], its smoothed error and how much of it is
    wrong, for 0-1.

    spread: 255 for a standard deviation of 1 over the planes, or None where there is one plane.
    """

    mr: np.ndarray
    error: np.ndarray
    wrong: np.ndarray
    spread: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Judged:
    """One head, uint8 cells (K, H, W): us for [-1, 1], what was made of it, and inside: brain in the beam, for 0-1."""

    name: str
    us: np.ndarray
    made: tuple[Made, ...]
    inside: np.ndarray

    def head(self, n: int) -> Head:
        """The `n`-th of `made` as the network sees it."""
        made = self.made[n]
        spread = None if made.spread is None else made.spread * np.float32(SPREAD_SCALE / 255)
        us, mr = _signed(self.us), _signed(made.mr)
        return Head(us, mr, spread, head_statistics(us, mr, spread))

    @functools.cached_property
    def packed(self) -> tuple[Head, ...]:
        """All of `made` alike, but left as bytes: `slices_of` makes floats of a few."""
        return tuple(Head(self.us, made.mr, made.spread, self.head(n).whole) for n, made in enumerate(self.made))

    @functools.cached_property
    def enough(self) -> dict[str, np.ndarray]:
        """Of each plane the slices with enough brain."""
        return {plane: np.flatnonzero(to_plane(self.inside, plane).sum(axis=(1, 2)) >= ENOUGH * 255)
                for plane in PLANES}  # fmt: skip


def judge(generator: LoadedGenerator, case: Case, *, axial: bool = False) -> Judged:
    """Run the generator on a head at its true pose, axially and (not if `axial`) in all planes, and compare with its
    true MR."""
    us = normalise_ultrasound(case.us, case.fan, generator.manifest.input.exponent)
    several = not axial and supported_planes(ALL, generator.manifest.input.planes) is not None
    planes = run_planes(generator, us, canonical_axis_mm(), planes=ALL if several else "axial")
    inside = case.brain & case.fan
    results = [(planes["axial"], None)] + ([(combined(planes), spread_of(planes))] if several else [])
    made = []
    for mr, spread in results:
        error = np.where(inside, error_of((mr + 1) / 2, case.t2, inside), 0)
        made.append(Made(_bytes((cells_of(mr) + 1) / 2), _bytes(cells_of(error)), _bytes(cells_of(error > WRONG)),
                         None if spread is None else _bytes(cells_of(spread) / SPREAD_SCALE)))  # fmt: skip
    return Judged(case.name, _bytes((cells_of(us) + 1) / 2), tuple(made), _bytes(cells_of(inside)))


def judged(
    generator: LoadedGenerator, folders: Sequence[Path], kept: Path, *, axial: bool = False,
    report: Callable[[str], None] = print,
) -> list[Judged]:  # fmt: skip
    """All heads of some splits, each judged once and kept in `kept`, which is this generator's own.

    Runs side by side may share the folder: each judges what it does not find.
    """
    kept.mkdir(parents=True, exist_ok=True)
    result = []
    for folder in folders:
        for path in case_files(folder):
            file = kept / f"{folder.parent.name}-{folder.name}-{path.stem}.npz"
            if not file.is_file():
                _keep(judge(generator, read_case(path), axial=axial), file, report)
            result.append(_kept(file, path.stem))
    return result


def _keep(head: Judged, file: Path, report: Callable[[str], None]) -> None:
    part = file.with_suffix(f".{os.getpid()}.part.npz")
    arrays = {"us": head.us, "inside": head.inside}
    for n, made in enumerate(head.made):
        arrays |= {f"mr_{n}": made.mr, f"error_{n}": made.error, f"wrong_{n}": made.wrong}
        arrays |= {} if made.spread is None else {f"spread_{n}": made.spread}
    np.savez(part, **arrays)  # type: ignore[arg-type]
    os.replace(part, file)
    shares = " and ".join(f"{made.wrong.sum() / max(1, int(head.inside.sum())):.1%}" for made in head.made)
    report(f"{head.name}: {shares} of the brain wrong")


def _kept(file: Path, name: str) -> Judged:
    with np.load(file) as stored:
        count = sum(key.startswith("mr_") for key in stored.files)
        spreads = [stored[f"spread_{n}"] if f"spread_{n}" in stored else None for n in range(count)]
        made = tuple(Made(stored[f"mr_{n}"], stored[f"error_{n}"], stored[f"wrong_{n}"], spreads[n])
                     for n in range(count))  # fmt: skip
        return Judged(name, stored["us"], made, stored["inside"])


def draw(heads: Sequence[Judged], count: int, rng: np.random.Generator) -> SupportBatch:
    """A random batch of `count` slices of these heads, along any plane, of MR of one plane or of several, half of them
    mirrored left to right."""
    parts = []
    for _ in range(count):
        head = heads[int(rng.integers(len(heads)))]
        n, plane = int(rng.integers(len(head.made))), PLANES[int(rng.integers(len(PLANES)))]
        part = slices_of(head, n, plane, rng.choice(head.enough[plane], 1))
        parts.append(_mirrored(part, plane) if rng.random() < 0.5 else part)
    return SupportBatch(*(torch.cat(values) for values in zip(*parts, strict=True)))


def _mirrored(batch: SupportBatch, plane: str) -> SupportBatch:
    """Left to right: the columns of a plane, or the order of a sagittal slice's neighbours."""
    if plane == "sagittal":
        order = [2, 1, 0, 5, 4, 3, *range(6, IMAGES + 2)]
        return batch._replace(cells=batch.cells[:, order])
    return SupportBatch(*(part.flip(3) if part.shape[-1] > 1 else part for part in batch))


def changed(batch: SupportBatch, rng: np.random.Generator) -> SupportBatch:
    """The batch turned, scaled, shifted, with a little of another gain and noise: a few heads are soon known by heart.

    A little: how noisy and how bright an image is says how much of it goes wrong, and the MR was made of what it was.
    """
    count = len(batch.cells)
    us, mr, spread, where = batch.cells.split([3, 3, IMAGES - 6, 2], dim=1)

    def drawn(low: float, high: float) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, count).astype(np.float32))[:, None, None, None]

    def noise(like: Tensor, most: float) -> Tensor:
        return torch.from_numpy(rng.standard_normal(like.shape, dtype=np.float32)) * drawn(0, most)

    gain, offset = drawn(0.85, 1.2), drawn(-0.05, 0.05)
    us = torch.where(us > -1, ((us + 1) * gain + offset).clamp(0, 2) - 1, us)
    conditions = batch.conditions.clone()
    conditions[:, _DEPTH] += drawn(-0.1, 0.1)
    mean, deviation = conditions[:, _WHOLE][:, :1], conditions[:, _WHOLE][:, 1:2]  # of the ultrasound
    mean.copy_((mean + 1) * gain + offset - 1)
    deviation.mul_(gain)
    angle, scale = rng.uniform(-0.25, 0.25, count), rng.uniform(0.88, 1.12, count)
    cosine, sine = np.cos(angle) * scale, np.sin(angle) * scale
    shift = rng.uniform(-0.08, 0.08, (2, count))
    theta = np.array([[cosine, -sine, shift[0]], [sine, cosine, shift[1]]], np.float32).transpose(2, 0, 1)

    def moved(images: Tensor) -> Tensor:
        grid = F.affine_grid(torch.from_numpy(theta.copy()), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, align_corners=False)

    several = spread.amin(dim=(1, 2, 3), keepdim=True) >= 0
    images = moved(torch.cat([us + 1, mr + 1, spread - ONE_PLANE], dim=1))
    said = moved(torch.cat([batch.wrong, batch.error, batch.inside], dim=1))
    us, mr, apart = images[:, :3] - 1, images[:, 3:6] - 1, images[:, 6:] + ONE_PLANE
    cells = [us + noise(us, 0.03), mr + noise(mr, 0.02), torch.where(several, apart.clamp(min=0), spread), where]
    return SupportBatch(torch.cat(cells, dim=1), conditions, said[:, :1], said[:, 1:2], said[:, 2:])


def slices_of(head: Judged, n: int, plane: str, some: np.ndarray) -> SupportBatch:
    """Those slices of a plane, of the `n`-th that was made of a head."""
    seen, made = head.packed[n], head.made[n]
    cells, conditions = seen.slices(plane, some)
    cells[:, : IMAGES - 1] = _signed(cells[:, : IMAGES - 1])
    if seen.spread is not None:
        cells[:, IMAGES - 1] *= SPREAD_SCALE / 255
    said = [to_plane(part, plane)[some][:, None] / np.float32(255) for part in (made.wrong, made.error, head.inside)]
    return SupportBatch(*map(torch.from_numpy, (cells, conditions, *said)))


def _signed(values: np.ndarray) -> np.ndarray:
    """Bytes -> [-1, 1]."""
    return np.asarray(values / np.float32(127.5) - 1)


def _bytes(values: np.ndarray) -> np.ndarray:
    """0-1 -> uint8."""
    return np.asarray(np.clip(np.rint(values * 255), 0, 255), np.uint8)
