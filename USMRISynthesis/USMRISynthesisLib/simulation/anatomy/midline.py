"""Midline and ventricular structures that the averages lack: falx, cavum septi pellucidi, choroid plexus."""

from __future__ import annotations

import numpy as np

from USMRISynthesisLib.geometry.canonical import SIZE, SPACING_MM
from USMRISynthesisLib.simulation.anatomy.atlas import Atlas
from USMRISynthesisLib.simulation.anatomy.deformation import Frame
from USMRISynthesisLib.simulation.anatomy.flow import ventricles_of
from USMRISynthesisLib.simulation.anatomy.labels import (
    BRAINSTEM,
    CAVUM,
    CHOROID,
    CORPUS_CALLOSUM,
    CORTEX,
    DEEP_GREY,
    EXTERNAL_CSF,
    FALX,
    VENTRICLES,
    WHITE_MATTER,
)
from USMRISynthesisLib.simulation.anatomy.ranges import CavumRanges
from USMRISynthesisLib.simulation.anatomy.warp import spline_field

FAR_MM = 3.0  # signed functions end here: flat beyond, so that no sheet appears at the end of their box


def midline_offset(frame: Frame, rng: np.random.Generator) -> np.ndarray:
    """Signed canonical mm to the midline sheet, which is not quite flat."""
    bend = rng.normal(0, 0.35) + 0.5 * spline_field(np.clip(rng.standard_normal((5, 5, 5)), -2, 2), SIZE)
    offset = frame.x - bend.astype(np.float32)
    slope = np.gradient(offset, SPACING_MM, axis=2)  # the warps widen the neighbourhood of the midline at places
    return np.asarray(offset / np.maximum(np.abs(slope), 0.1), np.float32)


def add_falx(labels: np.ndarray, frame: Frame, atlas: Atlas, offset: np.ndarray, inner: np.ndarray) -> None:
    """One voxel of falx between the hemispheres, its free edge an arch above the corpus callosum."""
    callosum = atlas.label_ras(CORPUS_CALLOSUM)
    box = frame.box(np.array([0, *(frame.low + frame.high)[1:] / 2]), frame.size / 2)
    base = float(atlas.label_ras(BRAINSTEM)[:, 2].mean()) + 6 / frame.scale
    middle = (callosum.min(0) + callosum.max(0)) / 2
    half = np.ptp(callosum, axis=0)[1] / 2
    # in front only a low ridge, behind down to the tentorium
    ahead = np.clip((frame.y[box] - np.float32(middle[1])) / np.float32(half), -1.5, 1.5)
    arch = ((frame.y[box] - middle[1]) / (1.12 * half)) ** 2 + ((frame.z[box] - base) / (1.25 * half)) ** 2
    region = (np.abs(offset[box]) <= SPACING_MM / 2) & (arch > 1 + 0.35 * ahead) & (frame.z[box] > base)
    region &= np.isin(labels[box], (WHITE_MATTER, CORTEX, EXTERNAL_CSF)) & (inner[box] < -0.5)
    labels[box][region] = FALX


