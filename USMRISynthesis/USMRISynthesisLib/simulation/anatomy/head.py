"""A simulated fetal head in canonical space: deformed atlas brain plus everything the atlas lacks.

Labels, T2 image, eyes and thin sheets move together.  Arrays are (k, j, i) on the canonical grid (160^3,
0.6 mm); canonical mm are physical mm times `scale`.  The atlas comes from spina bifida: `ranges.py` says how
ventricles, cerebellum and outer fluid are brought to normal sizes, and `Anatomy.parameters` what was drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch.nn import functional

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.geometry.canonical import SIZE, SPACING_MM
from USMRISynthesisLib.simulation.anatomy.atlas import Atlas
from USMRISynthesisLib.simulation.anatomy.deformation import MASS_SWELLING, Frame, deform
from USMRISynthesisLib.simulation.anatomy.flow import outer_fluid_mm
from USMRISynthesisLib.simulation.anatomy.labels import (
    AMNIOTIC,
    BRAINSTEM,
    CAVUM,
    CHOROID,
    DEEP_GREY,
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
    WHITE_MATTER,
)
from USMRISynthesisLib.simulation.anatomy.membrane import MembraneRanges, Sheets, bounding_box, membrane
from USMRISynthesisLib.simulation.anatomy.midline import FAR_MM, add_cavum, add_choroid, add_falx, midline_offset
from USMRISynthesisLib.simulation.anatomy.ranges import ANOMALIES, AnatomyRanges, draw_head
from USMRISynthesisLib.simulation.anatomy.skull import add_skull
from USMRISynthesisLib.simulation.anatomy.surroundings import add_face, add_limb, add_uterus
from USMRISynthesisLib.simulation.anatomy.warp import sample_channels, spline_field

__all__ = [
    "AMNIOTIC", "ANOMALIES", "CAVUM", "CHOROID", "EYE", "FACE", "FALX", "LABEL_NAMES", "LIMB", "MASS", "MATERNAL",
    "PLACENTA", "SCALP", "SKULL", "SUTURE", "Anatomy", "AnatomyRanges", "build",
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Anatomy:
    """One simulated head.

    t2 0-1; labels as LABEL_NAMES; skull_distance in mm to the skull's outer surface, negative inside.
    membrane: float32, strength of thin reflecting sheets (falx, cavum walls, ependyma, pia), 1 = a strong midline.
    scale: canonical mm per physical mm.  centre, length: of the outer skull in canonical mm.
    eyes: centres (2, 3), left then right, in canonical mm.  parameters: what was drawn, in physical mm.
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


@dataclass(frozen=True)
class _Mass:
    """A mass: centre and radii in atlas mm (before the flow), its T2 value, and whether it pushes tissue aside."""

    centre: np.ndarray
    radii: np.ndarray
    t2: float
    displaces: bool


