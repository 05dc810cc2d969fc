"""Where to start a registration of fetal MR to the template (`register.py`): any orientation, with and without mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from USMRISynthesisLib.datasets.mr_registration.template import (
    CELL_MM,
    CELLS,
    Template,
    template_ijk_to_ras,
    templates,
)
from USMRISynthesisLib.geometry.canonical import resample
from USMRISynthesisLib.geometry.similarity import angle_deg, rotation_of, scale_of

# Canonical mm per mm of the world: heads of 18 weeks to term.
SCALES = (0.72, 1.9)
GRID_MM = 2.0
_SEARCH_MM = 6.0
_SEARCH_SCALES = np.geomspace(0.78, 1.7, 6)
_ROTATIONS, _SEARCH_ROTATIONS = 600, 200
_APART_DEG = 25.0


@dataclass(frozen=True, eq=False)
class Scene:
    """The volume on an isotropic grid along the world's axes: image (k, j, i) float32, its mask or None."""

    image: np.ndarray
    mask: np.ndarray | None
    ijk_to_ras: np.ndarray


@dataclass(frozen=True, eq=False)
class Reference:
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
class Fit:
    """A similarity (4, 4) from RAS mm to canonical mm, and the correlation with its reference there.

    within: once it is refined, the correlation in the template's brain alone, at a fine scale: the ring of fluid around
    the brain is much the same any way round.
    """

    matrix: np.ndarray
    score: float
    reference: Reference
    within: float = 0.0

    @property
    def rank(self) -> float:
        """What directions are compared by: the mean of both."""
        return (self.score + self.within) / 2

    @property
    def evidence(self) -> float:
        """Fisher's z of the correlation times the root of the volume that it was taken over, in the world's cm^3.

        Of two correlations alike the larger volume's is stronger evidence; else any small spot would be a brain.
        """
        volume = self.reference.volume / 1000 / abs(float(np.linalg.det(self.matrix[:3, :3])))
        return float(np.arctanh(np.clip(self.score, -0.999, 0.999)) * np.sqrt(volume))

    def is_apart(self, others: list[Fit]) -> bool:
        """Whether it is turned by 25 degrees or more from all others."""
        return all(angle_deg(rotation_of(self.matrix), rotation_of(other.matrix)) > _APART_DEG for other in others)


def references() -> list[Reference]:
    return [Reference(template, region) for template in templates() for region in (template.brain, template.skull)]


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


def search_masked(scene: Scene) -> list[Fit]:
    """Every direction at the mask's centre and size, which may end at the brain or at the skull."""
    assert scene.mask is not None
    centre = np.argwhere(scene.mask).mean(0)[::-1] * GRID_MM + scene.ijk_to_ras[:3, 3]
    size = float(scene.mask.sum()) * GRID_MM**3
    return _search_there(scene.image * scene.mask, scene.ijk_to_ras, centre,
                         [(reference, np.cbrt(reference.volume / size)) for reference in references()])  # fmt: skip


def _search_there(
    image: np.ndarray, ijk_to_ras: np.ndarray, centre: np.ndarray, sizes: list[tuple[Reference, float]]
) -> list[Fit]:
    """Every direction of each reference at a place and a scale."""
    smooth, fits = ndimage.gaussian_filter(image, 3.0 / GRID_MM), []
    for reference, scale in sizes:
        points, wanted = reference.points(2, 3.0)
        for rotation in even_rotations(_ROTATIONS):
            matrix = _similarity(rotation, float(np.clip(scale, *SCALES)), centre, reference.middle)
            fits.append(Fit(matrix, correlation(smooth, ijk_to_ras, matrix, points, wanted), reference))
    return fits


def search_everywhere(scene: Scene) -> list[Fit]:
    """Where it is: turned templates of several sizes against the whole volume, over all shifts at once. Then every
    direction there.
    """
    steps = _SEARCH_MM / GRID_MM
    coarse = ndimage.zoom(ndimage.gaussian_filter(scene.image, steps / 2), 1 / steps, order=1)
    cell_mm = GRID_MM * (np.array(scene.image.shape) - 1) / np.maximum(np.array(coarse.shape) - 1, 1)
    to_world = np.diag([*cell_mm[::-1], 1.0])
    to_world[:3, 3] = scene.ijk_to_ras[:3, 3]
    template = templates()[len(templates()) // 2]
    reference = Reference(template, template.skull)
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
            fits.append(Fit(matrix, float(value[k, j, i]), reference))
    place = max(fits, key=lambda fit: fit.evidence)
    centre = np.linalg.inv(place.matrix)[:3] @ (*reference.middle, 1.0)
    sizes = [(other, scale_of(place.matrix) * factor) for other in references() if not other.is_brain
             for factor in (0.88, 1.0, 1.14)]  # fmt: skip
    return _search_there(scene.image, scene.ijk_to_ras, centre, sizes)


def _similarity(rotation: np.ndarray, scale: float, centre: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """RAS mm to canonical mm: turned and scaled about `centre`, which comes to `middle`."""
    matrix = np.eye(4)
    matrix[:3, :3] = scale * rotation
    matrix[:3, 3] = middle - matrix[:3, :3] @ centre
    return matrix


def correlation(
    image: np.ndarray, ijk_to_ras: np.ndarray, matrix: np.ndarray, points: np.ndarray, wanted: np.ndarray
) -> float:
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


def best(fits: list[Fit], count: int) -> list[Fit]:
    """The best directions that differ."""
    chosen: list[Fit] = []
    for fit in sorted(fits, key=lambda fit: -fit.rank):
        if len(chosen) < count and fit.is_apart(chosen):
            chosen.append(fit)
    return chosen
