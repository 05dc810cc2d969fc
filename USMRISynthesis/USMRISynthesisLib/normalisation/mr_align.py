"""From a fetal MR volume to canonical space: registration to a mean T2 brain (mr_template.py) by a similarity.

A fetus lies in a scanner in any direction, and the networks that find a head know ultrasound only. So:

1. **Search.** 600 rotations spread evenly over all orientations. With a brain mask beside the volume its centre and
   size say the rest; without one, place and size are searched too, by normalised cross-correlation of the whole volume
   with 200 turned templates in six sizes, over all shifts at once (Fourier transform).
2. **Refine.** From the best directions that differ the correlation with the template is climbed, coarse, then fine;
   every age's template is tried with the best two.

Each template is asked twice: within the brain, for volumes of which nothing else was kept, and within the skull, where
the fluid around the brain says much. The score is the correlation there, and the lead how much worse the best quite
different direction is. Neither is a probability: what is asked of them was set between right and wrong fits
(docs/normalisation.md). T2 only; a T1 brain has the same outline and
may pass by that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import fft, ndimage, optimize
from scipy.spatial.transform import Rotation

from ..errors import Refused
from ..volume import Volume
from .canonical import resample
from .coordinates import angle_deg, rotation_of, scale_of
from .mr_template import CELL_MM, CELLS, Template, template_ijk_to_ras, templates

# Below this correlation, or with less of a lead over another direction, a fit is not to be trusted.
MIN_SCORE = 0.7
MIN_LEAD = 0.03
MIN_SLICES = 8
MIN_EXTENT_MM = 40.0
# Canonical mm per mm of the world: heads of 18 weeks to term.
SCALES = (0.72, 1.9)
GRID_MM = 2.0
_MARGIN_MM = 16.0
_SEARCH_MM = 6.0
_SEARCH_SCALES = np.geomspace(0.78, 1.7, 6)
_CANDIDATES = 8
_ROTATIONS, _SEARCH_ROTATIONS = 600, 200
_APART_DEG = 25.0
_REACH_MM = 35.0  # from a brain's centre to its surface
_MOST_GROWTH = 1.2  # by which a start's scale may be off
_COARSE, _FINE = (2, 4.0, 1e-4), (1, 1.5, 1e-5)  # every how manyth cell, smoothing in mm, tolerance


@dataclass(frozen=True, eq=False)
class MRAlignment:
    """Where the brain lies.

    Attributes:
        ras_to_canonical: (4, 4), RAS mm to canonical mm, a similarity.
        score: -1 to 1, correlation with the template; below MIN_SCORE not to be trusted.
        lead: score minus that of the best direction at least 25 degrees away; below MIN_LEAD not to be trusted.
        template: the age and kind that fits best.
    """

    ras_to_canonical: np.ndarray
    score: float
    lead: float
    template: Template

    @property
    def is_reliable(self) -> bool:
        return self.score >= MIN_SCORE and self.lead >= MIN_LEAD


@dataclass(frozen=True, eq=False)
class _Reference:
    """A template and where it is compared: its brain, or the inside of its skull."""

    template: Template
    region: np.ndarray

    @property
    def is_brain(self) -> bool:
        return self.region is self.template.brain

    @property
    def middle(self) -> np.ndarray:
        """(3,) canonical mm."""
        return np.asarray(np.argwhere(self.region).mean(0)[::-1] * CELL_MM + template_ijk_to_ras()[:3, 3])

    @property
    def volume(self) -> float:
        """In canonical mm^3."""
        return float(self.region.sum()) * CELL_MM**3

    def points(self, step: int, smooth_mm: float) -> tuple[np.ndarray, np.ndarray]:
        """Of every step-th cell each way the half: canonical mm (n, 3), and the smoothed template there (n,), of mean 0
        and norm 1.
        """
        smooth = ndimage.gaussian_filter(self.template.t2, smooth_mm / CELL_MM)
        chosen = np.argwhere(self.region)
        chosen = chosen[(chosen % step == 0).all(axis=1) & (chosen.sum(axis=1) % (2 * step) == 0)]
        values = smooth[tuple(chosen.T)]
        values = values - values.mean()
        return chosen[:, ::-1] * CELL_MM + template_ijk_to_ras()[:3, 3], values / np.linalg.norm(values)


@dataclass(frozen=True, eq=False)
class _Fit:
    """A similarity (4, 4) from RAS mm to canonical mm, and the correlation with its reference there."""

    matrix: np.ndarray
    score: float
    reference: _Reference

    @property
    def evidence(self) -> float:
        """Fisher's z of the correlation times the root of the volume that it was taken over, in the world's cm^3.

        Of two correlations alike the larger volume's says more; else any small spot would be a brain.
        """
        volume = self.reference.volume / 1000 / abs(float(np.linalg.det(self.matrix[:3, :3])))
        return float(np.arctanh(np.clip(self.score, -0.999, 0.999)) * np.sqrt(volume))

    def is_apart(self, others: list[_Fit]) -> bool:
        """Whether it is turned by 25 degrees or more from all others."""
        return all(angle_deg(rotation_of(self.matrix), rotation_of(other.matrix)) > _APART_DEG for other in others)


@dataclass(frozen=True, eq=False)
class _Scene:
    """The volume on an isotropic grid along the world's axes: image (k, j, i) float32, its mask or None."""

    image: np.ndarray
    mask: np.ndarray | None
    ijk_to_ras: np.ndarray