def add_cavum(
    labels: np.ndarray,
    t2: np.ndarray,
    frame: Frame,
    atlas: Atlas,
    offset: np.ndarray,
    rng: np.random.Generator,
    draw: dict[str, float],
    state: str,
    ranges: CavumRanges | None = None,
) -> np.ndarray | None:
    """A box or teardrop between the frontal horns.  Returns its signed function (< 0 inside), None if there is none.

    state: "present"; "closed" (nothing between the horns); "absent" (the horns are one, as without a septum).
    """
    ranges = ranges or CavumRanges()
    callosum = atlas.label_ras(CORPUS_CALLOSUM)
    front = callosum[callosum[:, 1] > np.percentile(callosum[:, 1], 65)]
    length = float(np.ptp(callosum[:, 1]))
    back = rng.uniform(*ranges.back) * length
    centre = np.array([0.0, front[:, 1].mean() - back, np.percentile(front[:, 2], 15) - 1.5])
    week = float(np.interp(atlas.week, (20, 28), (0.0, 1.0)))
    sides = np.array([ranges.width_mm, np.multiply(ranges.length, length), ranges.height_mm])
    half = rng.uniform(sides[:, 0], sides[:, 1]) + week * np.array([0.9, 0, 1])
    taper, corner = float(rng.uniform(-0.45, 0.45)), float(rng.choice([2.5, 4.0, 6.0]))
    brightness = float(rng.uniform(*ranges.brightness))
    draw["cavum_width_mm"] = 2 * float(half[0]) if state == "present" else 0.0
    if state == "closed":
        return None
    box = frame.box(centre, half)
    along = (frame.y[box] - np.float32(centre[1])) / np.float32(half[1])
    across = np.abs(offset[box]) / frame.scale / (half[0] * (1 - taper * np.clip(along, -1, 1)))
    height = np.abs(frame.z[box] - np.float32(centre[2])) / np.float32(half[2])
    radius = (across**corner + np.abs(along) ** corner + height**corner) ** (1 / corner)
    kept = (DEEP_GREY,) if ranges.clear else (DEEP_GREY, CORPUS_CALLOSUM)
    inside = (radius < 1) & ~np.isin(labels[box], kept)
    labels[box][inside] = CAVUM if state == "present" else VENTRICLES
    blend = np.clip((1.15 - radius) / 0.3, 0, 1)
    for label in kept:
        blend = blend * (labels[box] != label)
    t2[box] += ranges.contrast * blend * (brightness - t2[box])
    if state == "absent":
        return None
    signed = np.full(labels.shape, FAR_MM, np.float32)
    signed[box] = np.minimum((radius - 1) * float(half[0]) * frame.scale, FAR_MM)
    # the leaflets are thinner than a voxel: a faint dark line in T2
    t2[box] *= 1 - 0.22 * np.exp(-((signed[box] / 0.4) ** 2) / 2)
    return signed


def add_choroid(
    labels: np.ndarray,
    t2: np.ndarray,
    frame: Frame,
    atlas: Atlas,
    ventricle: np.ndarray,
    rng: np.random.Generator,
    draw: dict[str, float],
) -> None:
    """A plexus in each atrium with a tail along the body; `ventricle`: signed canonical mm, negative inside."""
    for side, name in ((-1, "left"), (1, "right")):
        fill = float(np.clip(draw["choroid_fill"] + rng.normal(0, 0.12), 0.35, 1.0))
        half = np.array([9.0, rng.uniform(7, 11), rng.uniform(6, 9)]) * (0.75 + 0.3 * fill)
        drift = np.array([0, rng.uniform(1, 6), rng.uniform(-2, 1.5)])
        tail, dark = float(rng.uniform(6, 14)), float(rng.uniform(0.74, 0.92))
        bumps = spline_field(np.clip(rng.standard_normal((14, 14, 14)), -2, 2), SIZE)
        place = ventricles_of(atlas).atria.get(side)
        if place is None:
            continue
        draw[f"choroid_{name}"] = fill
        box = frame.box(place + drift, half + tail)
        wall = draw[f"atrium_{name}_mm"] / 2 * frame.scale
        body = frame.ellipsoid(place + drift, half, box)
        thin = frame.ellipsoid(place + drift + [0, tail, 3.0], np.array([9.0, tail, 5.0]), box)
        depth = -ventricle[box] / wall
        plexus = (body < 1 + 0.35 * bumps[box]) & (depth > 1.02 - fill + 0.12 * bumps[box])
        plexus |= (thin < 1 + 0.3 * bumps[box]) & (depth > 1.2 - 0.6 * fill)
        plexus &= (labels[box] == VENTRICLES) & (frame.x[box] * side > 1.5)
        labels[box][plexus] = CHOROID
        t2[box][plexus] *= dark
