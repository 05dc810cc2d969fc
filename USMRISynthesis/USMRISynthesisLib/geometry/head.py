"""The result of an alignment, and the inside of the outer skull on any grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from USMRISynthesisLib.geometry.canonical import SIZE, canonical_ijk_to_ras


@dataclass(frozen=True, eq=False)
class Alignment:
    """Where the head lies.

    Attributes:
        ras_to_canonical: (4, 4), RAS mm to canonical mm; a similarity, or what was given.
        centre: (3,) of the outer skull's ellipsoid, canonical mm.
        semi_axes: (3,) along R, A, S, canonical mm. A frame's ellipse has 0 as the third.
        rotation: (3, 3), columns are the directions of the semi-axes.
        score: 0-1, the confidence; below ``MIN_CONFIDENCE`` the alignment is not reliable.
        method: "given", "network", "ellipse" or "ellipsoid".
        doubt: a sentence for the user on what may be wrong with the outline, or nothing.
    """

    ras_to_canonical: np.ndarray
    centre: np.ndarray
    semi_axes: np.ndarray
    rotation: np.ndarray
    score: float
    method: str
    doubt: str = ""

    def head_mask(self, z_mm: np.ndarray) -> np.ndarray:
        """Inside of the outer skull on canonical slices.

        Args:
            z_mm: (K,), the slices' places. For a frame's ellipse they do not matter.

        Returns:
            (K, 160, 160) bool.
        """
        grid = canonical_ijk_to_ras()
        return self._inside(grid, SIZE, SIZE, (np.asarray(z_mm, dtype=np.float64) - grid[2, 3]) / grid[2, 2])

    def head_on(self, ijk_to_ras: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Inside of the outer skull on any grid.

        Args:
            ijk_to_ras: (4, 4), the grid in RAS mm; shape: (k, j, i).

        Returns:
            (k, j, i) bool.
        """
        return self._inside(self.ras_to_canonical @ ijk_to_ras, shape[2], shape[1], np.arange(shape[0]))

    def _inside(self, to_canonical: np.ndarray, columns: int, rows: int, k: np.ndarray) -> np.ndarray:
        """(len(k), rows, columns) bool: a row of voxels enters an ellipsoid once and leaves it once."""
        n = 3 if self.semi_axes[2] > 0 else 2  # of a frame's ellipse the place along z does not matter
        to_unit = (self.rotation[:n, :n] / self.semi_axes[:n]).T
        along, across, through = (to_unit @ to_canonical[:n, axis] for axis in range(3))
        first = to_unit @ (to_canonical[:n, 3] - self.centre[:n])
        starts = first + across * np.arange(rows)[:, None] + (through * k[:, None])[:, None]  # (k, j, n), where i is 0
        middle = -starts @ along / (along @ along)
        left = middle**2 - ((starts**2).sum(axis=-1) - 1) / (along @ along)
        half = np.sqrt(np.maximum(left, 0))
        enters = np.where(left >= 0, np.ceil(middle - half), columns).clip(-1, columns).astype(np.int16)
        leaves = np.where(left >= 0, np.floor(middle + half), -1).clip(-1, columns).astype(np.int16)
        at = np.arange(columns, dtype=np.int16)
        return np.asarray((at >= enters[..., None]) & (at <= leaves[..., None]))
