"""Cutting cubes and squares out of an image for the network: any place, any direction, any size (torch).

The image is normalised once and kept at several resolutions, each half of the one before, so that coarse cells are
means over what they cover and a cube costs the same whatever the file's voxels are.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from USMRISynthesisLib.synthesis.intensity import robust_range
from USMRISynthesisLib.volume import Volume

# Cells along the largest side of the finest level: the finest cube that the network sees has 64.
_FINEST = 168


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
        bins = [max(1, round(float(wanted / step))) for step in steps]
        low, high = robust_range(array, mask)
        image, share = _binned(array, mask, bins)
        image = np.clip((image - low) * np.float32(1 / max(high - low, 1e-6)), 0, 1)
        self._levels = [(torch.from_numpy(np.stack([image * share, share])), np.array(bins[::-1], dtype=float))]
        while min(self._levels[-1][0].shape[1:]) >= 16:
            stack, factor = self._levels[-1]
            pool = F.avg_pool3d if n == 3 else F.avg_pool2d
            self._levels.append((pool(stack[None], 2)[0], factor * 2))
        edge = np.argwhere(share > 0.5)[:, ::-1]
        corners = edge * np.array(bins[::-1]) + (np.array(bins[::-1]) - 1) / 2
        places = corners @ self.array_to_world[:n, :n].T + self.array_to_world[:n, n]
        if not len(places):
            places = np.zeros((1, n))
        self.centre = (places.max(axis=0) + places.min(axis=0)) / 2
        self.extent = float(np.ptp(places, axis=0).max())
        self._voxel = steps[::-1]

    def cut(self, unit_to_world: np.ndarray, size: int) -> Tensor:
        """(1, 1, size, ...) in [-1, 1], -1 outside the fan.

        Args:
            unit_to_world: (n + 1, n + 1), the cube's own coordinates, -1 and 1 at its faces, to world mm.
            size: cells along its side.
        """
        n = self.dimensions
        cell = float(np.linalg.norm(unit_to_world[:n, 0])) * 2 / size
        level = 0
        while level + 1 < len(self._levels) and (self._levels[level + 1][1] * self._voxel).max() <= 1.25 * cell:
            level += 1
        stack, factor = self._levels[level]
        shape = np.array(stack.shape[1:][::-1], dtype=float)
        # A cell's index in the array to the level's own -1..1: its faces lie half a voxel outside the first and last.
        to_unit = np.eye(n + 1)
        to_unit[:n, :n] = np.diag(2 / (shape * factor))
        to_unit[:n, n] = 1 / (shape * factor) - 1
        theta = to_unit @ np.linalg.inv(self.array_to_world) @ unit_to_world
        where = F.affine_grid(torch.from_numpy(theta[None, :n].astype(np.float32)), [1, 2, *[size] * n],
                              align_corners=False)
        image, share = F.grid_sample(stack[None], where, align_corners=False)[0]
        inside = share > 0.5
        value = image / share.clamp_min(1e-6) * 2 - 1
        return torch.where(inside, value, value.new_tensor(-1.0))[None, None]


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


def _binned(array: np.ndarray, mask: np.ndarray, bins: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Means over blocks of voxels inside the fan, and the fan's share of each block, both float32."""
    shape = [size // b for size, b in zip(array.shape, bins, strict=True)]
    part = tuple(slice(0, s * b) for s, b in zip(shape, bins, strict=True))
    if max(bins) == 1:
        return array.astype(np.float32), mask.astype(np.float32)
    split = [v for s, b in zip(shape, bins, strict=True) for v in (s, b)]
    axes = tuple(range(1, 2 * array.ndim, 2))
    inside = mask[part].reshape(split)
    share = inside.mean(axis=axes, dtype=np.float32)
    total = np.where(inside, array[part].reshape(split), 0).mean(axis=axes, dtype=np.float32)
    return total / np.maximum(share, 1e-6), share
