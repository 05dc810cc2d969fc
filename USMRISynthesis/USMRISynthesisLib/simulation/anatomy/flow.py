"""Smooth invertible maps of the atlas: the flow of one stationary velocity field (scaling and squaring).

It narrows or widens the ventricles to a wanted atrial width and swells the cerebellum or a mass.  All lengths
are atlas mm, all maps are backward: where in the atlas an output place is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy import ndimage

from USMRISynthesisLib.simulation.anatomy.atlas import Atlas
from USMRISynthesisLib.simulation.anatomy.labels import CEREBELLUM, EXTERNAL_CSF, VENTRICLES
from USMRISynthesisLib.simulation.anatomy.warp import sample_channels

_COARSE = 2  # the velocities are smooth over 3 mm: half the atlas's resolution carries them
_SMOOTHING_MM = 2.4
_REACH_MM = 7.0
_MEDIAL_SHARE = 0.5
_STILL_MM = 6.0  # below the pia, where the flow dies out: the brain's outline stays
_SQUARINGS = 5
_STEPS = 16
SHIFTS_MM = np.linspace(-10, 22, 33)


@dataclass(frozen=True, eq=False)
class Grid:
    """The coarse grid of a velocity field: world points (k, j, i, 3) and its matrix."""

    points: np.ndarray
    ijk_to_ras: np.ndarray


@dataclass(frozen=True, eq=False)
class Ventricles:
    """normal: velocity (3, k, j, i) that moves the wall by about 1 mm; atria: {side: deepest place (3,)};
    widths: {side: atrial width in atlas mm for each of SHIFTS_MM}."""

    grid: Grid
    normal: np.ndarray
    atria: dict[int, np.ndarray]
    widths: dict[int, np.ndarray]


@lru_cache(maxsize=3)
def ventricles_of(atlas: Atlas) -> Ventricles:
    """The velocity along the ventricles' normal, and how wide the atria become for each shift."""
    distance = atlas.ventricle_distance
    gradient = np.stack(np.gradient(distance, *np.abs(np.diag(atlas.ijk_to_ras)[:3])[::-1]))[::-1]
    normal = gradient * np.sign(np.diag(atlas.ijk_to_ras)[:3])[:, None, None, None]
    field = normal / (np.linalg.norm(normal, axis=0) + 0.1) * np.exp(-((distance / _REACH_MM) ** 2) / 2)
    sigma = _SMOOTHING_MM / np.abs(np.diag(atlas.ijk_to_ras)[:3])[::-1]
    # a normal atrium lies against the medial wall: its lateral wall moves, and the gap between the lobes stays
    x = atlas.ijk_to_ras[0, 3] + atlas.ijk_to_ras[0, 0] * np.arange(distance.shape[2])
    field *= _inside(atlas)
    field[0] *= np.where(field[0] * np.sign(x) < 0, _MEDIAL_SHARE, 1.0) * np.tanh(np.abs(x) / 5)
    smooth = np.stack([ndimage.gaussian_filter(component, sigma) for component in field])
    coarse = np.ascontiguousarray(smooth[:, ::_COARSE, ::_COARSE, ::_COARSE], dtype=np.float32)
    matrix = atlas.ijk_to_ras @ np.diag([_COARSE, _COARSE, _COARSE, 1.0])
    index = np.stack(np.meshgrid(*(np.arange(n) for n in coarse.shape[1:]), indexing="ij")[::-1], axis=-1)
    grid = Grid((index @ matrix[:3, :3].T + matrix[:3, 3]).astype(np.float32), matrix)
    found = {}
    for side in (-1, 1):
        atrium = _atrium(atlas, side)
        if atrium is not None:
            found[side] = atrium
    widths = {side: _widths(atlas, grid, coarse, place) for side, place in found.items()}
    return Ventricles(grid, coarse, found, widths)


def _inside(atlas: Atlas) -> np.ndarray:
    """0 at the brain's surface, 1 from _STILL_MM below it."""
    step = _COARSE
    spacing = np.abs(np.diag(atlas.ijk_to_ras)[:3])[::-1] * step
    labels = atlas.labels[::step, ::step, ::step]
    depth = ndimage.distance_transform_edt((labels > 0) & (labels != EXTERNAL_CSF), sampling=spacing)
    fine = np.clip(depth / _STILL_MM, 0, 1).astype(np.float32)
    for axis, size in enumerate(atlas.labels.shape):
        fine = fine.repeat(step, axis).take(np.arange(size), axis)
    return fine


