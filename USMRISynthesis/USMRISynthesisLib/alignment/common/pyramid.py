"""Sampling of cubes and squares from an image for the networks: any position, orientation and size (torch).

The image is normalised once and kept at several resolutions, each half of the one before, so that coarse cells are
means over what they cover and a cube costs the same whatever the file's voxels are.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.ultrasound.intensity import robust_range

# Cells along the largest side of the finest level: the finest cube of the networks has 64.
_FINEST = 168
# This many voxels give the percentiles of the image.
_ENOUGH = 500_000
# A 3D cube is sampled in slabs of so many cells, because torch gives whole samples to its threads.
_SLAB = 8


class Pyramid:
    """An admitted image, ready to be sampled.

    Attributes:
        dimensions: 3, or 2 for a frame.
        centre: (n,) of the fan in its own world, mm; extent: its largest side there.

    The world of a volume is RAS; that of a frame is its plane: mm along rows and columns from the first pixel.
    """

    def __init__(self, volume: Volume, fan: np.ndarray) -> None:
        self.dimensions = 2 if volume.is_frame else 3
        array, mask = (volume.array[0], fan[0]) if volume.is_frame else (volume.array, fan)
        self.array_to_world = plane_of(volume)[1] if volume.is_frame else volume.ijk_to_ras
        n = self.dimensions
        steps = np.linalg.norm(self.array_to_world[:n, :n], axis=0)[::-1]  # a voxel along (k,) j, i
        wanted = float((steps * array.shape).max()) / _FINEST
        self._bins = [max(1, round(float(wanted / step))) for step in steps]
        several = int((array.size / _ENOUGH) ** (1 / n))
        part = tuple(slice(None, None, max(1, b, several)) for b in self._bins)
        low, high = robust_range(array[part], mask[part])
        if array.dtype.kind == "u":  # 8 bits stay 8 bits
            low, high = round(low), round(high)
        self._range = (low, max(high - low, 1e-6))
        self._array, self._mask = np.clip(array, low, max(low, high)), mask
        self._levels: dict[int, tuple[Tensor, np.ndarray]] = {}
        corners = _corners(mask)
        places = corners @ self.array_to_world[:n, :n].T + self.array_to_world[:n, n]
        self.centre = (places.max(axis=0) + places.min(axis=0)) / 2
        self.extent = float(np.ptp(places, axis=0).max())
        self._voxel = steps[::-1]

    def _level(self, number: int) -> tuple[Tensor, np.ndarray]:
        """Level 0 is the finest, each further one half of it: (2, ...) image times share of the fan, and that share;
        and how many voxels (n,) one cell is, x first. Computed on first use: the finest is rarely needed."""
        if number not in self._levels:
            if number < 2:
                bins = [b * 2**number for b in self._bins]
                low, spread = self._range
                total, share = _binned(self._array, self._mask, bins)
                total -= np.float32(low) * share
                total *= np.float32(1 / spread)
                self._levels[number] = torch.from_numpy(np.stack([total, share])), np.array(bins[::-1], dtype=float)
            else:
                stack, factor = self._level(number - 1)
                pool = F.avg_pool3d if self.dimensions == 3 else F.avg_pool2d
                self._levels[number] = pool(stack[None], 2)[0], factor * 2
        return self._levels[number]

    def _exists(self, number: int) -> bool:
        """Whether there is such a level: the one before it has 16 cells along every side."""
        return min(size // (b * 2 ** (number - 1)) for size, b in zip(self._array.shape, self._bins, strict=True)) >= 16

    def cut(self, unit_to_world: np.ndarray, size: int) -> Tensor:
        """(1, 1, size, ...) in [-1, 1], -1 outside the fan.

        Args:
            unit_to_world: (n + 1, n + 1), the cube's own coordinates, -1 and 1 at its faces, to world mm.
            size: cells along its side.
        """
        n = self.dimensions
        cell = float(np.linalg.norm(unit_to_world[:n, 0])) * 2 / size
        level, finest = 0, float((np.array(self._bins[::-1]) * self._voxel).max())
        while self._exists(level + 1) and finest * 2 ** (level + 1) <= 1.25 * cell:
            level += 1
        stack, factor = self._level(level)
        shape = np.array(stack.shape[1:][::-1], dtype=float)
        # A cell's index in the array to the level's own -1..1: its faces lie half a voxel outside the first and last.
        to_unit = np.eye(n + 1)
        to_unit[:n, :n] = np.diag(2 / (shape * factor))
        to_unit[:n, n] = 1 / (shape * factor) - 1
        theta = to_unit @ np.linalg.inv(self.array_to_world) @ unit_to_world
        slabs = size // _SLAB if n == 3 and size % _SLAB == 0 else 1
        where = _places(theta[:n], size).reshape(slabs, size // slabs, *[size] * (n - 1), n)
        found = F.grid_sample(stack.expand(slabs, *stack.shape), where, align_corners=False)
        image, share = found.transpose(0, 1).reshape(2, *[size] * n)
        value = (image / share.clamp_min(1e-6)).mul_(2).sub_(1).masked_fill_(share <= 0.5, -1.0)
        return value[None, None]


@functools.lru_cache(maxsize=8)
def _cells(n: int, size: int) -> Tensor:
    """(size ** n, n + 1): the coordinates x, y(, z), 1 of a cube's cells, -1 and 1 at its faces."""
    axis = (torch.arange(size, dtype=torch.float32, device="cpu") + 0.5) * (2 / size) - 1
    along = torch.meshgrid(*[axis] * n, indexing="ij")[::-1]
    return torch.stack([*along, torch.ones_like(along[0])], dim=-1).reshape(-1, n + 1)


