"""What the support map learns from: a generator's output on simulated heads, and where it is wrong."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from ..evaluation.synthesis import Case, cases
from ..normalisation.canonical import SPACING_MM, canonical_axis_mm
from ..synthesis.engine import LoadedGenerator
from ..synthesis.intensity import normalise_ultrasound
from ..synthesis.slices import LOCATION_SCALE_MM
from ..synthesis.stack import mean_of, run_planes
from ..synthesis.support import SMOOTHING_MM, WRONG, neighbourhood

ENOUGH = 300  # pixels of brain for a slice to be looked at


class SupportBatch(NamedTuple):
    """us, mr (N, 3, H, W) in [-1, 1]; z (N, 1, 1, 1); wrong, inside (N, 1, H / 2, W / 2): shares of 2 x 2 pixels."""

    us: Tensor
    mr: Tensor
    z: Tensor
    wrong: Tensor
    inside: Tensor


@dataclass(frozen=True, eq=False)
class Judged:
    """One head: us, mr (K, H, W) uint8 for [-1, 1]; wrong, inside (K, H, W) bool; slices with enough brain."""

    name: str
    us: np.ndarray
    mr: np.ndarray
    wrong: np.ndarray
    inside: np.ndarray
    slices: np.ndarray


def wrong_of(mr: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Where the grey is off by more than `WRONG`, smoothed first; mr, truth (K, H, W) in 0-1 -> bool."""
    difference = ndimage.gaussian_filter(mr - truth, SMOOTHING_MM / SPACING_MM)
    return np.asarray(np.abs(difference) > WRONG)


def judge(generator: LoadedGenerator, case: Case) -> Judged:
    """Run the generator on a head at its true pose and compare with its true MR."""
    us = normalise_ultrasound(case.us, case.fan, generator.manifest.input.exponent)
    mr = mean_of(run_planes(generator, us, canonical_axis_mm()))
    inside = case.brain & case.fan
    return Judged(
        case.name, _bytes(us), _bytes(mr), wrong_of((mr + 1) / 2, case.t2), inside,
        np.flatnonzero(inside.sum(axis=(1, 2)) >= ENOUGH),
    )  # fmt: skip


def judged(
    generator: LoadedGenerator, folders: Sequence[Path], kept: Path, *, report: Callable[[str], None] = print
) -> list[Judged]:
    """All heads of some splits, each judged once and kept in `kept`, which is this generator's own."""
    kept.mkdir(parents=True, exist_ok=True)
    result = []
    for folder in folders:
        for case in cases(folder):
            file = kept / f"{folder.name}-{case.name}.npz"
            if not file.is_file():
                head = judge(generator, case)
                part = file.with_suffix(f".{os.getpid()}.part.npz")
                np.savez_compressed(part, us=head.us, mr=head.mr, wrong=head.wrong, inside=head.inside,
                                    slices=head.slices)  # fmt: skip
                os.replace(part, file)
                report(f"{head.name}: {head.wrong[head.inside].mean():.1%} of the brain wrong")
            with np.load(file) as stored:
                result.append(Judged(case.name, *(stored[name] for name in ("us", "mr", "wrong", "inside", "slices"))))
    return result


def draw(heads: Sequence[Judged], count: int, rng: np.random.Generator) -> SupportBatch:
    """A random batch of `count` slices of these heads, half of them mirrored."""
    parts = [slices_of(head, rng.choice(head.slices, 1)) for head in (heads[int(rng.integers(len(heads)))]
                                                                      for _ in range(count))]  # fmt: skip
    batch = SupportBatch(*(torch.cat(values) for values in zip(*parts, strict=True)))
    mirrored = torch.from_numpy(rng.random(count) < 0.5)[:, None, None, None]
    flipped = [torch.where(mirrored, x.flip(3), x) if x.shape[-1] > 1 else x for x in batch]
    return SupportBatch(*flipped)


def changed(batch: SupportBatch, rng: np.random.Generator) -> SupportBatch:
    """The batch turned, scaled, shifted, with another gain and noise: forty heads are soon known by heart."""
    count = len(batch.us)

    def drawn(low: float, high: float) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, count).astype(np.float32))[:, None, None, None]

    def noise(like: Tensor, most: float) -> Tensor:
        return torch.from_numpy(rng.standard_normal(like.shape, dtype=np.float32)) * drawn(0, most)

    us = torch.where(batch.us > -1, ((batch.us + 1) * drawn(0.7, 1.4) + drawn(-0.15, 0.15)).clamp(0, 2) - 1, batch.us)
    angle, scale = rng.uniform(-0.25, 0.25, count), rng.uniform(0.88, 1.12, count)
    cosine, sine = np.cos(angle) * scale, np.sin(angle) * scale
    shift = rng.uniform(-0.08, 0.08, (2, count))
    theta = np.array([[cosine, -sine, shift[0]], [sine, cosine, shift[1]]], np.float32).transpose(2, 0, 1)

    def moved(images: Tensor) -> Tensor:
        grid = F.affine_grid(torch.from_numpy(theta.copy()), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, align_corners=False)

    images = moved(torch.cat([us + 1, batch.mr + 1], dim=1)) - 1
    said = moved(torch.cat([batch.wrong, batch.inside], dim=1))
    us, mr = images[:, :3], images[:, 3:]
    return SupportBatch(us + noise(us, 0.1), mr + noise(mr, 0.05), batch.z + drawn(-0.1, 0.1), said[:, :1], said[:, 1:])


def slices_of(head: Judged, some: np.ndarray) -> SupportBatch:
    """Those slices of a head, as they are."""
    us, mr = (torch.from_numpy(neighbourhood(stack, some)) / 127.5 - 1 for stack in (head.us, head.mr))
    z = torch.from_numpy((canonical_axis_mm()[some] / LOCATION_SCALE_MM).astype(np.float32))[:, None, None, None]
    wrong, inside = (_halved(mask[some]) for mask in (head.wrong & head.inside, head.inside))
    return SupportBatch(us, mr, z, wrong, inside)


def _halved(mask: np.ndarray) -> Tensor:
    return F.avg_pool2d(torch.from_numpy(mask.astype(np.float32))[:, None], 2)


def _bytes(values: np.ndarray) -> np.ndarray:
    """[-1, 1] -> uint8."""
    return np.asarray(np.clip(np.rint((values + 1) * 127.5), 0, 255), np.uint8)
