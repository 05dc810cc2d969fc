"""From a fetal MR volume to canonical space: registration to a mean T2 brain (`template.py`) by a similarity.

A fetus lies in a scanner in any direction, and the networks that find a head know ultrasound only. So:

1. **Search.** 600 rotations spread evenly over all orientations. With a brain mask beside the volume its centre and
   size give the rest; without one, place and size are searched too, by normalised cross-correlation of the whole volume
   with 200 turned templates in six sizes, over all shifts at once (Fourier transform).
2. **Refine.** From the best directions that differ the correlation with the template is climbed, coarse, then fine;
   every age's template is tried with the best two.

Each template is compared twice: within the brain, for volumes of which nothing else was kept, and within the skull,
where the fluid around the brain shows where it is, but hardly which way round: directions are compared by the brain
alone as well. The score is the correlation with the template, and the lead how much worse the best quite different
direction is. Neither is a probability: their limits were set between right and wrong fits.
T2 only; a T1 brain has the same outline and may pass by that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage, optimize
from scipy.spatial.transform import Rotation

from USMRISynthesisLib.datasets.mr_registration.search import (
    GRID_MM,
    SCALES,
    Fit,
    Reference,
    Scene,
    best,
    correlation,
    references,
    search_everywhere,
    search_masked,
)
from USMRISynthesisLib.datasets.mr_registration.template import Template
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.geometry.canonical import resample
from USMRISynthesisLib.geometry.similarity import scale_of
from USMRISynthesisLib.io.volume import Volume

# Below this correlation, or with less of a lead over another direction, a fit is not to be trusted.
MIN_SCORE = 0.7
MIN_LEAD = 0.02
MIN_SLICES = 8
MIN_EXTENT_MM = 40.0
_MARGIN_MM = 16.0
_CANDIDATES = 8
_REACH_MM = 35.0  # from a brain's centre to its surface
_MOST_GROWTH = 1.2  # by which a start's scale may be off
_COARSE, _FINE = (2, 4.0, 1e-4), (1, 1.5, 1e-5)  # every how manyth cell, smoothing in mm, tolerance


@dataclass(frozen=True, eq=False)
class MRAlignment:
    """Where the brain lies.

    Attributes:
        ras_to_canonical: (4, 4), RAS mm to canonical mm, a similarity.
        score: -1 to 1, correlation with the template; below MIN_SCORE not to be trusted.
        lead: over the best direction at least 25 degrees away, in the mean of the score and of the correlation within
            the brain alone; below MIN_LEAD not to be trusted.
        template: the age and kind that fits best.
    """

    ras_to_canonical: np.ndarray
    score: float
    lead: float
    template: Template

    @property
    def is_reliable(self) -> bool:
        return self.score >= MIN_SCORE and self.lead >= MIN_LEAD


def align_mr(volume: Volume, mask: np.ndarray | None = None) -> MRAlignment:
    """Register a fetal T2 volume to the template.

    Args:
        volume: 3D, any grid. mask: (k, j, i) bool on the volume's grid, the brain, where one is known.

    Raises:
        Refused: a frame or a few slices, no grey values, an impossible size, or an empty mask.
    """
    _check(volume, mask)
    scene = _scene(volume, mask)
    starts = search_masked(scene) if scene.mask is not None else search_everywhere(scene)
    coarse = [_refined(scene, start, _COARSE) for start in best(starts, _CANDIDATES)]
    ends = [_refined(scene, replace(fit, reference=reference), _FINE)
            for fit in best(coarse, 2) for reference in references()
            if reference.is_brain == fit.reference.is_brain]  # fmt: skip
    first, *others = best(ends, 2)
    lead = first.rank - max([other.rank for other in others] or [-1.0])
    return MRAlignment(first.matrix, first.score, lead, first.reference.template)


def _check(volume: Volume, mask: np.ndarray | None) -> None:
    if min(volume.shape) < MIN_SLICES:
        raise Refused(
            "slices",
            f"The MR has only {min(volume.shape)} slices along one direction.",
            f"Give a 3D volume of at least {MIN_SLICES} slices each way.",
        )
    if volume.array.dtype.kind not in "uif" or not np.isfinite(volume.array).all():
        raise Refused("type", "The MR's voxels are not all greyscale numbers.", "Export it again.")
    if volume.array.min() == volume.array.max():
        raise Refused("constant", "All voxels of the MR have the same value.", "Check that the right file was given.")
    if min(volume.extent_mm) < MIN_EXTENT_MM or max(volume.extent_mm) > 700:
        raise Refused(
            "extent",
            f"The MR is {min(volume.extent_mm):.3g} to {max(volume.extent_mm):.3g} mm wide, which "
            "does not fit a fetal head.",
            "Check the voxel size.",
        )
    if mask is not None and not mask.any():
        raise Refused("mask", "The brain mask beside the MR is empty.", "Mend or remove the mask.")
    if mask is not None and not np.ptp(volume.array[mask]):
        raise Refused("mask", "All voxels within the brain mask have the same value.", "Mend or remove the mask.")


def _scene(volume: Volume, mask: np.ndarray | None) -> Scene:
    """Around the mask, or of everything."""
    known = np.argwhere(mask) if mask is not None else np.array([[0, 0, 0], np.array(volume.shape) - 1])
    low, high = known.min(0)[::-1], known.max(0)[::-1]
    corners = np.array(np.meshgrid(*zip(low, high, strict=True))).reshape(3, -1)
    world = volume.ijk_to_ras[:3, :3] @ corners + volume.ijk_to_ras[:3, 3:]
    margin = _MARGIN_MM if mask is not None else 0.0
    first, last = world.min(1) - margin, world.max(1) + margin
    grid = np.diag([GRID_MM, GRID_MM, GRID_MM, 1.0])
    grid[:3, 3] = first
    shape = tuple(int(n) for n in np.ceil((last - first) / GRID_MM)[::-1] + 1)
    to_input = np.linalg.inv(volume.ijk_to_ras) @ grid
    array = volume.array.astype(np.float32)
    inside = array if mask is None else array[mask]
    low_value, high_value = np.percentile(inside[inside > inside.min()], (1, 99))
    scaled = np.clip((array - low_value) / max(float(high_value - low_value), 1e-6), 0, 1.2)
    image = resample(scaled, to_input, shape, 1, 0.0)
    if mask is None:
        return Scene(image, None, grid)
    kept = resample(mask.astype(np.float32), to_input, shape, 1, 0.0)
    return Scene(image, kept > 0.5, grid)


def _refined(scene: Scene, start: Fit, level: tuple[int, float, float]) -> Fit:
    """The similarity near a start that correlates best, on points of one level.

    Not SimpleITK's registration: its correlation metric is the square, to which an inverted contrast is as good.
    """
    step, smooth_mm, tolerance = level
    reference = start.reference
    points, wanted = reference.points(step, smooth_mm)
    image = ndimage.gaussian_filter(scene.image, smooth_mm * 0.8 / GRID_MM)  # the template is larger than the head
    middle = reference.middle

    def matrix_of(values: np.ndarray) -> np.ndarray:
        """Seven numbers in about mm at the brain's surface: turn, shift and size on top of the start."""
        moved = np.eye(4)
        moved[:3, :3] = np.exp(values[6] / _REACH_MM) * Rotation.from_rotvec(values[:3] / _REACH_MM).as_matrix()
        moved[:3, 3] = middle + values[3:6] - moved[:3, :3] @ middle
        return np.asarray(moved @ start.matrix)

    def cost(values: np.ndarray) -> float:
        return -correlation(image, scene.ijk_to_ras, matrix_of(values), points, wanted)

    size = _REACH_MM * np.log(_MOST_GROWTH)
    bounds = [(-_REACH_MM, _REACH_MM)] * 3 + [(-_REACH_MM, _REACH_MM)] * 3 + [(-size, size)]
    found = optimize.minimize(cost, np.zeros(7), method="L-BFGS-B", bounds=bounds,
                              options={"eps": 0.2, "ftol": tolerance, "maxiter": 60})  # fmt: skip
    matrix = matrix_of(found.x)
    if not SCALES[0] <= scale_of(matrix) <= SCALES[1]:
        return Fit(matrix, -1.0, reference, -1.0)
    points, wanted = Reference(reference.template, reference.template.brain).points(1, _FINE[1])
    sharp = ndimage.gaussian_filter(scene.image, _FINE[1] * 0.8 / GRID_MM)
    within = correlation(sharp, scene.ijk_to_ras, matrix, points, wanted)
    return Fit(matrix, -float(found.fun), reference, within)