def _places(theta: np.ndarray, size: int) -> Tensor:
    """(size ** n, n): where theta (n, n + 1) brings the cells of a cube; `affine_grid`, in a third of the time."""
    return _cells(len(theta), size) @ torch.from_numpy(theta.astype(np.float32)).T


def plane_of(volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    """A frame's plane: `plane_to_ras` (4, 4), orthonormal, from mm along rows and columns and away from the plane;
    and `ij_to_plane` (3, 3)."""
    along = volume.ijk_to_ras[:3, 0] / np.linalg.norm(volume.ijk_to_ras[:3, 0])
    normal = np.cross(along, volume.ijk_to_ras[:3, 1])
    normal /= np.linalg.norm(normal)
    to_ras = np.eye(4)
    to_ras[:3, :3] = np.column_stack([along, np.cross(normal, along), normal])
    to_ras[:3, 3] = volume.ijk_to_ras[:3, 3]
    inverse = np.linalg.inv(to_ras) @ volume.ijk_to_ras
    return to_ras, inverse[np.ix_([0, 1, 3], [0, 1, 3])]


def _corners(mask: np.ndarray) -> np.ndarray:
    """Corners (2**n, n) of the box around what is True, x first; of the whole where nothing is."""
    ends = []
    for axis in range(mask.ndim):
        seen = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        ends.append((seen[0], seen[-1]) if len(seen) else (0, mask.shape[axis] - 1))
    return np.stack(np.meshgrid(*ends[::-1], indexing="ij"), axis=-1).reshape(-1, mask.ndim).astype(np.float64)


def _binned(array: np.ndarray, mask: np.ndarray, bins: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Sums over blocks of voxels inside the fan, over a block's size, and the fan's share of each block; float32."""
    size = float(np.prod(bins))
    # 8-bit voxels are summed as whole numbers: half the memory, twice the speed.
    exact = array.dtype == np.uint8 and size * 255 < 2**16
    total = _summed(np.where(mask, array, array.dtype.type(0)), bins, np.uint16 if exact else np.float32)
    share = _summed(mask, bins, np.uint16)
    return total * np.float32(1 / size), share * np.float32(1 / size)


def _summed(array: np.ndarray, bins: list[int], dtype: type) -> np.ndarray:
    """Sums over blocks, one axis after the other; what does not fill a block at the far end is left out."""
    for axis, count in enumerate(bins):
        if count == 1:
            continue
        whole = array.shape[axis] // count * count
        parts = [array[(slice(None),) * axis + (slice(first, whole, count),)] for first in range(count)]
        array = parts[0].astype(dtype)
        for part in parts[1:]:
            array += part
    return array.astype(dtype, copy=False)
