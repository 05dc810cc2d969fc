"""What the support map learns from: a generator's output on simulated heads, in one plane and in all, and its errors.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..evaluation.support import error_of
from ..evaluation.synthesis import Case, cases
from ..normalisation.canonical import canonical_axis_mm
from ..synthesis.engine import LoadedGenerator
from ..synthesis.intensity import normalise_ultrasound
from ..synthesis.planes import ALL, chosen
from ..synthesis.slices import LOCATION_SCALE_MM
from ..synthesis.stack import combined, run_planes
from ..synthesis.support import ONE_PLANE, REACH, SPREAD_SCALE, WRONG, neighbourhood, overview, spread_of

ENOUGH = 300  # pixels of brain for a slice to be looked at


class SupportBatch(NamedTuple):
    """us, mr (N, 3, H, W) in [-1, 1]; spread (N, 1, H, W); z (N, 1, 1, 1); head (N, OVERVIEW, 1, 1); wrong, error (a
    mean of MR 0-1), inside (N, 1, H / 2, W / 2), means of 2 x 2 pixels.
    """

    us: Tensor
    mr: Tensor
    spread: Tensor
    z: Tensor
    head: Tensor
    wrong: Tensor
    error: Tensor
    inside: Tensor


@dataclass(frozen=True, eq=False)
class Made:
    """What a generator made of a head: mr uint8 for [-1, 1], its smoothed error uint8 for 0-1, both (K, H, W).

    spread: uint8, 255 for a standard deviation of 1 over the planes, or None where there is one plane.
    """

    mr: np.ndarray
    error: np.ndarray
    spread: np.ndarray | None

    @property
    def wrong(self) -> np.ndarray:
        return self.error > WRONG * 255


@dataclass(frozen=True, eq=False)
class Judged:
    """One head: us (K, H, W) uint8 for [-1, 1]; what was made of it; inside (K, H, W); slices with enough brain.

    first: where these K slices begin in canonical space. whole: `overviews` of the whole head, where these are a part.
    """

    name: str
    us: np.ndarray
    made: tuple[Made, ...]
    inside: np.ndarray
    slices: np.ndarray
    first: int = 0
    whole: tuple[np.ndarray, ...] = ()

    @property
    def z_mm(self) -> np.ndarray:
        return canonical_axis_mm()[self.first : self.first + len(self.us)]

    @functools.cached_property
    def overviews(self) -> tuple[np.ndarray, ...]:
        """`overview` of each of `made`."""
        us = self.us / np.float32(127.5) - 1
        return self.whole or tuple(
            overview(us, made.mr / np.float32(127.5) - 1, _spread(made, slice(None)), self.z_mm) for made in self.made)

    def cropped(self) -> Judged:
        """Only the slices that are looked at, with their neighbours: half the memory; 500 heads still take 11 GB."""
        if not len(self.slices):
            return self
        low, high = max(int(self.slices[0]) - REACH, 0), int(self.slices[-1]) + REACH + 1
        made = tuple(Made(m.mr[low:high].copy(), m.error[low:high].copy(),
                          None if m.spread is None else m.spread[low:high].copy()) for m in self.made)  # fmt: skip
        return Judged(self.name, self.us[low:high].copy(), made, self.inside[low:high].copy(), self.slices - low,
                      self.first + low, self.overviews)  # fmt: skip


def judge(generator: LoadedGenerator, case: Case, *, axial: bool = False) -> Judged:
    """Run the generator on a head at its true pose, axially and (not if `axial`) in all planes, and compare with its
    true MR."""
    us = normalise_ultrasound(case.us, case.fan, generator.manifest.input.exponent)
    several = not axial and chosen(ALL, generator.manifest.input.planes) is not None
    planes = run_planes(generator, us, canonical_axis_mm(), planes=ALL if several else "axial")
    inside = case.brain & case.fan
    results = [(planes["axial"], None)] + ([(combined(planes), spread_of(planes))] if several else [])
    return Judged(
        case.name, _bytes(us),
        tuple(Made(_bytes(mr), _share(error_of((mr + 1) / 2, case.t2, inside)),
                   None if spread is None else _share(spread / SPREAD_SCALE)) for mr, spread in results),
        inside, np.flatnonzero(inside.sum(axis=(1, 2)) >= ENOUGH),
    )  # fmt: skip


def judged(
    generator: LoadedGenerator, folders: Sequence[Path], kept: Path, *, axial: bool = False,
    report: Callable[[str], None] = print,
) -> list[Judged]:  # fmt: skip
    """All heads of some splits, each judged once and kept in `kept`, which is this generator's own."""
    kept.mkdir(parents=True, exist_ok=True)
    result = []
    for folder in folders:
        for case in cases(folder):
            file = kept / f"{folder.parent.name}-{folder.name}-{case.name}.npz"
            if not file.is_file():
                _keep(judge(generator, case, axial=axial), file, report)
            result.append(_kept(file, case.name))
    return result


def _keep(head: Judged, file: Path, report: Callable[[str], None]) -> None:
    part = file.with_suffix(f".{os.getpid()}.part.npz")
    arrays = {"us": head.us, "inside": head.inside, "slices": head.slices}
    for n, made in enumerate(head.made):
        arrays |= {f"mr_{n}": made.mr, f"error_{n}": made.error}
        arrays |= {} if made.spread is None else {f"spread_{n}": made.spread}
    np.savez(part, **arrays)  # type: ignore[arg-type]
    os.replace(part, file)
    shares = " and ".join(f"{made.wrong[head.inside].mean():.1%}" for made in head.made)
    report(f"{head.name}: {shares} of the brain wrong")


