"""What a reliability map learns from: a generator's output on simulated heads, in one plane and in all, and its errors.

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
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.geometry.canonical import HC_PLANE_Z_MM, canonical_axis_mm
from USMRISynthesisLib.geometry.planes import ALL, PLANES, supported_planes, to_plane
from USMRISynthesisLib.simulation.anatomy.labels import BRAIN
from USMRISynthesisLib.synthesis.engine import LoadedGenerator
from USMRISynthesisLib.synthesis.multiplane import combined, run_planes
from USMRISynthesisLib.synthesis.reliability import (
    CELL,
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

LABELS = "cells-3"  # another name whenever labels are made otherwise, so that none made before is taken for one
MIN_BRAIN_CELLS = 75.0  # for a slice to be drawn
_DEPTH = slice(0, 1)  # of the conditions
_WHOLE = slice(1, 1 + HEAD_STATISTICS)


class ReliabilityBatch(NamedTuple):
    """cells (N, IMAGES + 2, H, W), conditions (N, CONDITIONS, 1, 1): see `synthesis.reliability.Head`; error_mask,
    error (of MR 0-1), inside (N, 1, H, W): means over each cell, the first two with 0 for what is not inside.
    """

    cells: Tensor
    conditions: Tensor
    error_mask: Tensor
    error: Tensor
    inside: Tensor


@dataclass(frozen=True, eq=False)
class LabelledPrediction:
    """A generator's output on a head, uint8 cells (K, H, W): mr for [-1, 1], its smoothed error and the share of each
    cell whose error is too large, for 0-1.

    spread: 255 for a standard deviation of 1 over the planes, or None where there is one plane.
    """

    mr: np.ndarray
    error: np.ndarray
    error_mask: np.ndarray
    spread: np.ndarray | None


@dataclass(frozen=True, eq=False)
class LabelledHead:
    """One head, uint8 cells (K, H, W): us for [-1, 1], the outputs on it, and inside: brain in the beam, for 0-1."""

    name: str
    us: np.ndarray
    predictions: tuple[LabelledPrediction, ...]
    inside: np.ndarray

    def head(self, n: int) -> Head:
        """The `n`-th of `predictions` as the network sees it."""
        prediction = self.predictions[n]
        spread = None if prediction.spread is None else prediction.spread * np.float32(SPREAD_SCALE / 255)
        us, mr = _signed(self.us), _signed(prediction.mr)
        return Head(us, mr, spread, head_statistics(us, mr, spread))

    @property
    def is_frame(self) -> bool:
        """Whether it is a single frame, K = 1, at the head-circumference plane."""
        return len(self.us) == 1

    @functools.cached_property
    def packed(self) -> tuple[Head, ...]:
        """All of `predictions` alike, but left as bytes: `slices_of` makes floats of a few."""
        return tuple(Head(self.us, p.mr, p.spread, self.head(n).whole) for n, p in enumerate(self.predictions))

    @functools.cached_property
    def usable_slices(self) -> dict[str, np.ndarray]:
        """Of each plane the slices with enough brain; a frame has one plane."""
        return {plane: np.flatnonzero(to_plane(self.inside, plane).sum(axis=(1, 2)) >= MIN_BRAIN_CELLS * 255)
                for plane in (PLANES[:1] if self.is_frame else PLANES)}  # fmt: skip


def label_errors(generator: LoadedGenerator, case: Case, *, axial: bool = False) -> LabelledHead:
    """Run the generator on a head at its true pose, axially and (not if `axial`) in all planes, and compare with its
    true MR."""
    us = normalise_ultrasound(case.us, case.fan, generator.manifest.input.exponent)
    several = not axial and supported_planes(ALL, generator.manifest.input.planes) is not None
    planes = run_planes(generator, us, canonical_axis_mm(), planes=ALL if several else "axial")
    inside = case.brain & case.fan
    results = [(planes["axial"], None)] + (
        [(combined(planes, us, generator.fusion, device=generator.device), spread_of(planes))] if several else []
    )
    predictions = []
    for mr, spread in results:
        error = np.where(inside, error_of((mr + 1) / 2, case.t2, inside), 0)
        mask = _bytes(cells_of(error > WRONG))
        apart = None if spread is None else _bytes(cells_of(spread) / SPREAD_SCALE)
        predictions.append(LabelledPrediction(_bytes((cells_of(mr) + 1) / 2), _bytes(cells_of(error)), mask, apart))
    return LabelledHead(case.name, _bytes((cells_of(us) + 1) / 2), tuple(predictions), _bytes(cells_of(inside)))


def label_heads(
    generator: LoadedGenerator, folders: Sequence[Path], kept: Path, *, axial: bool = False,
    report: Callable[[str], None] = print,
) -> list[LabelledHead]:  # fmt: skip
    """All heads of some splits, labelled once and kept in `kept`, which is this generator's own.

    Runs side by side may share the folder: each labels what it does not find.
    """
    kept.mkdir(parents=True, exist_ok=True)
    result = []
    for folder in folders:
        for path in case_files(folder):
            file = kept / f"{folder.parent.name}-{folder.name}-{path.stem}.npz"
            if not file.is_file():
                _write(label_errors(generator, read_case(path), axial=axial), file, report)
            result.append(_read(file, path.stem))
    return result


def label_frames(generator: LoadedGenerator, path: Path) -> list[LabelledHead]:
    """Run the generator on a simulated head's frames, at their true pose, and compare with their true MR; none where it
    has no frames."""
    labelled = []
    with np.load(path) as file:
        if "frames_us" not in file:
            return []
        parts = [file[f"frames_{name}"] for name in ("us", "fan", "t2", "labels")]
    for number, (us, fan, t2, labels) in enumerate(zip(*parts, strict=True)):
        seen = normalise_ultrasound(us[None], fan[None], generator.manifest.input.exponent)
        mr = run_planes(generator, seen, np.array([HC_PLANE_Z_MM]))["axial"]
        inside = (np.isin(labels, BRAIN) & fan)[None]
        error = np.where(inside, error_of((mr + 1) / 2, t2[None].astype(np.float32) / 255, inside), 0)
        made, off, wrong, beam, brain = (
            _bytes(cells_of(np.repeat(pixels, CELL, axis=0)))
            for pixels in ((mr + 1) / 2, error, error > WRONG, (seen + 1) / 2, inside)
        )
        labelled.append(
            LabelledHead(f"{path.stem}-{number}", beam, (LabelledPrediction(made, off, wrong, None),), brain)
        )
    return [head for head in labelled if len(head.usable_slices["axial"])]


def label_all_frames(generator: LoadedGenerator, folders: Sequence[Path]) -> list[LabelledHead]:
    """The frames of all heads in these folders. Raises Refused where there are none."""
    heads = [head for folder in folders for path in case_files(folder) for head in label_frames(generator, path)]
    if folders and not heads:
        raise Refused(
            "data", "There are no simulated frames in the folders named.", "Simulate heads with `frames_a_head`."
        )
    return heads


def _write(head: LabelledHead, file: Path, report: Callable[[str], None]) -> None:
    part = file.with_suffix(f".{os.getpid()}.part.npz")
    arrays = {"us": head.us, "inside": head.inside}
    for n, prediction in enumerate(head.predictions):
        arrays |= {f"mr_{n}": prediction.mr, f"error_{n}": prediction.error, f"wrong_{n}": prediction.error_mask}
        arrays |= {} if prediction.spread is None else {f"spread_{n}": prediction.spread}
    np.savez(part, **arrays)  # type: ignore[arg-type]
    os.replace(part, file)
    brain = max(1, int(head.inside.sum()))
    shares = " and ".join(f"{prediction.error_mask.sum() / brain:.1%}" for prediction in head.predictions)
    report(f"{head.name}: {shares} of the brain wrong")


def _read(file: Path, name: str) -> LabelledHead:
    with np.load(file) as stored:
        predictions = tuple(
            LabelledPrediction(
                stored[f"mr_{n}"], stored[f"error_{n}"], stored[f"wrong_{n}"],
                stored[f"spread_{n}"] if f"spread_{n}" in stored else None,
            )
            for n in range(sum(key.startswith("mr_") for key in stored.files))
        )  # fmt: skip
        return LabelledHead(name, stored["us"], predictions, stored["inside"])


def draw(heads: Sequence[LabelledHead], count: int, rng: np.random.Generator) -> ReliabilityBatch:
    """A random batch of `count` slices of these heads, along any plane, of MR of one plane or of several, half of them
    mirrored left to right."""
    parts = []
    for _ in range(count):
        head = heads[int(rng.integers(len(heads)))]
        planes = tuple(head.usable_slices)
        n, plane = int(rng.integers(len(head.predictions))), planes[int(rng.integers(len(planes)))]
        part = slices_of(head, n, plane, rng.choice(head.usable_slices[plane], 1))
        parts.append(_mirrored(part, plane) if rng.random() < 0.5 else part)
    return ReliabilityBatch(*(torch.cat(values) for values in zip(*parts, strict=True)))


def _mirrored(batch: ReliabilityBatch, plane: str) -> ReliabilityBatch:
    """Left to right: the columns of a plane, or the order of a sagittal slice's neighbours."""
    if plane == "sagittal":
        order = [2, 1, 0, 5, 4, 3, *range(6, IMAGES + 2)]
        return batch._replace(cells=batch.cells[:, order])
    return ReliabilityBatch(*(part.flip(3) if part.shape[-1] > 1 else part for part in batch))


