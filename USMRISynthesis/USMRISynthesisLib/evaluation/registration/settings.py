"""What every method of registration shares: optimiser, pyramid, samples, mask; and the images as SimpleITK takes them.

The values were chosen on simulated heads of weeks 22 and 29 (`data/sim/val`), which are not among the heads measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from USMRISynthesisLib.geometry.canonical import LPS_RAS
from USMRISynthesisLib.io.volume import Volume

MUTUAL, CORRELATION, LOCAL, GRADIENTS = (
    "mutual information",
    "correlation",
    "local correlation",
    "normalised gradient fields",
)
# (n, 3) RAS mm of the MR to (n, 3) RAS mm of the ultrasound.
Map = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Settings:
    """Of all methods.

    shrink, smooth_mm: the pyramid, coarse to fine, of an MR of 1 mm. iterations: at each level. step_mm, least_step_mm:
    of the rigid descent, how far the farthest voxel moves; times `relaxation` where the direction turns back. bins: of
    mutual information. radius: of local correlation's window, in voxels of the level. control_mm: between the control
    points of the cubic B-spline. bending: weight of elastix's bending energy; SimpleITK and the own engine have none.
    elastix_iterations, elastix_samples: elastix's own optimiser draws so many points anew in each iteration.
    """

    shrink: tuple[int, ...] = (8, 4, 2)
    smooth_mm: tuple[float, ...] = (4.0, 2.0, 1.0)
    iterations: int = 100
    relaxation: float = 0.8
    step_mm: float = 2.0
    least_step_mm: float = 0.02
    spline_iterations: int = 20
    bins: int = 32
    radius: int = 2
    control_mm: float = 25.0
    bending: float = 50.0
    elastix_iterations: int = 200
    elastix_samples: int = 3000
    seed: int = 1


@dataclass(frozen=True, eq=False)
class Registered:
    """Where a method takes the MR's points: rigid, and deformable after that where the plan has it; with seconds."""

    rigid: Map
    deformable: Map | None
    seconds: float
    seconds_deformable: float = 0.0


def to_image(volume: Volume) -> sitk.Image:
    """A volume of any affine grid, also oblique, anisotropic or left-handed, as a SimpleITK image (LPS), float32."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array, dtype=np.float32))
    matrix = LPS_RAS @ volume.ijk_to_ras
    image.SetOrigin(matrix[:3, 3].tolist())
    image.SetSpacing([float(s) for s in volume.spacing])
    image.SetDirection((matrix[:3, :3] / np.array(volume.spacing)).ravel().tolist())
    return image


def coarse(volume: Volume, least_mm: float = 1.2) -> Volume:
    """A volume with its voxels averaged to at least about this size, so that no method smooths what it never uses."""
    steps = [max(1, round(least_mm / s)) for s in volume.spacing]
    if max(steps) == 1:
        return volume
    k, j, i = (n // s * s for n, s in zip(volume.shape, steps[::-1], strict=True))
    part = volume.array[:k, :j, :i].astype(np.float32)
    blocks = part.reshape(k // steps[2], steps[2], j // steps[1], steps[1], i // steps[0], steps[0])
    matrix = volume.ijk_to_ras @ np.diag([*steps, 1.0])
    matrix[:3, 3] += volume.ijk_to_ras[:3, :3] @ ((np.array(steps) - 1) / 2)
    return Volume(blocks.mean(axis=(1, 3, 5)), matrix)


def mapped(transform: sitk.Transform) -> Map:
    """A SimpleITK transform, LPS to LPS, as a map of RAS points."""

    def points(ras: np.ndarray) -> np.ndarray:
        flip = np.array([-1.0, -1.0, 1.0])
        return np.array([transform.TransformPoint((p * flip).tolist()) for p in np.atleast_2d(ras)]) * flip

    return points


def identity(ras: np.ndarray) -> np.ndarray:
    """The start: where the MR lies."""
    return np.atleast_2d(ras)


def centre_of(mask: sitk.Image) -> tuple[float, float, float]:
    """The middle of a mask, LPS mm."""
    voxels = np.argwhere(sitk.GetArrayViewFromImage(mask) > 0).mean(axis=0)[::-1]
    x, y, z = mask.TransformContinuousIndexToPhysicalPoint(voxels.tolist())
    return x, y, z


def mesh_of(image: sitk.Image, control_mm: float) -> list[int]:
    """B-spline cells along each axis of an image."""
    return [max(1, round(n * s / control_mm)) for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)]
