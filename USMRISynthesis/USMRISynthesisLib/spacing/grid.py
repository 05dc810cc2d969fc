"""Which axis the slices are stacked along, whether they are thick, and the grid of the thinner ones.

Axes are named by the voxel index that counts along them: "i", "j", "k". A volume's array is (k, j, i), so axis "k" is
the array's axis 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.spacing.profile import MAX_FACTOR, MIN_FACTOR

AXES = ("i", "j", "k")
MIN_SLICES = 4
MIN_PIXELS = 16
_ROUNDING = 1.02  # a factor may miss the limits by what whole slices over a fixed extent cost


@dataclass(frozen=True)
class Plan:
    """From the thick grid to the thin one.

    axis: of the array (k, j, i), along which the slices are stacked. thick, fine: number of slices before and after.
    spacing_mm: between slices, before and after; the second is the requested one, adjusted so that the extent is kept.
    """

    axis: int
    thick: int
    fine: int
    spacing_mm: tuple[float, float]

    @property
    def name(self) -> str:
        """The axis as a user names it."""
        return AXES[2 - self.axis]

    @property
    def factor(self) -> float:
        """Thin slices in a thick one."""
        return self.fine / self.thick

    def ijk_to_ras(self, before: np.ndarray) -> np.ndarray:
        """(4, 4) of the thin grid: same directions, same extent edge to edge, whatever the affine."""
        column = 2 - self.axis
        after = before.copy()
        after[:3, column] = before[:3, column] / self.factor
        after[:3, 3] = before[:3, 3] + before[:3, column] * (0.5 / self.factor - 0.5)
        return after


def plan(volume: Volume, spacing: float | None = None, axis: str | None = None) -> Plan:
    """Decide on axis and slices.

    Args:
        volume: a stack of thick slices, stacked along any axis.
        spacing: mm between the slices afterwards; by default the smaller pixel side, or a sixth of what it was.
        axis: "i", "j" or "k", along which the slices are stacked; by default the one with the largest voxel side.

    Raises:
        Refused: a single slice or too few, nearly isotropic voxels, an axis along which the slices are not thick, a
            factor outside 1.5-6.
    """
    sides = volume.spacing
    if axis is not None and axis not in AXES:
        raise Refused("axis", f"There is no axis {axis!r}.", "Choose i, j or k, or leave the axis out.")
    if min(volume.shape) == 1:
        raise Refused(
            "2d",
            "The image is a single slice: there is nothing between its slices to fill in.",
            "Choose a volume of several slices.",
        )
    thickest = max(AXES, key=lambda name: sides[AXES.index(name)])
    finest = min(sides)
    listed = ", ".join(f"{name} {side:.3g}" for name, side in zip(AXES, sides, strict=True))
    if max(sides) < MIN_FACTOR * finest / _ROUNDING:
        raise Refused(
            "isotropic",
            f"The voxels are isotropic already, or nearly (mm: {listed}).",
            f"Choose a volume whose slices lie at least {MIN_FACTOR:g} times as far apart as its pixels.",
        )
    chosen = axis or thickest
    thick_mm = sides[AXES.index(chosen)]
    others = [side for name, side in zip(AXES, sides, strict=True) if name != chosen]
    if (chosen != thickest and thick_mm < MIN_FACTOR * min(others)) or thick_mm < max(others):
        raise Refused(
            "axis",
            f"Along the axis {chosen} the voxels are not thick (mm: {listed}).",
            f"Choose the axis {thickest}, or leave the axis out.",
        )
    if max(others) > MIN_FACTOR * finest and max(others) > 0.8 * thick_mm:
        raise Refused(
            "axis",
            f"The voxels are thick along two axes (mm: {listed}), so that no slice is sharp.",
            "Choose the volume as it was acquired, before it was resampled.",
        )
    position = 2 - AXES.index(chosen)
    slices = volume.shape[position]
    if slices < MIN_SLICES:
        raise Refused(
            "slices",
            f"There are only {slices} slices along {chosen}.",
            f"Choose a volume of at least {MIN_SLICES} slices.",
        )
    if min(n for a, n in enumerate(volume.shape) if a != position) < MIN_PIXELS:
        raise Refused("size", f"The slices are smaller than {MIN_PIXELS} pixels.", "Choose a larger volume.")
    wanted = max(min(others), thick_mm / MAX_FACTOR) if spacing is None else float(spacing)
    return Plan(position, slices, _fine(slices, thick_mm, wanted), (thick_mm, _after(slices, thick_mm, wanted)))


def _fine(slices: int, thick_mm: float, wanted: float) -> int:
    """The number of thin slices over the same extent."""
    if not (np.isfinite(wanted) and wanted > 0):
        raise Refused("spacing", "The spacing must be a positive number of millimetres.", "Correct the spacing.")
    factor = thick_mm / wanted
    if not MIN_FACTOR / _ROUNDING <= factor <= MAX_FACTOR * _ROUNDING:
        fault = "coarse" if factor < MIN_FACTOR else "fine"
        raise Refused(
            "spacing",
            f"A spacing of {wanted:.3g} mm is too {fault} for slices {thick_mm:.3g} mm apart.",
            f"Choose one from {thick_mm / MAX_FACTOR:.3g} to {thick_mm / MIN_FACTOR:.3g} mm.",
        )
    return round(slices * factor)


def _after(slices: int, thick_mm: float, wanted: float) -> float:
    return slices * thick_mm / _fine(slices, thick_mm, wanted)


def stacked(array: np.ndarray, axis: int) -> np.ndarray:
    """(k, j, i) -> (slices, h, w), a view."""
    return np.moveaxis(array, axis, 0)


def unstacked(slices: np.ndarray, axis: int) -> np.ndarray:
    """(slices, h, w) -> (k, j, i), contiguous."""
    return np.ascontiguousarray(np.moveaxis(slices, 0, axis))
