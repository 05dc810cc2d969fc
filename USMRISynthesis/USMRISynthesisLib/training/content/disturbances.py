"""What differs between scanners, users and exports of one and the same frame, drawn at random (torch).

Levels are grey values 0-1 of shape (s, s); fan is 1 inside and 0 outside. All are pure functions of a generator.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def cover(level: Tensor, fan: Tensor, rng: np.random.Generator, strength: float) -> tuple[Tensor, Tensor]:
    """Another fan, covered rectangles, and lines, calipers and letters burnt in."""
    size = level.shape[0]
    if rng.random() < 0.35 * strength:  # another probe, or a crop: inside a circle, a sector or a rectangle
        fan = fan * _window(size, rng)
    for _ in range(int(rng.integers(1, 4)) if rng.random() < 0.35 * strength else 0):
        height, width = (int(rng.integers(3, size // 4)) for _ in range(2))
        top, left = int(rng.integers(0, size - height)), int(rng.integers(0, size - width))
        level = level.clone()
        fill = rng.choice([0.0, float(level.mean()), float(rng.random())])
        level[top : top + height, left : left + width] = float(fill)
    if rng.random() < 0.3 * strength:
        level = level.clone()
        for _ in range(int(rng.integers(1, 5))):
            _draw_overlay(level, rng)
    return level, fan


def disturb(level: Tensor, fan: Tensor, rng: np.random.Generator, strength: float) -> Tensor:
    """(s, s) in [-1, 1], -1 outside the fan: grey curve, gain, haze, sharpness, grain, resampling, blocks, steps."""
    level = level.clamp(0, 1) ** float(np.exp(strength * rng.uniform(-0.7, 0.7)))
    level = level * float(np.exp(strength * rng.uniform(-0.4, 0.5)))
    level = level * (1 + strength * rng.uniform(0, 0.5) * _ramp(level.shape[0], rng))
    level = level + strength * rng.uniform(-0.06, 0.12)
    if rng.random() < 0.3 * strength:  # local contrast
        mean = blurred(level, float(rng.uniform(4, 12)))
        level = mean + (level - mean) * float(np.exp(rng.uniform(-0.6, 0.9)))
    if rng.random() < 0.4 * strength:
        level = blurred(level, float(rng.uniform(0.4, 1.8)))
    if rng.random() < 0.3 * strength:
        level = _resampled(level, int(rng.integers(32, 96)))
    if rng.random() < 0.45 * strength:
        level = _grained(level, rng)
    if rng.random() < 0.3 * strength:
        level = block_quantised(level, float(rng.uniform(0.02, 0.2)))
    if rng.random() < 0.3 * strength:
        steps = int(rng.integers(12, 64))
        level = (level * steps).round() / steps
    if rng.random() < 0.2 * strength:  # clipped: all bright, or all dark
        low, high = float(rng.uniform(0, 0.15)), float(rng.uniform(0.6, 1))
        level = (level - low) / (high - low)
    level = _stretched(level, fan) if rng.random() < 0.7 else level
    return torch.where(fan > 0.5, level.clamp(0, 1) * 2 - 1, -torch.ones(()))


def _stretched(level: Tensor, fan: Tensor) -> Tensor:
    """Between the percentiles inside the fan, as inference scales a whole frame."""
    inside = level[fan > 0.5][::3].numpy()
    if inside.size < 50:
        return level
    ends = [int(0.01 * inside.size), int(0.995 * inside.size)]
    low, high = np.partition(inside, ends)[ends].tolist()
    return (level - low) / max(high - low, 1e-3)


def blurred(level: Tensor, sigma: float) -> Tensor:
    """Gaussian blur, (s, s)."""
    reach = max(1, int(2.5 * sigma))
    line = torch.exp(-(torch.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    line = line / line.sum()
    padded = F.pad(level[None, None], (reach,) * 4, mode="replicate")
    rows = F.conv2d(padded, line[None, None, None])
    return F.conv2d(rows, line[None, None, :, None])[0, 0]


def block_quantised(level: Tensor, step: float) -> Tensor:
    """As JPEG stores it: each 8x8 block's cosine transform in steps that grow with the frequency."""
    size = level.shape[0] // 8 * 8
    basis, growth = _cosines()
    blocks = level[:size, :size].reshape(size // 8, 8, size // 8, 8).permute(0, 2, 1, 3)
    coefficients = basis @ blocks @ basis.T
    kept = basis.T @ ((coefficients / (step * growth)).round() * step * growth) @ basis
    result = level.clone()
    result[:size, :size] = kept.permute(0, 2, 1, 3).reshape(size, size)
    return result


@functools.lru_cache(maxsize=1)
def _cosines() -> tuple[Tensor, Tensor]:
    k, n = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    basis = torch.cos(torch.pi * (2 * n + 1) * k / 16) * 0.5
    basis[0] /= 2**0.5
    return basis, 1 + 0.5 * (k + n)


def _resampled(level: Tensor, size: int) -> Tensor:
    small = F.interpolate(level[None, None], size=(size, size), mode="bilinear", antialias=True)
    return F.interpolate(small, size=tuple(level.shape), mode="bilinear")[0, 0]


def _grained(level: Tensor, rng: np.random.Generator) -> Tensor:
    """Speckle: multiplied by noise of some grain, in the picture's own direction; and a little added noise."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    noise = torch.randn(level.shape, generator=generator)
    if rng.random() < 0.6:
        noise = blurred(noise, float(rng.uniform(0.5, 1.4)))
        noise = noise / noise.std().clamp_min(1e-6)
    level = level * (1 + rng.uniform(0, 0.35) * noise)
    return level + rng.uniform(0, 0.05) * torch.randn(level.shape, generator=generator)


def _ramp(size: int, rng: np.random.Generator) -> Tensor:
    """-1 to 1 across the square in a random direction."""
    angle = float(rng.uniform(0, 2 * np.pi))
    axis = torch.linspace(-1, 1, size)
    return (np.cos(angle) * axis[None, :] + np.sin(angle) * axis[:, None]) / 1.42


def _window(size: int, rng: np.random.Generator) -> Tensor:
    axis = torch.linspace(-1, 1, size)
    x, y = axis[None, :], axis[:, None]
    kind = int(rng.integers(3))
    if kind == 0:
        a, b = float(rng.uniform(0.7, 1.3)), float(rng.uniform(0.7, 1.3))
        return ((x / a) ** 2 + (y / b) ** 2 < 1).float()
    angle = float(rng.uniform(0, 2 * np.pi))
    along, across = np.cos(angle) * x + np.sin(angle) * y, -np.sin(angle) * x + np.cos(angle) * y
    if kind == 1:
        apex = float(rng.uniform(1.1, 2.0))
        spread = float(rng.uniform(0.45, 0.9))
        return (torch.atan2(across, along + apex).abs() < spread).float()
    return ((along.abs() < rng.uniform(0.6, 1.2)) & (across.abs() < rng.uniform(0.6, 1.2))).float()


def _draw_overlay(level: Tensor, rng: np.random.Generator) -> None:
    """A dotted line, a cross or a row of letters, drawn into the level."""
    size, bright = level.shape[0], float(rng.uniform(0.6, 1.2))
    kind = int(rng.integers(3))
    if kind == 0:
        ends = rng.uniform(0, size - 1, (2, 2))
        gap = int(rng.integers(1, 5))
        for t in np.linspace(0, 1, size)[::gap]:
            j, i = np.rint(ends[0] + t * (ends[1] - ends[0])).astype(int)
            level[j, i] = bright
    elif kind == 1:
        j, i = (int(v) for v in rng.integers(3, size - 3, 2))
        level[j - 2 : j + 3, i] = bright
        level[j, i - 2 : i + 3] = bright
    else:
        height, width = int(rng.integers(3, 6)), int(rng.integers(8, 30))
        j, i = int(rng.integers(0, size - height)), int(rng.integers(0, size - width))
        letters = torch.from_numpy(rng.random((height, width)) < 0.5)
        level[j : j + height, i : i + width][letters] = bright
