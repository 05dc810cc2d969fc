"""Smooth, invertible deformations of the canonical grid, as backward maps in mm (torch, CPU)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from USMRISynthesisLib.geometry.canonical import SIZE, SPACING_MM

_HALF_EXTENT_MM = (SIZE - 1) / 2 * SPACING_MM


def canonical_points(size: int = SIZE) -> torch.Tensor:
    """World positions (size, size, size, 3) in canonical mm (x right, y anterior, z superior)."""
    axis = torch.linspace(-_HALF_EXTENT_MM, _HALF_EXTENT_MM, size)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return torch.stack((x, y, z), dim=-1)


def spline_field(control: np.ndarray, size: int) -> np.ndarray:
    """Uniform cubic B-spline field (size, size, size) of a control grid (n, n, n), separable per axis."""
    nodes = control.shape[0]
    position = np.linspace(0, nodes - 1, size)[:, None] - np.arange(nodes)[None, :]
    distance = np.abs(position)
    basis = np.where(distance < 1, 2 / 3 - distance**2 + distance**3 / 2, np.clip(2 - distance, 0, None) ** 3 / 6)
    basis /= basis.sum(axis=1, keepdims=True)
    return np.asarray(np.einsum("za,yb,xc,abc->zyx", basis, basis, basis, control, optimize=True), dtype=np.float32)


def smooth_displacement(rng: np.random.Generator, size: int, spacing_mm: float, amplitude_mm: float) -> torch.Tensor:
    """A random displacement (size, size, size, 3) in mm on a cubic B-spline control grid.

    The control values are bounded by 0.4 of the control spacing, the known bound below which a cubic
    B-spline map cannot fold (Choi & Lee 2000).
    """
    nodes = max(4, round(2 * _HALF_EXTENT_MM / spacing_mm) + 1)
    bound = min(1.8 * amplitude_mm, 0.4 * spacing_mm)
    control = np.clip(rng.standard_normal((3, nodes, nodes, nodes)) * amplitude_mm, -bound, bound)
    return torch.from_numpy(np.stack([spline_field(c, size) for c in control], axis=-1))


def combine(points: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """matrix (3, 3) times each point (..., 3), by plain sums: a library's product may differ in the last bit from
    call to call, and the same seed must give the same bytes."""
    x, y, z = points.unbind(-1)
    return torch.stack([x * row[0] + y * row[1] + z * row[2] for row in matrix], dim=-1)


def sample(array: np.ndarray, ijk_to_ras: np.ndarray, points: torch.Tensor, outside: float = 0.0) -> torch.Tensor:
    """Trilinear values of `array` (k, j, i) at world `points` (..., 3) in mm; `outside` beyond the grid."""
    return sample_channels(array[None], ijk_to_ras, points, (outside,))[0]


def sample_channels(
    arrays: np.ndarray, ijk_to_ras: np.ndarray, points: torch.Tensor, outside: Sequence[float] | None = None
) -> torch.Tensor:
    """Several arrays (c, k, j, i) of one grid at once: (c, ...).

    `outside` has one value a channel for places beyond the grid; without it the border goes on.
    """
    inverse = torch.from_numpy(np.linalg.inv(ijk_to_ras)).to(points.dtype)
    extent = torch.tensor(arrays.shape[:0:-1], dtype=points.dtype) - 1
    scale = 2 / extent
    linear, offset = inverse[:3, :3] * scale[:, None], inverse[:3, 3] * scale - 1
    grid = (combine(points.reshape(-1, 3), linear) + offset).reshape(1, 1, 1, -1, 3)
    source = torch.from_numpy(np.ascontiguousarray(arrays, dtype=np.float32))
    beyond = torch.zeros(len(arrays)) if outside is None else torch.tensor(list(outside), dtype=torch.float32)
    values = functional.grid_sample(
        (source - beyond[:, None, None, None])[None],
        grid,
        mode="bilinear",
        padding_mode="border" if outside is None else "zeros",
        align_corners=True,
    )
    return values.reshape(arrays.shape[0], *points.shape[:-1]) + beyond.reshape(-1, *[1] * (points.ndim - 1))


def rotation_matrix(angles_deg: np.ndarray) -> np.ndarray:
    """Rotation (3, 3) by angles about x, then y, then z."""
    a, b, c = np.deg2rad(angles_deg)
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rz = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return np.asarray(rz @ ry @ rx)
