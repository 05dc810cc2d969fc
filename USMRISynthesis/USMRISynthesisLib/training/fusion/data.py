"""What the fusion learns from: a generator's output in three planes on simulated heads, and their true MR."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from USMRISynthesisLib.datasets.simulated import Case, case_files, read_case
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.geometry.canonical import canonical_axis_mm
from USMRISynthesisLib.geometry.planes import ALL, PLANES, supported_planes
from USMRISynthesisLib.synthesis.engine import LoadedGenerator
from USMRISynthesisLib.synthesis.fusion import REACH, prepared
from USMRISynthesisLib.synthesis.multiplane import run_planes
from USMRISynthesisLib.ultrasound.intensity import normalise_ultrasound

LABELS = "planes-1"  # another name whenever the files are made otherwise, so that none made before is taken for one
AROUND_MM = 4.2  # of the brain that is synthesised around it: the head's outline lies about there
_VOXEL_MM = 0.6


class FusionBatch(NamedTuple):
    """Blocks: channels (N, C, S, S, S) as `synthesis.fusion.prepared` makes them; truth in [-1, 1] and inside, brain in
    the beam, (N, 1, S, S, S)."""

    channels: Tensor
    truth: Tensor
    inside: Tensor


@dataclass(frozen=True, eq=False)
class FusionHead:
    """One head, cropped to what was synthesised: channels (C, K, H, W) and truth (K, H, W), float16 in [-1, 1]; inside
    (K, H, W) bool."""

    name: str
    channels: np.ndarray
    truth: np.ndarray
    inside: np.ndarray


def run_head(generator: LoadedGenerator, case: Case) -> dict[str, np.ndarray]:
    """The generator's output in three planes on a head at its true pose, and the truth; uint8 for [-1, 1]."""
    us = normalise_ultrasound(case.us, case.fan, generator.manifest.input.exponent)
    around = ndimage.distance_transform_edt(~case.brain, sampling=_VOXEL_MM) < AROUND_MM
    made = run_planes(generator, us, canonical_axis_mm(), planes=ALL, inside=around & case.fan)
    arrays = {plane: _bytes(made[plane]) for plane in PLANES}
    return arrays | {"us": _bytes(us), "truth": _bytes(2 * case.t2 - 1), "inside": case.brain & case.fan}


def fusion_heads(
    generator: LoadedGenerator, folders: Sequence[Path], kept: Path, *, most: int = 0,
    report: Callable[[str], None] = print,
) -> list[FusionHead]:  # fmt: skip
    """All heads of some splits, run once and kept in `kept`, which is this generator's own; `most` of each, 0 for all.

    Raises Refused: the generator does not take three planes.
    """
    if supported_planes(ALL, generator.manifest.input.planes) is None:
        raise Refused("model", "The fusion needs a model of three planes.", "Train a generator of three planes first.")
    kept.mkdir(parents=True, exist_ok=True)
    result = []
    for folder in folders:
        for path in case_files(folder)[: most or None]:
            file = kept / f"{folder.parent.name}-{folder.name}-{path.stem}.npz"
            if not file.is_file():
                part = file.with_suffix(f".{os.getpid()}.part.npz")
                np.savez_compressed(part, **run_head(generator, read_case(path)))  # type: ignore[arg-type]
                os.replace(part, file)
                report(f"{path.stem}: ran in three planes")
            with np.load(file) as stored:
                result.append(head_of(path.stem, stored))
    return result


def head_of(name: str, stored: Mapping[str, np.ndarray]) -> FusionHead:
    """A head from what `run_head` made."""
    made = {plane: _signed(stored[plane]) for plane in PLANES}
    fused = prepared(made, _signed(stored["us"]))
    inside = stored["inside"]
    box = ndimage.find_objects(ndimage.binary_dilation(inside, iterations=REACH + 1).astype(np.uint8))[0]
    channels = fused.channels[(slice(None), *box)].astype(np.float16)
    return FusionHead(name, channels, _signed(stored["truth"])[box].astype(np.float16), inside[box])


def draw(heads: Sequence[FusionHead], count: int, size: int, rng: np.random.Generator) -> FusionBatch:
    """A random batch of blocks of side `size`, each about a voxel of brain, half of them mirrored left to right."""
    parts = []
    for _ in range(count):
        head = heads[int(rng.integers(len(heads)))]
        places = np.flatnonzero(head.inside)
        centre = np.unravel_index(int(places[rng.integers(len(places))]), head.inside.shape)
        box = tuple(
            slice(start, start + size)
            for start in (
                int(np.clip(c - size // 2, 0, n - size)) for c, n in zip(centre, head.inside.shape, strict=True)
            )
        )
        arrays = (
            head.channels[(slice(None), *box)],
            head.truth[box][None],
            head.inside[box][None],
        )
        flip = rng.random() < 0.5
        parts.append([torch.from_numpy(np.ascontiguousarray(a[..., ::-1] if flip else a, np.float32)) for a in arrays])
    return FusionBatch(*(torch.stack(values) for values in zip(*parts, strict=True)))


def _signed(values: np.ndarray) -> np.ndarray:
    """Bytes -> [-1, 1]."""
    return np.asarray(values / np.float32(127.5) - 1)


def _bytes(values: np.ndarray) -> np.ndarray:
    """[-1, 1] -> uint8."""
    return np.asarray(np.clip(np.rint((values + 1) * 127.5), 0, 255), np.uint8)