def align_mr(volume: Volume, mask: np.ndarray | None = None) -> MRAlignment:
    """Register a fetal T2 volume to the template.

    Args:
        volume: 3D, any grid. mask: (k, j, i) bool on the volume's grid, the brain, where one is known.

    Raises:
        Refused: a frame or a few slices, no grey values, an impossible size, or an empty mask.
    """
    _check(volume, mask)
    scene = _scene(volume, mask)
    starts = _search_masked(scene) if scene.mask is not None else _search_everywhere(scene)
    coarse = [_refined(scene, start, _COARSE) for start in _best(starts, _CANDIDATES)]
    ends = [_refined(scene, replace(fit, reference=reference), _FINE)
            for fit in _best(coarse, 2) for reference in _references()
            if reference.is_brain == fit.reference.is_brain]  # fmt: skip
    first, *others = _best(ends, 2)
    lead = first.score - max([other.score for other in others] or [-1.0])
    return MRAlignment(first.matrix, first.score, lead, first.reference.template)


def _references() -> list[_Reference]:
    return [_Reference(template, region) for template in templates() for region in (template.brain, template.skull)]


def _check(volume: Volume, mask: np.ndarray | None) -> None:
    if min(volume.shape) < MIN_SLICES:
        raise Refused("slices", f"The MR has only {min(volume.shape)} slices along one direction.",
                      f"Give a 3D volume of at least {MIN_SLICES} slices each way.")
    if volume.array.dtype.kind not in "uif" or not np.isfinite(volume.array).all():
        raise Refused("type", "The MR's voxels are not all greyscale numbers.", "Export it again.")
    if volume.array.min() == volume.array.max():
        raise Refused("constant", "All voxels of the MR have the same value.", "Check that the right file was given.")
    if min(volume.extent_mm) < MIN_EXTENT_MM or max(volume.extent_mm) > 700:
        raise Refused("extent", f"The MR is {min(volume.extent_mm):.3g} to {max(volume.extent_mm):.3g} mm wide, which "
                      "does not fit a fetal head.", "Check the voxel size.")
    if mask is not None and not mask.any():
        raise Refused("mask", "The brain mask beside the MR is empty.", "Mend or remove the mask.")


