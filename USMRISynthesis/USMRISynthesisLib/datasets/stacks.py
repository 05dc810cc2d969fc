"""Isotropic fetal T2 whose truth is known: atlas weeks, their deformations, and the thick slices made from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.simulation.anatomy.warp import spline_field
from USMRISynthesisLib.spacing import profile
from USMRISynthesisLib.spacing.grid import stacked
from USMRISynthesisLib.spacing.intensity import Scale

MARGIN = 4  # voxels of background kept around the brain
WEEKS = {"val": ("GA22-notoperated", "GA29-operated"), "test": ("GA26-operated", "GA32-operated")}
ORIENTATIONS = {"axial": 0, "coronal": 1, "sagittal": 2}  # the atlas is in RAS, arrays (k, j, i)
_COARSE_VOXELS, _COARSE_AMPLITUDE = 30, 2.5
_FINE_VOXELS, _FINE_AMPLITUDE = 14, 0.8
_STRETCH = 0.07
HELD_OUT_SEED = 1_000_000  # deformations of training draw from smaller ones


@dataclass(frozen=True, eq=False)
class Head:
    """truth (k, j, i) float32, 0-1, isotropic, cropped to the brain; voxel_mm."""

    name: str
    truth: np.ndarray
    voxel_mm: float


def atlas_head(data: Path, name: str) -> Head:
    """One week's average. Raises Refused when it is not there."""
    path = data / "fetal-mr-atlas" / name / "t2.nii.gz"
    if not path.is_file():
        raise Refused(
            "data", f"There is no atlas volume {name}.", "Give the folder that holds fetal-mr-atlas/ with --data."
        )
    volume = Volume.read(path)
    filled = np.argwhere(volume.array > 0)
    low = np.maximum(filled.min(0) - MARGIN, 0)
    box = tuple(slice(a, b) for a, b in zip(low, filled.max(0) + 1 + MARGIN, strict=True))
    array = np.maximum(volume.array, 0).astype(np.float32)
    return Head(name, np.maximum(Scale(0.0, Scale.of(array).spread).shares(array[box]), 0), volume.spacing[0])


def deformed(head: Head, seed: int) -> Head:
    """The head under a random smooth map: stretched by up to 7 % an axis, warped by some voxels (cubic B-splines)."""
    rng = np.random.default_rng([seed, 11])
    shape = head.truth.shape
    size = max(shape)
    centre = (np.array(shape) - 1) / 2
    stretch = 1 + rng.uniform(-_STRETCH, _STRETCH, 3)
    points = []
    for axis in range(3):
        line = ((np.arange(shape[axis]) - centre[axis]) / stretch[axis] + centre[axis]).astype(np.float32)
        field = np.broadcast_to(line.reshape([-1 if a == axis else 1 for a in range(3)]), shape).copy()
        for voxels, amplitude in ((_COARSE_VOXELS, _COARSE_AMPLITUDE), (_FINE_VOXELS, _FINE_AMPLITUDE)):
            nodes = max(4, round(size / voxels) + 1)
            control = np.clip(rng.standard_normal((nodes,) * 3), -1.8, 1.8) * amplitude
            field += spline_field(control, size)[tuple(slice(n) for n in shape)]
        points.append(field)
    warped = ndimage.map_coordinates(head.truth, points, order=3, mode="constant")
    return Head(f"{head.name}-deformed-{seed}", np.maximum(warped, 0).astype(np.float32), head.voxel_mm)


def thinned(head: Head, factor: int, orientation: str) -> tuple[np.ndarray, np.ndarray]:
    """Truth (n * factor, h, w) and its thick slices (n, h, w) along one orientation's axis."""
    slices = stacked(head.truth, ORIENTATIONS[orientation])
    n = len(slices) // factor
    truth = np.ascontiguousarray(slices[: n * factor])
    return truth, profile.apply(profile.degradation(n, n * factor), truth)


def held_out(data: Path, split: str) -> list[Head]:
    """The split's weeks as they are, and each under a deformation that training never drew. Raises Refused."""
    if split not in WEEKS:
        raise Refused("split", f"There is no split {split!r} of the atlas.", f"Choose {' or '.join(WEEKS)}.")
    heads = [atlas_head(data, name) for name in WEEKS[split]]
    return heads + [deformed(head, HELD_OUT_SEED + n) for n, head in enumerate(heads)]