def _kept(file: Path, name: str) -> Judged:
    with np.load(file) as stored:
        count = sum(key.startswith("mr_") for key in stored.files)
        spreads = [stored[f"spread_{n}"] if f"spread_{n}" in stored else None for n in range(count)]
        made = tuple(Made(stored[f"mr_{n}"], stored[f"error_{n}"], spreads[n]) for n in range(count))
        return Judged(name, stored["us"], made, stored["inside"], stored["slices"]).cropped()


def draw(heads: Sequence[Judged], count: int, rng: np.random.Generator) -> SupportBatch:
    """A random batch of `count` slices of these heads, of one plane or of several, half of them mirrored."""
    parts = []
    for _ in range(count):
        head = heads[int(rng.integers(len(heads)))]
        made = head.made[int(rng.integers(len(head.made)))]
        parts.append(slices_of(head, made, rng.choice(head.slices, 1)))
    batch = SupportBatch(*(torch.cat(values) for values in zip(*parts, strict=True)))
    mirrored = torch.from_numpy(rng.random(count) < 0.5)[:, None, None, None]
    flipped = [torch.where(mirrored, x.flip(3), x) if x.shape[-1] > 1 else x for x in batch]
    return SupportBatch(*flipped)


def changed(batch: SupportBatch, rng: np.random.Generator) -> SupportBatch:
    """The batch turned, scaled, shifted, with a little of another gain and noise: a few heads are soon known by heart.

    A little: how noisy and how bright an image is says how much of it goes wrong, and the MR was made of what it was.
    """
    count = len(batch.us)

    def drawn(low: float, high: float) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, count).astype(np.float32))[:, None, None, None]

    def noise(like: Tensor, most: float) -> Tensor:
        return torch.from_numpy(rng.standard_normal(like.shape, dtype=np.float32)) * drawn(0, most)

    gain, offset = drawn(0.85, 1.2), drawn(-0.05, 0.05)
    us = torch.where(batch.us > -1, ((batch.us + 1) * gain + offset).clamp(0, 2) - 1, batch.us)
    mean, deviation = (batch.head[:, :1] + 1) * gain + offset - 1, batch.head[:, 1:2] * gain
    head = torch.cat([mean, deviation, batch.head[:, 2:]], dim=1)
    angle, scale = rng.uniform(-0.25, 0.25, count), rng.uniform(0.88, 1.12, count)
    cosine, sine = np.cos(angle) * scale, np.sin(angle) * scale
    shift = rng.uniform(-0.08, 0.08, (2, count))
    theta = np.array([[cosine, -sine, shift[0]], [sine, cosine, shift[1]]], np.float32).transpose(2, 0, 1)

    def moved(images: Tensor) -> Tensor:
        grid = F.affine_grid(torch.from_numpy(theta.copy()), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, align_corners=False)

    images = moved(torch.cat([us + 1, batch.mr + 1, batch.spread - ONE_PLANE], dim=1))
    said = moved(torch.cat([batch.wrong, batch.error, batch.inside], dim=1))
    us, mr, spread = images[:, :3] - 1, images[:, 3:6] - 1, images[:, 6:] + ONE_PLANE
    several = batch.spread.amin(dim=(1, 2, 3), keepdim=True) >= 0
    return SupportBatch(
        us + noise(us, 0.03), mr + noise(mr, 0.02), torch.where(several, spread.clamp(min=0), batch.spread),
        batch.z + drawn(-0.1, 0.1), head, said[:, :1], said[:, 1:2], said[:, 2:],
    )  # fmt: skip


def slices_of(head: Judged, made: Made, some: np.ndarray) -> SupportBatch:
    """Those slices of a head, as they are."""
    us, mr = (torch.from_numpy(neighbourhood(stack, some)) / 127.5 - 1 for stack in (head.us, made.mr))
    spread = torch.full_like(us[:, :1], ONE_PLANE)
    told = _spread(made, some)
    if told is not None:
        spread = torch.from_numpy(told)[:, None]
    whole = torch.from_numpy(head.overviews[head.made.index(made)]).view(1, -1, 1, 1).expand(len(some), -1, -1, -1)
    z = torch.from_numpy((head.z_mm[some] / LOCATION_SCALE_MM).astype(np.float32))[:, None, None, None]
    inside = head.inside[some]
    wrong, seen = (_halved(mask.astype(np.float32)) for mask in (made.wrong[some] & inside, inside))
    error = _halved(np.where(inside, made.error[some], 0).astype(np.float32) / 255)
    return SupportBatch(us, mr, spread, z, whole, wrong, error, seen)


def _spread(made: Made, some: Any) -> np.ndarray | None:
    """As `spread_of` gave it, of some slices."""
    return None if made.spread is None else made.spread[some] * np.float32(SPREAD_SCALE / 255)


def _halved(values: np.ndarray) -> Tensor:
    return F.avg_pool2d(torch.from_numpy(values)[:, None], 2)


def _bytes(values: np.ndarray) -> np.ndarray:
    """[-1, 1] -> uint8."""
    return np.asarray(np.clip(np.rint((values + 1) * 127.5), 0, 255), np.uint8)


def _share(values: np.ndarray) -> np.ndarray:
    """0-1 -> uint8."""
    return np.asarray(np.clip(np.rint(values * 255), 0, 255), np.uint8)