def build(
    atlas: Atlas,
    seed: int,
    ranges: AnatomyRanges | None = None,
    anomaly: str | None = None,
    membranes: MembraneRanges | None = None,
) -> Anatomy:
    """Draw one head from an atlas week.  The same seed gives the same bytes on one machine.

    anomaly: None or one of ANOMALIES; the seed's other choices stay.  Raises Refused for another name.
    """
    if anomaly is not None and anomaly not in ANOMALIES:
        raise Refused("bad-anomaly", f"There is no anomaly {anomaly!r}.", f"Use one of {', '.join(ANOMALIES)}.")
    ranges = ranges or AnatomyRanges()
    rng, warp_rng, middle_rng, outside_rng, sheet_rng, t2_rng = (np.random.default_rng([seed, n]) for n in range(1, 7))
    draw = draw_head(rng, atlas.week, ranges, anomaly)
    # the averages hold some of that fluid already; less than none would cut the brain
    draw["gap_mm"] = max(draw["outer_fluid_mm"] - outer_fluid_mm(atlas), -1.2)
    mass = _draw_mass(atlas, rng, ranges, draw) if anomaly == "mass" else None
    pushing = (mass.centre, mass.radii) if mass and mass.displaces else None
    frame = deform(atlas, warp_rng, draw, ranges.pose_deg, ranges.pose_mm, pushing)

    inner = _hull(atlas, frame) - np.float32(draw["gap_mm"] * frame.scale)
    outer = inner - np.float32(draw["skull_mm"] * frame.scale)
    box = bounding_box(inner < 0)
    fields = np.concatenate((atlas.t2[None], atlas.ventricle_distance[None], atlas.indicators))
    points = torch.from_numpy(np.stack([axis[box] for axis in (frame.x, frame.y, frame.z)], axis=-1))
    sampled = sample_channels(fields, atlas.ijk_to_ras, points, (0.0, 40.0, *[0.0] * 9)).numpy()
    labels = _everywhere(_brain_labels(sampled[2:]), box, 0)
    t2 = _everywhere(_vary_contrast(sampled[0], sampled[2:], t2_rng), box, 0.0)
    ventricle = _everywhere(sampled[1] * np.float32(frame.scale), box, 40.0)
    _fill_subarachnoid(t2, labels, inner, box, t2_rng)

    offset = midline_offset(frame, middle_rng)
    add_falx(labels, frame, atlas, offset, inner)
    state = "present" if middle_rng.random() < ranges.cavum_probability else "closed"
    state = "absent" if anomaly == "absent-cavum" else state
    cavum = add_cavum(labels, t2, frame, atlas, offset, middle_rng, draw, state, ranges.cavum)
    add_choroid(labels, t2, frame, atlas, ventricle, middle_rng, draw)
    signed_mass = _add_mass(labels, t2, frame, mass, inner, middle_rng) if mass else None
    sheets = Sheets(
        labels=labels[box],
        x=frame.x[box],
        z=frame.z[box],
        inner=inner[box],
        midline=offset[box],
        ventricle=ventricle[box],
        cavum=None if cavum is None else cavum[box],
        mass=None if signed_mass is None else signed_mass[box],
        indicators=sampled[2:],
        base_z=float(atlas.label_ras(BRAINSTEM)[:, 2].mean()) + 6,
        half_width=float(frame.size[0]) / 2,
        week=atlas.week,
        scale=frame.scale,
        box=box,
    )
    reflecting = membrane(sheets, sheet_rng, membranes)

    add_uterus(labels, frame, outer, outside_rng, draw, ranges.placenta_probability)
    if outside_rng.random() < ranges.limb_probability:
        add_limb(labels, frame, outer, outside_rng, draw)
    add_skull(labels, t2, frame, atlas, outer, outside_rng, draw)
    eyes = add_face(labels, frame, outer, atlas.week, outside_rng)
    centre, length = _outer_extent(outer)
    return Anatomy(
        t2=_vary_intensity(t2, t2_rng),
        labels=labels,
        skull_distance=outer,
        scale=frame.scale / draw["size_factor"],
        week=atlas.week,
        centre=centre,
        length_mm=length,
        eyes=eyes,
        membrane=reflecting,
        parameters={**draw, "anomaly": anomaly or "none"},
    )