def augmented(batch: ReliabilityBatch, rng: np.random.Generator) -> ReliabilityBatch:
    """The batch turned, scaled, shifted, with a little of another gain and noise: a few heads are soon known by heart.

    A little: noise and brightness of an image predict how much of it goes wrong, and the MR was made of it as it was.
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
    labels = moved(torch.cat([batch.error_mask, batch.error, batch.inside], dim=1))
    us, mr, apart = images[:, :3] - 1, images[:, 3:6] - 1, images[:, 6:] + ONE_PLANE
    cells = [us + noise(us, 0.03), mr + noise(mr, 0.02), torch.where(several, apart.clamp(min=0), spread), where]
    return ReliabilityBatch(torch.cat(cells, dim=1), conditions, labels[:, :1], labels[:, 1:2], labels[:, 2:])


def slices_of(head: LabelledHead, n: int, plane: str, some: np.ndarray) -> ReliabilityBatch:
    """Those slices of a plane, of the `n`-th output on a head."""
    seen, prediction = head.packed[n], head.predictions[n]
    cells, conditions = seen.slices(plane, some)
    cells[:, : IMAGES - 1] = _signed(cells[:, : IMAGES - 1])
    if seen.spread is not None:
        cells[:, IMAGES - 1] *= SPREAD_SCALE / 255
    labels = (prediction.error_mask, prediction.error, head.inside)
    drawn = [to_plane(part, plane)[some][:, None] / np.float32(255) for part in labels]
    return ReliabilityBatch(*map(torch.from_numpy, (cells, conditions, *drawn)))


def _signed(values: np.ndarray) -> np.ndarray:
    """Bytes -> [-1, 1]."""
    return np.asarray(values / np.float32(127.5) - 1)


def _bytes(values: np.ndarray) -> np.ndarray:
    """0-1 -> uint8."""
    return np.asarray(np.clip(np.rint(values * 255), 0, 255), np.uint8)
