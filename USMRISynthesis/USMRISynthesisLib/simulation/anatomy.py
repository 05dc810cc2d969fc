"""A simulated fetal head in canonical space: deformed atlas brain plus everything the atlas lacks.

Skull with sutures, scalp, falx, cavum septi pellucidi, choroid plexus, eyes, face and neck, amniotic
fluid and maternal tissue are procedural and random.  Labels and T2 image move together.  Arrays are
(k, j, i) on the canonical grid (160^3, 0.6 mm); lengths named `_mm` are canonical mm, which are
physical mm times `scale`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import ndimage

from ..normalisation.canonical import HEAD_LENGTH_MM, SIZE, SPACING_MM
from .atlas import Atlas
from .membrane import Sheets, membrane
from .tissues import (
    AMNIOTIC,
    BRAINSTEM,
    CAVUM,
    CHOROID,
    CORPUS_CALLOSUM,
    CORTEX,
    EXTERNAL_CSF,
    EYE,
    FACE,
    FALX,
    LABEL_NAMES,
    LIMB,
    MASS,
    MATERNAL,
    PLACENTA,
    SCALP,
    SKULL,
    SUTURE,
    VENTRICLES,
    WHITE_MATTER,
)
from .warp import (
    canonical_points,
    rotation_matrix,
    sample_channels,
    smooth_displacement,
    spline_field,
)

__all__ = [
    "AMNIOTIC", "CAVUM", "CHOROID", "EYE", "FACE", "FALX", "LABEL_NAMES", "LIMB", "MASS", "MATERNAL", "PLACENTA",
    "SCALP", "SKULL", "SUTURE", "Anatomy", "AnatomyRanges", "build",
]  # fmt: skip

_WALL_SMOOTHING_MM = 3.5


@dataclass(frozen=True)
class AnatomyRanges:
    """Uniform ranges that every head is drawn from."""

    width_factor: tuple[float, float] = (0.93, 1.10)
    height_factor: tuple[float, float] = (0.94, 1.07)
    fine_warp_mm: tuple[float, float] = (0.3, 1.6)
    coarse_warp_mm: tuple[float, float] = (0.5, 3.0)
    ventricle_shift_mm: tuple[float, float] = (-1.2, 4.0)  # > 0 shrinks: the atlas has large ventricles
    gap_mm: tuple[float, float] = (0.6, 3.0)
    skull_mm: tuple[float, float] = (1.0, 2.3)
    scalp_mm: tuple[float, float] = (1.5, 4.0)
    cavum_probability: float = 0.75
    choroid_fill: tuple[float, float] = (0.35, 0.8)
    fluid_mm: tuple[float, float] = (-4.0, 24.0)
    pose_deg: float = 8.0
    pose_mm: float = 2.5
    pose_scale: tuple[float, float] = (0.96, 1.04)


@dataclass(frozen=True, eq=False)
class Anatomy:
    """One simulated head.

    t2 0-1; labels as LABEL_NAMES; skull_distance in mm to the skull's outer surface, negative inside.
    membrane: float32, strength of thin reflecting sheets (falx, cavum walls, ependyma, pia), 1 = a strong midline.
    scale: canonical mm per physical mm.  centre, length: of the outer skull in canonical mm.
    """

    t2: np.ndarray
    labels: np.ndarray
    skull_distance: np.ndarray
    scale: float
    week: int
    centre: np.ndarray
    length_mm: float
    eyes: np.ndarray
    membrane: np.ndarray
    parameters: dict[str, float | str] = field(default_factory=dict)


def build(atlas: Atlas, seed: int, ranges: AnatomyRanges | None = None) -> Anatomy:
    """Draw one head from an atlas week.  The same seed gives the same bytes on one machine."""
    ranges = ranges or AnatomyRanges()
    rng = np.random.default_rng([seed, 1])
    draw = {
        name: float(rng.uniform(*getattr(ranges, name)))
        for name in (
            "width_factor", "height_factor", "fine_warp_mm", "coarse_warp_mm", "ventricle_shift_mm", "gap_mm",
            "skull_mm", "scalp_mm", "choroid_fill", "fluid_mm",
        )
    }  # fmt: skip
    if atlas.week <= 25:
        draw["gap_mm"] += 1.8  # the subarachnoid space is wide before week 26
    pose = rotation_matrix(rng.uniform(-ranges.pose_deg, ranges.pose_deg, 3))
    shift = rng.uniform(-ranges.pose_mm, ranges.pose_mm, 3)
    pose_scale = float(rng.uniform(*ranges.pose_scale))

    warped, scale = _atlas_points(atlas, rng, draw, pose, shift, pose_scale)
    midline = warped[..., 0].numpy()
    fields = np.concatenate(
        (atlas.hull_distance[None], atlas.t2[None], atlas.indicators, atlas.ventricle_distance[None])
    )
    fields_at = sample_channels(fields, atlas.ijk_to_ras, warped, (40.0, *[0.0] * 10, 40.0))
    hull = fields_at[0].numpy() * scale
    hull = ndimage.gaussian_filter(hull, 1.0)
    inner = hull - draw["gap_mm"]
    outer = inner - draw["skull_mm"]

    labels = _brain_labels(fields_at[2:11])
    t2 = fields_at[1].numpy()
    t2 = _fill_subarachnoid(t2, labels, inner, rng)
    cavum = _add_midline_structures(labels, t2, atlas, warped.numpy(), midline, inner, scale, draw, ranges, rng)
    sheets = Sheets(
        labels=labels,
        points=warped.numpy(),
        inner=inner,
        midline=midline * scale,
        ventricle=fields_at[11].numpy() * scale,
        cavum=cavum,
        indicators=fields_at[2:11],
        base_z=float(atlas.label_ras(BRAINSTEM)[:, 2].mean()) + 6 / scale,
        week=atlas.week,
        scale=scale,
    )
    reflecting = membrane(sheets, np.random.default_rng([seed, 7]))
    eyes = _add_outside(labels, outer, warped.numpy(), atlas, draw, rng)
    t2 = _vary_intensity(t2, rng)

    centre, length = _outer_extent(outer)
    return Anatomy(
        t2=t2.astype(np.float32),
        labels=labels,
        skull_distance=outer.astype(np.float32),
        scale=scale,
        week=atlas.week,
        centre=centre,
        length_mm=length,
        eyes=eyes,
        membrane=reflecting,
        parameters={**draw, "pose_scale": pose_scale},
    )


def _atlas_points(
    atlas: Atlas,
    rng: np.random.Generator,
    draw: dict[str, float],
    pose: np.ndarray,
    shift: np.ndarray,
    pose_scale: float,
) -> tuple[torch.Tensor, float]:
    """Backward map canonical -> atlas (mm), and the scale that makes the outer skull HEAD_LENGTH_MM long."""
    inside = np.argwhere(atlas.hull_distance < draw["gap_mm"] + draw["skull_mm"])
    low, high = atlas.ras(inside.min(0))[0], atlas.ras(inside.max(0))[0]
    centre = (low + high) / 2
    scale = HEAD_LENGTH_MM / float(high[1] - low[1]) * pose_scale
    stretch = np.array([draw["width_factor"], 1.0, draw["height_factor"]]) * scale
    points = canonical_points()
    points = points + smooth_displacement(rng, SIZE, 13.0, draw["fine_warp_mm"])
    points = points + smooth_displacement(rng, SIZE, 34.0, draw["coarse_warp_mm"])
    linear = torch.from_numpy(np.diag(1 / stretch) @ pose.T).float()
    atlas_points = (points - torch.from_numpy(shift).float()) @ linear.T + torch.from_numpy(centre).float()
    return _shift_ventricle_wall(atlas, atlas_points, draw["ventricle_shift_mm"]), scale


def _shift_ventricle_wall(atlas: Atlas, points: torch.Tensor, shift_mm: float) -> torch.Tensor:
    """Sample `shift_mm` further out along the ventricle's normal near its wall: > 0 shrinks it.

    Between two walls the normals oppose each other; smoothing the field over 3.5 mm keeps its slope there
    below 0.23 a mm of shift, so that a shift of up to 4 mm does not fold.
    """
    gradient = np.stack(np.gradient(atlas.ventricle_distance), axis=0)[::-1]  # along (i, j, k)
    normal = gradient / (np.linalg.norm(gradient, axis=0) + 1e-3)
    normal *= np.sign(np.diag(atlas.ijk_to_ras)[:3])[:, None, None, None]
    field = shift_mm * np.exp(-((atlas.ventricle_distance / 7.0) ** 2) / 2) * normal
    sigma = _WALL_SMOOTHING_MM / np.abs(np.diag(atlas.ijk_to_ras)[:3])[::-1]
    field = np.stack([ndimage.gaussian_filter(component, sigma) for component in field])
    return points + sample_channels(field, atlas.ijk_to_ras, points, (0.0, 0.0, 0.0)).permute(1, 2, 3, 0)


def _brain_labels(indicators: torch.Tensor) -> np.ndarray:
    """The largest warped indicator wins: no staircase from 0.8 mm voxels."""
    labels = indicators[1:].argmax(dim=0).to(torch.uint8) + 1
    labels[indicators[0] <= 0.5] = 0
    return labels.numpy()


def _ellipsoid(points: np.ndarray, centre: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Sum of squares of the normalised offset: < 1 inside."""
    offset = (points - centre.astype(np.float32)) / half.astype(np.float32)
    return np.asarray(np.einsum("...c,...c->...", offset, offset))