def _scene(volume: Volume, mask: np.ndarray | None) -> _Scene:
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
        return _Scene(image, None, grid)
    kept = resample(mask.astype(np.float32), to_input, shape, 1, 0.0)
    return _Scene(image, kept > 0.5, grid)


def even_rotations(count: int) -> np.ndarray:
    """(count, 3, 3) rotations spread evenly over all orientations: the super-Fibonacci spiral of Alexa, CVPR 2022."""
    s = np.arange(count) + 0.5
    r, big = np.sqrt(s / count), np.sqrt(1 - s / count)
    alpha, beta = 2 * np.pi * s / np.sqrt(2), 2 * np.pi * s / 1.533751168755204288118041
    x, y, z, w = r * np.sin(alpha), r * np.cos(alpha), big * np.sin(beta), big * np.cos(beta)
    rows = [[1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]]  # fmt: skip
    return np.array(rows).transpose(2, 0, 1)


def _search_masked(scene: _Scene) -> list[_Fit]:
    """Every direction at the mask's centre and size, which may end at the brain or at the skull."""
    assert scene.mask is not None
    centre = np.argwhere(scene.mask).mean(0)[::-1] * GRID_MM + scene.ijk_to_ras[:3, 3]
    size = float(scene.mask.sum()) * GRID_MM**3
    return _search_there(scene.image * scene.mask, scene.ijk_to_ras, centre,
                         [(reference, np.cbrt(reference.volume / size)) for reference in _references()])  # fmt: skip


def _search_there(image: np.ndarray, ijk_to_ras: np.ndarray, centre: np.ndarray,
                  sizes: list[tuple[_Reference, float]]) -> list[_Fit]:
    """Every direction of each reference at a place and a scale."""
    smooth, fits = ndimage.gaussian_filter(image, 3.0 / GRID_MM), []
    for reference, scale in sizes:
        points, wanted = reference.points(2, 3.0)
        for rotation in even_rotations(_ROTATIONS):
            matrix = _similarity(rotation, float(np.clip(scale, *SCALES)), centre, reference.middle)
            fits.append(_Fit(matrix, _correlation(smooth, ijk_to_ras, matrix, points, wanted), reference))
    return fits


