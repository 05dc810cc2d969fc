"""From the canonical grid to the atlas: pose, head shape, ventricle and cerebellum size, and random warps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from USMRISynthesisLib.geometry.canonical import HEAD_LENGTH_MM, SIZE, SPACING_MM
from USMRISynthesisLib.simulation.anatomy.atlas import Atlas
from USMRISynthesisLib.simulation.anatomy.flow import cerebellum_of, displacement, shift_for, swelling, ventricles_of
from USMRISynthesisLib.simulation.anatomy.warp import (
    canonical_points,
    rotation_matrix,
    sample_channels,
    smooth_displacement,
    spline_field,
)

MASS_SWELLING = 1.4
_COARSE = 80  # samples along an axis of the flow's displacement, which is smooth over 2 mm


@dataclass(frozen=True, eq=False)
class Frame:
    """Where each canonical voxel lies in the atlas.

    x, y, z: atlas mm on the canonical grid (k, j, i).  scale: canonical mm per physical mm.  low, high: corners
    of the brain hull in atlas mm.  linear: canonical mm -> atlas mm without the warps, with centre and shift.
    """

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    scale: float
    low: np.ndarray
    high: np.ndarray
    linear: np.ndarray
    centre: np.ndarray
    shift: np.ndarray

    @property
    def size(self) -> np.ndarray:
        """Extents (3,) of the brain hull in atlas mm."""
        return np.asarray(self.high - self.low)

    def box(self, centre: np.ndarray, reach: np.ndarray | float, margin_mm: float = 9.0) -> tuple[slice, slice, slice]:
        """Voxels that hold everything within `reach` (atlas mm) of a place, whatever the warps (< margin) did."""
        place = np.linalg.solve(self.linear, centre - self.centre) + self.shift
        half = float(np.max(reach)) / min(np.linalg.svd(self.linear)[1]) + margin_mm
        low = np.clip(np.floor((place - half) / SPACING_MM + (SIZE - 1) / 2), 0, SIZE - 1).astype(int)
        high = np.clip(np.ceil((place + half) / SPACING_MM + (SIZE - 1) / 2) + 1, low + 1, SIZE).astype(int)
        i, j, k = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        return k, j, i

    def ellipsoid(self, centre: np.ndarray, half: np.ndarray, box: tuple[slice, ...] | None = None) -> np.ndarray:
        """Sum of squares of the normalised offset within the box: < 1 inside."""
        total: np.ndarray | None = None
        for axis, c, h in zip((self.x, self.y, self.z), centre, half, strict=True):
            offset = (axis if box is None else axis[box]) - np.float32(c)
            offset *= np.float32(1 / h)
            offset *= offset
            total = offset if total is None else total + offset
        assert total is not None
        return total


def deform(
    atlas: Atlas,
    rng: np.random.Generator,
    draw: dict[str, float],
    pose_deg: float,
    pose_mm: float,
    mass: tuple[np.ndarray, np.ndarray] | None = None,
) -> Frame:
    """Draw the map of one head.  mass: centre and radii in atlas mm of what swells."""
    pose = rotation_matrix(rng.uniform(-pose_deg, pose_deg, 3))
    shift = rng.uniform(-pose_mm, pose_mm, 3)
    inside = np.argwhere(atlas.hull_distance < draw["gap_mm"] + draw["skull_mm"])
    low, high = atlas.ras(inside.min(0))[0], atlas.ras(inside.max(0))[0]
    centre = (low + high) / 2
    scale = HEAD_LENGTH_MM / float(high[1] - low[1]) * draw["pose_scale"]
    stretch = np.array([draw["width_factor"], 1.0, draw["height_factor"]]) * scale
    linear = np.diag(1 / stretch) @ pose.T

    points = canonical_points()
    points += smooth_displacement(rng, SIZE, 13.0, draw["fine_warp_mm"])
    points += smooth_displacement(rng, SIZE, 34.0, draw["coarse_warp_mm"])
    points -= torch.from_numpy(shift).float()
    points = points @ torch.from_numpy(linear.T).float() + torch.from_numpy(centre).float()

    grid = ventricles_of(atlas).grid
    moved = displacement(grid, _velocity(atlas, rng, draw, mass))
    by_axis = points.permute(3, 0, 1, 2).contiguous()
    coarse = functional.interpolate(by_axis[None], size=(_COARSE,) * 3, mode="trilinear", align_corners=True)[0]
    flow = sample_channels(moved, grid.ijk_to_ras, coarse.permute(1, 2, 3, 0), (0.0, 0.0, 0.0))
    by_axis += functional.interpolate(flow[None], size=(SIZE,) * 3, mode="trilinear", align_corners=True)[0]
    x, y, z = by_axis.numpy()
    hull = atlas.ras(np.argwhere(atlas.hull_distance < 0))
    return Frame(x, y, z, scale, hull.min(0), hull.max(0), linear, centre, shift)


def _velocity(
    atlas: Atlas,
    rng: np.random.Generator,
    draw: dict[str, float],
    mass: tuple[np.ndarray, np.ndarray] | None,
) -> np.ndarray:
    """Velocity (3, k, j, i) that gives the wanted atria and cerebellum."""
    ventricles = ventricles_of(atlas)
    grid = ventricles.grid
    left = shift_for(ventricles, -1, draw["atrium_left_mm"] / draw["width_factor"])
    right = shift_for(ventricles, 1, draw["atrium_right_mm"] / draw["width_factor"])
    side = np.tanh(grid.points[..., 0] / 5)
    shift = (left + right) / 2 + (right - left) / 2 * side
    # the horns vary apart from the atria, which keep the width that was drawn
    away = np.zeros(side.shape, np.float32)
    if ventricles.atria:
        nearest = [((grid.points - place.astype(np.float32)) ** 2).sum(-1) for place in ventricles.atria.values()]
        away = 1 - np.exp(-np.minimum.reduce(nearest) / (2 * 12.0**2))
    noise = spline_field(np.clip(rng.standard_normal((5, 5, 5)), -2, 2), max(side.shape))
    noise = noise[tuple(slice(n) for n in side.shape)]
    velocity = ventricles.normal * (shift + 1.2 * away * noise)
    cerebellum = cerebellum_of(atlas)
    if cerebellum is not None:
        place, half = cerebellum
        factor = draw["cerebellum_mm"] / ((2 * half[0] - 1.6) * draw["width_factor"])  # labels round outwards
        draw["cerebellum_factor"] = float(np.clip(factor, 0.9, 1.6))
        # the outline lies where the flow begins to die out: it needs more to come out right
        velocity += swelling(grid, place, half, draw["cerebellum_factor"] ** 1.5)
        lift = np.exp(-(((grid.points - place.astype(np.float32)) / (1.3 * half + 4)) ** 2).sum(-1) / 2)
        velocity[2] -= draw["cerebellum_lift_mm"] * lift
    if mass is not None:
        velocity += swelling(grid, mass[0], mass[1], MASS_SWELLING)
    return np.asarray(velocity, np.float32)
