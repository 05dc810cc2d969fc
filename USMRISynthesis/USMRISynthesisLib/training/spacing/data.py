"""Thick-slice stacks to learn from, and the batches of both stages.

Nothing here is sharp across its slices: real stacks as they are, atlas weeks only after they were thinned. The pairs of
stage 2 come from what the VAE made of these stacks, or from their in-plane images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from USMRISynthesisLib.datasets.stacks import Head, atlas_head, deformed
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.volume import VOLUME_FORMATS, Volume
from USMRISynthesisLib.spacing import profile
from USMRISynthesisLib.spacing.admission import admit
from USMRISynthesisLib.spacing.grid import plan, stacked
from USMRISynthesisLib.spacing.inference import conditions
from USMRISynthesisLib.spacing.intensity import Scale
from USMRISynthesisLib.spacing.noise import noise_of
from USMRISynthesisLib.training.spacing.acquisition import acquired, drawn
from USMRISynthesisLib.training.spacing.config import SpacingConfig, SpacingDataConfig

_MARGIN_MM = 15.0
_ATLAS_FACTORS = (3.0, 5.0)  # 2.4 to 4 mm, as fetal MR is acquired
_FLAT = 0.03  # a patch that varies less teaches nothing
_TRIES = 8


@dataclass(frozen=True, eq=False)
class Stack:
    """Thick slices (n, h, w) float32 around 0-1, and their distance in pixels of a slice."""

    name: str
    slices: np.ndarray
    factor: float


def load_stacks(config: SpacingDataConfig, seed: int) -> list[Stack]:
    """All the stacks; the same ones for the same seed. Raises Refused: nothing there, or no thick-slice MR."""
    stacks = [_read(path, mask) for path, mask in _files(config)]
    for week, name in enumerate(config.weeks if config.atlas else ()):
        head = atlas_head(Path(config.atlas), name)
        for copy in range(config.copies):
            number = week * config.copies + copy
            rng = np.random.default_rng([seed, 21, number])
            stacks.append(_thinned(deformed(head, 1 + number) if copy else head, rng, number % 3))
    return stacks


def _files(config: SpacingDataConfig) -> list[tuple[Path, Path | None]]:
    if config.masks:
        return [(Path(v), Path(m)) for v, m in zip(config.volumes, config.masks, strict=True)]
    found: list[tuple[Path, Path | None]] = []
    for name in config.volumes:
        path = Path(name)
        inside = sorted(p for p in path.rglob("*") if p.name.lower().endswith(VOLUME_FORMATS)) if path.is_dir() else []
        if path.is_dir() and not inside:
            raise Refused("data", f"The folder {path.name} holds no volume.", "Put thick-slice MR into it.")
        found += [(p, None) for p in inside or [path]]
    return found


def _read(path: Path, mask: Path | None) -> Stack:
    volume = Volume.read(path)
    admit(volume)
    shape = plan(volume)
    slices = stacked(volume.array, shape.axis)
    scale = Scale.of(volume.array)
    if mask is not None:
        inside = np.argwhere(stacked(Volume.read(mask).array, shape.axis) > 0)
        if len(inside) and tuple(slices.shape) == tuple(stacked(Volume.read(mask).array, shape.axis).shape):
            pixel = min(volume.spacing)
            low = np.maximum(inside.min(0) - [1, *[round(_MARGIN_MM / pixel)] * 2], 0)
            high = inside.max(0) + 1 + [1, *[round(_MARGIN_MM / pixel)] * 2]
            slices = slices[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
            scale = Scale.of(slices)
    return Stack(path.name, np.ascontiguousarray(scale.shares(slices)), shape.spacing_mm[0] / min(volume.spacing))


def _thinned(head: Head, rng: np.random.Generator, axis: int) -> Stack:
    truth = stacked(head.truth, axis)
    n = max(4, round(len(truth) / rng.uniform(*_ATLAS_FACTORS)))
    return Stack(f"{head.name}-axis{axis}", profile.apply(profile.degradation(n, len(truth)), truth), len(truth) / n)


def slice_batch(stacks: Sequence[Stack], rng: np.random.Generator, config: SpacingConfig) -> Tensor:
    """Stage 1: (N, 1, S, S) patches of slices, turned, mirrored, brighter and darker."""
    patches = []
    for _ in range(config.batch):
        stack = stacks[int(rng.integers(len(stacks)))]
        patches.append(_patch(_slice_of(stack, rng), (config.size,) * 2, rng)[0])
    return torch.from_numpy(np.stack(patches))[:, None]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Stage 2: x (N, 1, m, S) linear estimates of degraded views, their truth, conditions (4, m)."""

    x: Tensor
    truth: Tensor
    conditions: Tensor