def _hull(atlas: Atlas, frame: Frame) -> np.ndarray:
    """Signed canonical mm to the brain hull, read at half the resolution: it is smooth over 2.5 mm."""
    fine = torch.from_numpy(np.stack((frame.x, frame.y, frame.z)))[None]
    coarse = functional.interpolate(fine, size=(SIZE // 2,) * 3, mode="trilinear", align_corners=True)[0]
    distance = sample_channels(atlas.hull_distance[None], atlas.ijk_to_ras, coarse.permute(1, 2, 3, 0), (40.0,))
    full = functional.interpolate(distance[None], size=(SIZE,) * 3, mode="trilinear", align_corners=True)[0, 0]
    return np.asarray(full.numpy() * np.float32(frame.scale))


def _everywhere(values: np.ndarray, box: tuple[slice, ...], outside: float) -> np.ndarray:
    out = np.full((SIZE, SIZE, SIZE), outside, values.dtype)
    out[box] = values
    return out


def _brain_labels(indicators: np.ndarray) -> np.ndarray:
    """The largest warped indicator wins: no staircase from 0.8 mm voxels."""
    best, labels = indicators[1].copy(), np.ones(indicators.shape[1:], np.uint8)
    for label in range(2, 9):
        better = indicators[label] > best
        labels[better] = label
        np.maximum(best, indicators[label], out=best)
    labels[indicators[0] <= 0.5] = 0
    return labels


def _vary_contrast(t2: np.ndarray, indicators: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each tissue a little brighter or darker than in the average, fluids less."""
    change = rng.normal(0, 0.045, 9)
    change[[0, 2, 4]] *= [0.0, 0.5, 0.5]
    varied = t2 + np.tensordot(change.astype(np.float32), indicators, axes=1)
    return np.asarray(np.clip(varied, 0, 1), np.float32)


def _fill_subarachnoid(
    t2: np.ndarray, labels: np.ndarray, inner: np.ndarray, box: tuple[slice, ...], rng: np.random.Generator
) -> None:
    """Between brain and skull there is fluid, bright in T2; the averages end, dark and blurred, at the brain."""
    solid = torch.from_numpy((labels[box] > 0).astype(np.float32))[None, None]
    smooth = functional.avg_pool3d(solid, 3, stride=1, padding=1)[0, 0].numpy()
    brain = np.clip(smooth * 2 - 0.6, 0, 1)
    near = inner[box]
    labels[box][(near < 0) & (labels[box] == 0)] = EXTERNAL_CSF
    labels[box][near >= 0] = 0
    fluid = np.float32(rng.uniform(0.68, 0.85))
    t2[box] = (t2[box] * brain + fluid * (1 - brain)) * np.clip(0.5 - near / SPACING_MM / 2, 0, 1)


def _draw_mass(atlas: Atlas, rng: np.random.Generator, ranges: AnatomyRanges, draw: dict[str, float]) -> _Mass | None:
    """A place within the hemispheres, size, brightness in T2, echogenicity (for the acquisition), and its push."""
    inside = np.isin(atlas.labels, (WHITE_MATTER, DEEP_GREY)) & (atlas.hull_distance < -6)
    places = np.argwhere(inside if inside.any() else atlas.labels > 0)
    centre = atlas.ras(places[int(rng.integers(len(places)))])[0]
    radius = float(rng.uniform(*ranges.mass_radius_mm))
    mass = _Mass(centre, radius * rng.uniform(0.75, 1.25, 3), float(rng.uniform(0.2, 0.95)), bool(rng.random() < 0.5))
    draw |= {"mass_radius_mm": radius, "mass_t2": mass.t2, "mass_echo": float(rng.uniform(0.0, 1.0))}
    draw |= {"mass_displaces": float(mass.displaces)}
    return replace(mass, radii=mass.radii / MASS_SWELLING) if mass.displaces else mass


def _add_mass(
    labels: np.ndarray, t2: np.ndarray, frame: Frame, mass: _Mass, inner: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Returns the signed function of the mass in canonical mm, negative inside."""
    lumps = spline_field(np.clip(rng.standard_normal((20, 20, 20)), -2, 2), SIZE)
    box = frame.box(mass.centre, mass.radii * 2)
    signed = np.full(labels.shape, FAR_MM, np.float32)
    radius = np.sqrt(frame.ellipsoid(mass.centre, mass.radii, box)) + 0.1 * lumps[box]
    signed[box] = np.minimum((radius - 1) * float(mass.radii.mean()) * frame.scale, FAR_MM)
    inside = (signed[box] < 0) & (inner[box] < -0.5)
    labels[box][inside] = MASS
    blend = np.clip(0.5 - signed[box], 0, 1) * (inner[box] < -0.5)
    t2[box] += blend * (mass.t2 * (1 + 0.15 * lumps[box]) - t2[box])
    return signed


def _vary_intensity(t2: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    gamma = np.float32(rng.uniform(0.85, 1.2))
    bias = 1 + 0.08 * spline_field(np.clip(rng.standard_normal((3, 3, 3)), -2, 2), SIZE)
    return np.asarray(np.clip(np.clip(t2, 0, 1) ** gamma * bias, 0, 1), np.float32)


def _outer_extent(outer: np.ndarray) -> tuple[np.ndarray, float]:
    index = np.array([(part.start + 1, part.stop - 2) for part in bounding_box(outer < 0)])[::-1]
    low, high = index[:, 0], index[:, 1]
    centre = ((low + high) / 2 - (SIZE - 1) / 2) * SPACING_MM
    return centre, float((high[1] - low[1] + 1) * SPACING_MM)
