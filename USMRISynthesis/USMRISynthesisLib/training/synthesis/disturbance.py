"""What another machine, user or export does to the ultrasound of a training sample, slice and neighbours alike."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_NODES = 5


def disturbed(us: Tensor, rng: np.random.Generator, strength: float) -> Tensor:
    """Slices (N, C, H, W) in [-1, 1], -1 outside the fan, each with changes of its own; strength 0 = none.

    Shading over some cm, speckle added or reduced, overlays, a part of the sector missing. The fan only loses.
    """
    return torch.stack([_one(image, rng, strength) for image in us]) if strength else us


def _one(image: Tensor, rng: np.random.Generator, strength: float) -> Tensor:
    fan = image > -1
    level = (image + 1) / 2
    if rng.random() < 0.6:
        level = level * torch.exp(float(rng.uniform(0.1, 0.7)) * strength * _smooth(image.shape[1:], rng))
    lot = rng.random()
    if lot < 0.35:
        width = int(rng.choice([3, 5]))
        soft = F.avg_pool2d(level[None], width, 1, width // 2, count_include_pad=False)[0]
        level = torch.lerp(level, soft, float(rng.uniform(0.3, 1.0)))
    elif lot < 0.7:
        grain = torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32))
        if rng.random() < 0.5:  # coarse speckle: long across the beam, which is unknown here, or along it
            long = (1, 3) if rng.random() < 0.5 else (3, 1)
            grain = 1.7 * F.avg_pool2d(grain[None], long, 1, (long[0] // 2, long[1] // 2))[0]
        level = level * (1 + float(rng.uniform(0, 0.4)) * strength * grain)
    if rng.random() < 0.15 * strength:
        level = torch.where(_box(image.shape[1:], rng), level.new_tensor(float(rng.random() < 0.5)), level)
    if rng.random() < 0.12 * strength:
        fan = fan & (_ramp(image.shape[1:], rng) < float(rng.uniform(0.35, 0.9)))
    # the least level of what is inside the fan is above that of the outside, as `mark_fan` has it
    return torch.where(fan, level.clamp(1 / 512, 1) * 2 - 1, image.new_tensor(-1.0))


def _smooth(shape: torch.Size, rng: np.random.Generator) -> Tensor:
    """(H, W) noise of deviation about 1 that varies over a fifth of the slice."""
    nodes = torch.from_numpy(rng.standard_normal((1, 1, _NODES, _NODES), dtype=np.float32))
    return F.interpolate(nodes, size=tuple(shape), mode="bicubic", align_corners=True)[0, 0]


def _ramp(shape: torch.Size, rng: np.random.Generator) -> Tensor:
    """(H, W), 0 in the middle, about 1 at the border in a random direction."""
    angle = float(rng.uniform(0, 2 * np.pi))
    y, x = torch.meshgrid(torch.linspace(-1, 1, shape[0]), torch.linspace(-1, 1, shape[1]), indexing="ij")
    return y * float(np.sin(angle)) + x * float(np.cos(angle))


def _box(shape: torch.Size, rng: np.random.Generator) -> Tensor:
    """(H, W) bool, a small box or line."""
    height, width = (max(1, int(side * rng.uniform(0.01, 0.18))) for side in shape)
    top, left = int(rng.integers(shape[0] - height + 1)), int(rng.integers(shape[1] - width + 1))
    inside = torch.zeros(tuple(shape), dtype=torch.bool)
    inside[top : top + height, left : left + width] = True
    return inside