def _fill_subarachnoid(t2: np.ndarray, labels: np.ndarray, inner: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Between brain and skull there is fluid, bright in T2; the averages end, dark and blurred, at the brain."""
    inside = inner < 0
    brain = np.clip(ndimage.gaussian_filter((labels > 0).astype(np.float32), 0.8) * 2 - 0.6, 0, 1)
    labels[inside & (labels == 0)] = EXTERNAL_CSF
    labels[~inside] = 0
    fluid = float(rng.uniform(0.68, 0.85))
    edge = np.clip(0.5 - inner / SPACING_MM / 2, 0, 1)
    return np.asarray((t2 * brain + fluid * (1 - brain)) * edge, np.float32)


def _add_midline_structures(
    labels: np.ndarray,
    t2: np.ndarray,
    atlas: Atlas,
    points: np.ndarray,
    midline: np.ndarray,
    inner: np.ndarray,
    scale: float,
    draw: dict[str, float],
    ranges: AnatomyRanges,
    rng: np.random.Generator,
) -> np.ndarray | None:
    callosum = atlas.label_ras(CORPUS_CALLOSUM)
    brain_centre = atlas.label_ras(BRAINSTEM).mean(0)
    half_width = float(rng.uniform(0.25, 0.5))
    above = points[..., 2] > brain_centre[2] + 8 / scale
    falx = (np.abs(midline - float(rng.normal(0, 0.2))) < half_width / scale) & above
    falx &= np.isin(labels, (WHITE_MATTER, CORTEX, EXTERNAL_CSF)) & (inner < -0.5)
    labels[falx] = FALX

    cavum = None
    if rng.random() < ranges.cavum_probability:
        front = callosum[callosum[:, 1] > np.percentile(callosum[:, 1], 65)]
        length = float(np.ptp(callosum[:, 1]))
        centre = np.array([0.0, front[:, 1].mean() - 0.05 * length, np.percentile(front[:, 2], 15) - 1.5])
        half = np.array([rng.uniform(1.2, 2.6), rng.uniform(0.12, 0.2) * length, rng.uniform(2.2, 4.0)])
        cavum = (np.sqrt(_ellipsoid(points, centre, half)) - 1) * float(half[0]) * scale
        inside = cavum < 0
        labels[inside] = CAVUM
        t2[inside] = 0.55 * t2[inside] + 0.45 * float(rng.uniform(0.8, 0.95))

    for side in (-1, 1):
        ventricle = atlas.label_ras(VENTRICLES)
        ventricle = ventricle[(ventricle[:, 0] * side > 3)]
        if len(ventricle) < 50:
            continue
        back = ventricle[ventricle[:, 1] < np.percentile(ventricle[:, 1], 60)]
        centre = np.median(back, axis=0) + np.array([-side * 1.0, rng.uniform(2, 6), rng.uniform(-1, 2)])
        half = np.array([4.5, 8.0, 5.0]) * rng.uniform(0.8, 1.3) * (0.6 + 0.6 * draw["choroid_fill"])
        plexus = _ellipsoid(points, centre, half) < 1 + 0.3 * _noise(rng, 6)
        plexus &= labels == VENTRICLES
        labels[plexus] = CHOROID
        t2[plexus] *= float(rng.uniform(0.78, 0.92))
    return cavum


def _add_outside(
    labels: np.ndarray,
    outer: np.ndarray,
    points: np.ndarray,
    atlas: Atlas,
    draw: dict[str, float],
    rng: np.random.Generator,
) -> np.ndarray:
    """Skull, sutures, scalp, face with eyes, neck, fluid and maternal tissue.  Returns the eyes' centres (2, 3)."""
    thickness = draw["skull_mm"] * (1 + 0.25 * _noise(rng, 5))
    skull = (outer < 0) & (outer > -thickness)
    labels[skull] = SKULL
    canonical = canonical_points().numpy()
    for _ in range(int(rng.integers(2, 5))):
        normal = rng.standard_normal(3)
        normal /= np.linalg.norm(normal)
        distance = np.abs(canonical @ normal.astype(np.float32) - float(rng.uniform(-25, 25)))
        labels[skull & (distance < float(rng.uniform(0.6, 1.6)))] = SUTURE
    labels[(outer >= 0) & (outer < draw["scalp_mm"])] = SCALP

    fluid = draw["fluid_mm"] + 9 * _noise(rng, 3)
    outside = outer >= draw["scalp_mm"]
    labels[outside] = AMNIOTIC
    labels[outside & (outer > draw["scalp_mm"] + np.maximum(fluid, -4))] = MATERNAL

    hull = atlas.ras(np.argwhere(atlas.hull_distance < 0))
    low, high = hull.min(0), hull.max(0)
    size = high - low
    face = np.array([0, low[1] + 0.78 * size[1], low[2] + 0.02 * size[2]])
    neck = np.array([0, low[1] + 0.42 * size[1], low[2] - 0.12 * size[2]])
    body = _ellipsoid(points, face, size * np.array([0.38, 0.3, 0.3])) < 1 + 0.25 * _noise(rng, 6)
    body |= _ellipsoid(points, neck, size * np.array([0.3, 0.25, 0.4])) < 1
    labels[body & (outer >= 0)] = FACE
    eyes = []
    for side in (-1, 1):
        eye = np.array([side * 0.2 * size[0], low[1] + 0.88 * size[1], low[2] + 0.14 * size[2]])
        radius = 0.075 * float(size[1])
        distance = np.sqrt(_ellipsoid(points, eye, np.ones(3)))
        labels[(distance < radius) & (outer >= 0)] = EYE
        labels[(distance >= radius) & (distance < radius * 1.25) & (outer >= 0)] = SKULL
        nearest = np.unravel_index(int(np.argmin(distance)), distance.shape)
        eyes.append([(n - (SIZE - 1) / 2) * SPACING_MM for n in nearest[::-1]])
    return np.array(eyes)


def _vary_intensity(t2: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    gamma = float(rng.uniform(0.85, 1.2))
    bias = 1 + 0.08 * _noise(rng, 3)
    return np.asarray(np.clip(t2, 0, 1) ** gamma * bias, np.float32).clip(0, 1)


def _noise(rng: np.random.Generator, nodes: int) -> np.ndarray:
    """Smooth noise in about [-1, 1] on the canonical grid."""
    return spline_field(np.clip(rng.standard_normal((nodes, nodes, nodes)), -2, 2), SIZE)


def _outer_extent(outer: np.ndarray) -> tuple[np.ndarray, float]:
    index = np.argwhere(outer < 0)
    low, high = index.min(0)[::-1], index.max(0)[::-1]
    centre = ((low + high) / 2 - (SIZE - 1) / 2) * SPACING_MM
    return centre, float((high[1] - low[1] + 1) * SPACING_MM)
