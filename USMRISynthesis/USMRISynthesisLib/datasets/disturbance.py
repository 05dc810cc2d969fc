"""What differs between scanners, users and exports, done to images of heads on the fly; and images without a head."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_SHADING_NODES = 4
_CUT_OUT, _NEAREST_MM, _FARTHEST_MM = 0.3, -1.0, 22.0


def disturb(x: Tensor, fan: Tensor, rng: np.random.Generator, strength: float = 1.0) -> Tensor:
    """Gain, gamma, shading, noise, speckle reduction, overlays, a cut: the same head by another machine or user.

    x, fan: (s, ...) of 2 or 3 axes; -1 outside the fan stays.
    """
    n = x.ndim
    level = (x + 1) / 2
    level = level ** float(np.exp(strength * rng.uniform(-0.7, 0.7)))
    ramp = _plane(x, rng)
    level = level * float(np.exp(strength * rng.uniform(-0.5, 0.4))) * (1 + strength * rng.uniform(0, 0.45) * ramp)
    if rng.random() < 0.6:
        level = level * torch.exp(strength * rng.uniform(0.1, 0.6) * _smooth(x, rng))
    level = level + strength * rng.uniform(-0.05, 0.12)
    if rng.random() < 0.5:
        pool = F.avg_pool3d if n == 3 else F.avg_pool2d
        level = torch.lerp(level, pool(level[None, None], 3, 1, 1)[0, 0], float(rng.uniform(0.3, 1)))
    seed = int(rng.integers(2**62))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    level = level * (1 + strength * rng.uniform(0, 0.3) * noise) + strength * rng.uniform(0, 0.05) * noise
    if rng.random() < 0.2 * strength:  # the probe saw part of the head only
        fan = fan * (_plane(x, rng) < rng.uniform(0.15, 0.8)).float()
    if rng.random() < 0.1 * strength:  # text or a scale over the picture
        level = torch.where(_box(x, rng), level.new_tensor(float(rng.random() < 0.7)), level)
    return torch.where(fan > 0.5, level.clamp(0, 1) * 2 - 1, x.new_tensor(-1.0))


def cut_out(x: Tensor, distance_mm: Tensor, rng: np.random.Generator) -> Tensor:
    """Now and then a head without its surroundings, as some exports are: black beyond a margin around the skull.

    x: (s, s, s) in [-1, 1]; distance_mm: to the skull, negative inside, on the same cube's cells or coarser ones.
    """
    if rng.random() >= _CUT_OUT:
        return x
    margin = float(rng.uniform(_NEAREST_MM, _FARTHEST_MM))
    finer = F.interpolate(distance_mm[None, None], size=x.shape, mode="trilinear")[0, 0]
    return torch.where(finer < margin + 2.0 * _smooth(x, rng), x, x.new_tensor(-1.0))


def no_head(x: Tensor, fan: Tensor, rng: np.random.Generator) -> Tensor:
    """Ultrasound-like texture without a head: the image's own blocks in another order, or plain speckle."""
    if rng.random() < 0.5:
        size, blocks = x.shape[0], int(rng.choice([3, 4, 6]))
        step = size // blocks
        mixed = x.clone()
        places = np.stack(np.meshgrid(*[np.arange(blocks)] * x.ndim, indexing="ij")).reshape(x.ndim, -1).T * step
        for to, source in zip(places, rng.permutation(places), strict=True):
            mixed[_block(to, step)] = x[_block(source, step)]
        return mixed
    coarse = int(rng.integers(4, 14))
    noise = torch.from_numpy(rng.standard_normal((1, 1, *[coarse] * x.ndim)).astype(np.float32))
    mode = "trilinear" if x.ndim == 3 else "bilinear"
    smooth = F.interpolate(noise, size=tuple(x.shape), mode=mode)[0, 0]
    grain = torch.from_numpy(rng.rayleigh(0.8, tuple(x.shape)).astype(np.float32))
    level = torch.sigmoid(rng.uniform(0.5, 3) * smooth + rng.uniform(-1.5, 0.5)) * grain * rng.uniform(0.3, 1.0)
    return torch.where(fan > 0.5, level.clamp(0, 1) * 2 - 1, x.new_tensor(-1.0))


def _block(corner: np.ndarray, step: int) -> tuple[slice, ...]:
    return tuple(slice(int(c), int(c) + step) for c in corner)


def _plane(x: Tensor, rng: np.random.Generator) -> Tensor:
    """A ramp across the cube in a random direction, 0 in the middle, about +-1 at the faces."""
    direction = rng.standard_normal(x.ndim)
    direction /= np.linalg.norm(direction)
    total = torch.zeros(())
    for a, weight in enumerate(direction):
        axis = torch.linspace(-1, 1, x.shape[a])
        total = total + float(weight) * axis.reshape([-1 if b == a else 1 for b in range(x.ndim)])
    return total


def _smooth(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Noise of deviation about 1 that varies over a quarter of the cube."""
    nodes = torch.from_numpy(rng.standard_normal((1, 1, *[_SHADING_NODES] * x.ndim)).astype(np.float32))
    mode = "trilinear" if x.ndim == 3 else "bilinear"
    return F.interpolate(nodes, size=tuple(x.shape), mode=mode, align_corners=True)[0, 0]


def _box(x: Tensor, rng: np.random.Generator) -> Tensor:
    """A small box of the picture's cells, bool."""
    inside = torch.zeros(x.shape, dtype=torch.bool)
    sides = [max(1, int(size * rng.uniform(0.03, 0.25))) for size in x.shape]
    inside[
        tuple(
            slice(a, a + s) for a, s in ((int(rng.integers(n - s + 1)), s) for n, s in zip(x.shape, sides, strict=True))
        )
    ] = True
    return inside
