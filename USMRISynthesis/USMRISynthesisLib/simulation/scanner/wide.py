"""The ultrasound well beyond the head: what the alignment learns from, for it meets heads in any pose and any crop.

The canonical box ends 4 mm before and behind the head; a probe's volume does not. Tissue beyond the box is the
box's border going on. Coarser than the canonical grid, because the alignment uses cells of 1.75 mm and more.
"""

from __future__ import annotations

import numpy as np
import torch

from USMRISynthesisLib.simulation.scanner.volume import Acquisition

SIZE = 96
SPACING_MM = 1.6
# Points a cell along each axis that are averaged: a coarse cell must not alias the speckle.
_FINER = 2
_SLAB = 8


def wide_ijk_to_canonical() -> np.ndarray:
    """(4, 4): the wide grid's voxels to canonical mm; its middle is the canonical origin, its side 153.6 mm."""
    matrix = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
    matrix[:3, 3] = -SPACING_MM * (SIZE - 1) / 2
    return matrix


def wide_volume(acquisition: Acquisition) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The sweep on a wide grid around the head.

    Returns:
        us (96, 96, 96) uint8, each voxel the mean over itself; fan (96, 96, 96) bool; ijk_to_canonical (4, 4).
    """
    fine = torch.from_numpy((np.arange(SIZE * _FINER) + 0.5) * (SPACING_MM / _FINER)).float() - SIZE * SPACING_MM / 2
    us = np.empty((SIZE, SIZE, SIZE), dtype=np.uint8)
    fan = np.empty((SIZE, SIZE, SIZE), dtype=bool)
    for first in range(0, SIZE, _SLAB):  # whole, the points alone would take 85 MB
        z, y, x = torch.meshgrid(fine[first * _FINER : (first + _SLAB) * _FINER], fine, fine, indexing="ij")
        values, inside = acquisition.scan_convert(torch.stack((x, y, z), dim=-1))
        share = _mean(inside.astype(np.float32))
        mean = _mean(np.where(inside, values, 0).astype(np.float32)) / np.maximum(share, 1e-6)
        seen = share >= 0.5
        us[first : first + _SLAB] = np.where(seen, np.rint(mean), 0).astype(np.uint8)
        fan[first : first + _SLAB] = seen
    return us, fan, wide_ijk_to_canonical()


def _mean(values: np.ndarray) -> np.ndarray:
    """(2k, 2j, 2i) -> (k, j, i)."""
    k, j, i = (n // _FINER for n in values.shape)
    return np.asarray(values.reshape(k, _FINER, j, _FINER, i, _FINER).mean(axis=(1, 3, 5)))