def pair_batch(
    fine: Sequence[np.ndarray], stacks: Sequence[Stack], rng: np.random.Generator, config: SpacingConfig
) -> Pairs:
    """One factor, 1.5-6, and one kind of acquisition for the batch, whose noise is estimated as that of an image is.

    Targets are through-plane views of `fine`, or in-plane images of `stacks`.
    """
    m = int(rng.integers(config.size // 8, config.size // 4 + 1)) * 4
    n = round(m / rng.uniform(profile.MIN_FACTOR, profile.MAX_FACTOR))
    in_plane = rng.random() < config.in_plane
    how = drawn(config.acquisition, rng)
    slabs = []
    for _ in range(config.batch):
        if in_plane:
            stack = stacks[int(rng.integers(len(stacks)))]
            slabs.append(_patch(_slice_of(stack, rng), (m, config.size), rng))
        else:
            volume = fine[int(rng.integers(len(fine)))]
            every = config.every_axis
            slabs.append(_patch(_view_of(volume, rng, every, how.reach), (m, config.size), rng, turn=every))
    truth = np.stack([slab[len(slab) // 2] for slab in slabs])
    thick = np.stack([acquired(slab, n, how, rng) for slab in slabs], axis=1)
    noise = noise_of(thick, m)
    start = profile.apply(profile.estimation(n, m, noise), thick)
    x = np.ascontiguousarray(np.moveaxis(start, 1, 0))
    return Pairs(torch.from_numpy(x)[:, None], torch.from_numpy(truth)[:, None], conditions(n, m, noise))


def _slice_of(stack: Stack, rng: np.random.Generator) -> Callable[[], np.ndarray]:
    return lambda: stack.slices[int(rng.integers(len(stack.slices)))][None]


def _view_of(volume: np.ndarray, rng: np.random.Generator, every: bool, reach: int) -> Callable[[], np.ndarray]:
    """A through-plane view of fine slices (m, h, w) between its neighbours, (1 + 2 reach, m, w), along their rows or
    columns; `every`: or a slice. Edges repeat."""

    def draw() -> np.ndarray:
        axis = int(rng.integers(0 if every else 1, 3))
        places = int(rng.integers(volume.shape[axis])) + np.arange(-reach, reach + 1)
        return np.moveaxis(np.take(volume, np.clip(places, 0, volume.shape[axis] - 1), axis=axis), axis, 0)

    return draw


def _patch(
    draw: Callable[[], np.ndarray], shape: tuple[int, int], rng: np.random.Generator, *, turn: bool = True
) -> np.ndarray:
    """A patch of drawn images (d, h, w), the middle one not flat if a few tries find one; small ones are mirrored on.

    Mirrored at random and brighter or darker, (d, *shape).
    """
    patch = np.zeros((1, *shape), np.float32)
    for _ in range(_TRIES):
        images = draw()
        if turn and rng.random() < 0.5:
            images = images.transpose(0, 2, 1)
        lack = [(0, max(0, size - have)) for size, have in zip(shape, images.shape[1:], strict=True)]
        if lack != [(0, 0), (0, 0)]:
            images = np.pad(images, [(0, 0), *lack], mode="symmetric")
        j, i = (int(rng.integers(have - size + 1)) for have, size in zip(images.shape[1:], shape, strict=True))
        patch = np.asarray(images[:, j : j + shape[0], i : i + shape[1]])
        if patch[len(patch) // 2].std() > _FLAT:
            break
    patch = patch[:, :: rng.choice((-1, 1)), :: rng.choice((-1, 1))]
    gain = rng.uniform(0.75, 1.25)
    return np.ascontiguousarray(patch * gain, dtype=np.float32)