def _search_everywhere(scene: _Scene) -> list[_Fit]:
    """Where it is: turned templates of several sizes against the whole volume, over all shifts at once. Then every
    direction there.
    """
    steps = _SEARCH_MM / GRID_MM
    coarse = ndimage.zoom(ndimage.gaussian_filter(scene.image, steps / 2), 1 / steps, order=1)
    cell_mm = GRID_MM * (np.array(scene.image.shape) - 1) / np.maximum(np.array(coarse.shape) - 1, 1)
    to_world = np.diag([*cell_mm[::-1], 1.0])
    to_world[:3, 3] = scene.ijk_to_ras[:3, 3]
    template = templates()[len(templates()) // 2]
    reference = _Reference(template, template.skull)
    cells = int(2 * np.ceil(0.5 * CELLS * CELL_MM / _SEARCH_SCALES[0] / _SEARCH_MM)) + 1
    shape = [fft.next_fast_len(n + cells, real=True) for n in coarse.shape]
    spectrum = fft.rfftn(coarse, shape)
    square = fft.rfftn(coarse**2, shape)
    least = 0.15 * float(coarse.std())
    canonical_to_cell = np.linalg.inv(template_ijk_to_ras())
    fits = []
    for rotation in even_rotations(_SEARCH_ROTATIONS):
        for scale in _SEARCH_SCALES:
            # One turned template on cells of the coarse grid, its canonical origin in the middle.
            out = np.eye(4)
            out[:3, :3] = scale * rotation @ to_world[:3, :3]
            out[:3, 3] = -out[:3, :3] @ np.full(3, (cells - 1) / 2)
            to_cell = canonical_to_cell @ out
            inside = resample(template.skull.astype(np.float32), to_cell, (cells,) * 3, 1, 0.0)
            mean = resample(template.t2, to_cell, (cells,) * 3, 1, 0.0)
            count = float(inside.sum())
            mean = (mean - mean.sum() / count) * inside
            mean -= inside * (mean.sum() / count)
            weights = np.conj(fft.rfftn(inside, shape))
            average = fft.irfftn(spectrum * weights, shape) / count
            variance = fft.irfftn(square * weights, shape) / count - average**2
            product = fft.irfftn(spectrum * np.conj(fft.rfftn(mean, shape)), shape)
            value = product / np.sqrt(count * float((mean**2).sum()) * (np.maximum(variance, 0) + least**2))
            # The template's middle must lie in the volume; a negative shift wraps round.
            half = (cells - 1) // 2
            value = np.roll(value, half, (0, 1, 2))[tuple(slice(n) for n in coarse.shape)]
            k, j, i = np.unravel_index(int(value.argmax()), value.shape)
            centre = to_world[:3, :3] @ (i, j, k) + to_world[:3, 3]
            matrix = _similarity(rotation, float(scale), centre, np.zeros(3))
            fits.append(_Fit(matrix, float(value[k, j, i]), reference))
    place = max(fits, key=lambda fit: fit.evidence)
    centre = np.linalg.inv(place.matrix)[:3] @ (*reference.middle, 1.0)
    sizes = [(other, scale_of(place.matrix) * factor) for other in _references() if not other.is_brain
             for factor in (0.88, 1.0, 1.14)]  # fmt: skip
    return _search_there(scene.image, scene.ijk_to_ras, centre, sizes)


def _similarity(rotation: np.ndarray, scale: float, centre: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """RAS mm to canonical mm: turned and scaled about `centre`, which comes to `middle`."""
    matrix = np.eye(4)
    matrix[:3, :3] = scale * rotation
    matrix[:3, 3] = middle - matrix[:3, :3] @ centre
    return matrix


def _correlation(image: np.ndarray, ijk_to_ras: np.ndarray, matrix: np.ndarray, points: np.ndarray,
                 wanted: np.ndarray) -> float:
    """Of the image at the canonical points with the template's values there (mean 0, norm 1)."""
    values = _sampled(image, ijk_to_ras, matrix, points)
    values = values - values.mean()
    norm = float(np.linalg.norm(values))
    return float(values @ wanted) / norm if norm > 1e-6 else 0.0


def _sampled(image: np.ndarray, ijk_to_ras: np.ndarray, matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(n,) values of the image (k, j, i) at canonical points (n, 3), linear; 0 outside."""
    back = np.linalg.inv(matrix @ ijk_to_ras)
    cells = (points @ back[:3, :3].T + back[:3, 3])[:, ::-1]
    return np.asarray(ndimage.map_coordinates(image, cells.T, order=1, mode="constant"))


def _best(fits: list[_Fit], count: int) -> list[_Fit]:
    """The best directions that differ."""
    chosen: list[_Fit] = []
    for fit in sorted(fits, key=lambda fit: -fit.score):
        if len(chosen) < count and fit.is_apart(chosen):
            chosen.append(fit)
    return chosen


def _refined(scene: _Scene, start: _Fit, level: tuple[int, float, float]) -> _Fit:
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
        return -_correlation(image, scene.ijk_to_ras, matrix_of(values), points, wanted)

    size = _REACH_MM * np.log(_MOST_GROWTH)
    bounds = [(-_REACH_MM, _REACH_MM)] * 3 + [(-_REACH_MM, _REACH_MM)] * 3 + [(-size, size)]
    found = optimize.minimize(cost, np.zeros(7), method="L-BFGS-B", bounds=bounds,
                              options={"eps": 0.2, "ftol": tolerance, "maxiter": 60})  # fmt: skip
    matrix = matrix_of(found.x)
    possible = SCALES[0] <= scale_of(matrix) <= SCALES[1]
    return _Fit(matrix, -float(found.fun) if possible else -1.0, reference)