def _atrium(atlas: Atlas, side: int) -> np.ndarray | None:
    """The deepest place of the posterior lateral ventricle on one side."""
    index = np.argwhere(atlas.labels == VENTRICLES)
    ras = atlas.ras(index)
    brain = atlas.ras(np.argwhere(atlas.labels > 0)[::37])
    low, high = brain.min(0), brain.max(0)
    # the atrium, not the occipital horn: between 18 and 45 % of the brain's length from behind
    along = (ras[:, 1] - low[1]) / (high[1] - low[1])
    keep = (ras[:, 0] * side > 4) & (along > 0.18) & (along < 0.45)
    if keep.sum() < 20:
        return None
    index, ras = index[keep], ras[keep]
    return np.asarray(ras[int(np.argmin(atlas.ventricle_distance[tuple(index.T)]))])


def _widths(atlas: Atlas, grid: Grid, velocity: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Width across the atrium, from a near place of one wall to one of the other, after each of SHIFTS_MM."""
    rays = np.stack([[np.cos(a), np.sin(a) * 0.5, np.sin(a) * 0.3] for a in np.linspace(-0.7, 0.7, 15)])
    rays = np.concatenate((rays, -rays)) / np.linalg.norm(np.concatenate((rays, rays)), axis=1, keepdims=True)
    steps = np.arange(0.0, 25.0, 0.2)
    along = torch.from_numpy((place + steps[:, None, None] * rays).astype(np.float32))
    depth = sample_channels(atlas.ventricle_distance[None], atlas.ijk_to_ras, along)[0].numpy()
    reach = steps[np.argmax(depth > 0, axis=0)]
    wall = np.concatenate((place + reach[:, None] * rays, place[None])).astype(np.float32)
    widths = []
    for shift in SHIFTS_MM:
        moved = torch.from_numpy(wall)
        for _ in range(_STEPS):  # walls go against the backward map
            moved = moved - shift / _STEPS * sample_channels(velocity, grid.ijk_to_ras, moved).T
        radius = (moved[:-1] - moved[-1]).norm(dim=1).numpy()
        half = len(rays) // 2
        widths.append(np.percentile(radius[:half], 30) + np.percentile(radius[half:], 30))
    return np.array(widths)


def shift_for(ventricles: Ventricles, side: int, width_mm: float) -> float:
    """The shift (> 0 narrows) that brings one side's atrium to `width_mm`; the nearest one possible."""
    widths = ventricles.widths.get(side)
    if widths is None:
        return 0.0
    return float(np.interp(-width_mm, -widths, SHIFTS_MM))


def swelling(grid: Grid, centre: np.ndarray, radius_mm: np.ndarray, factor: float) -> np.ndarray:
    """Velocity (3, k, j, i) that makes what lies within the radii about `factor` times as large."""
    offset = grid.points - centre.astype(np.float32)
    distance = np.sqrt(((offset / radius_mm.astype(np.float32)) ** 2).sum(-1))
    window = np.exp(-(np.clip(distance - 0.9, 0, None) ** 2) / (2 * 0.35**2)) * -np.log(factor)
    return np.asarray(np.moveaxis(offset * window[..., None], -1, 0), np.float32)


@lru_cache(maxsize=3)
def outer_fluid_mm(atlas: Atlas) -> float:
    """The fluid an average has already: median mm between the brain's tissue and its hull, above the base."""
    step = _COARSE
    spacing = np.abs(np.diag(atlas.ijk_to_ras)[:3])[::-1] * step
    labels = atlas.labels[::step, ::step, ::step]
    distance = ndimage.distance_transform_edt((labels == 0) | (labels == EXTERNAL_CSF), sampling=spacing)
    surface = np.abs(atlas.hull_distance[::step, ::step, ::step]) < spacing.min() / 2
    surface[: int(np.argwhere(surface)[:, 0].mean())] = False
    return float(np.median(distance[surface]))


def cerebellum_of(atlas: Atlas) -> tuple[np.ndarray, np.ndarray] | None:
    """Centre and half extents of the cerebellum, if the atlas has one; half extents [0] is half the TCD."""
    ras = atlas.label_ras(CEREBELLUM)
    if len(ras) < 50:
        return None
    low, high = ras.min(0), ras.max(0)
    return ras.mean(0), (high - low) / 2 + 0.4


def displacement(grid: Grid, velocity: np.ndarray) -> np.ndarray:
    """Displacement (3, k, j, i) of the flow after unit time: invertible however long the velocity is."""
    moved = torch.from_numpy(velocity / 2**_SQUARINGS)
    points = torch.from_numpy(grid.points)
    for _ in range(_SQUARINGS):
        moved = moved + sample_channels(moved.numpy(), grid.ijk_to_ras, points + moved.permute(1, 2, 3, 0), (0, 0, 0))
    return np.asarray(moved.numpy())
