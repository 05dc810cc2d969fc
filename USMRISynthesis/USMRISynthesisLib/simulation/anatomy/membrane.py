"""Thin reflecting sheets of the fetal head: bright lines in ultrasound that a T2 image does not show.

Every sheet is the zero level of a signed function on the canonical grid and is drawn with a Gaussian profile
about one voxel wide.  Strength and smooth interruptions are random for each kind of sheet.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from USMRISynthesisLib.geometry.canonical import SIZE, SPACING_MM
from USMRISynthesisLib.simulation.anatomy.labels import (
    CAVUM,
    CEREBELLUM,
    CORPUS_CALLOSUM,
    CORTEX,
    DEEP_GREY,
    EXTERNAL_CSF,
    FALX,
    MASS,
    VENTRICLES,
    WHITE_MATTER,
)
from USMRISynthesisLib.simulation.anatomy.warp import spline_field

SHEET_SIGMA_MM = 0.36  # full width at half maximum 0.85 canonical mm: thinner would alias on the 0.6 mm grid
_ECHOGENIC_SULCI_WEEK = 26


@dataclass(frozen=True)
class MembraneRanges:
    """Uniform ranges of each sheet's strength; 1 is a strong midline echo."""

    midline: tuple[float, float] = (0.3, 1.0)
    third_ventricle: tuple[float, float] = (0.1, 0.6)
    cavum: tuple[float, float] = (0.5, 1.1)
    ependyma: tuple[float, float] = (0.15, 0.9)
    pia: tuple[float, float] = (0.08, 0.5)
    sulci: tuple[float, float] = (0.2, 0.7)
    insula: tuple[float, float] = (0.4, 1.2)
    tentorium: tuple[float, float] = (0.3, 0.8)
    mass: tuple[float, float] = (0.1, 0.7)
    less: tuple[float, float] = (0.0, 0.0)  # how much less of every sheet is unbroken, as a share


@dataclass(frozen=True, eq=False)
class Sheets:
    """What the sheets follow, on the part `box` of the canonical grid that holds the head.

    x, z: atlas mm; inner: signed canonical mm to the skull's inner surface; midline, ventricle, cavum, mass: signed
    canonical mm, negative inside (cavum and mass may be missing); indicators: (9, k, j, i) as in Atlas; base_z:
    atlas mm, lower end of the midline sheets; half_width: of the brain in atlas mm; scale: canonical per physical mm.
    """

    labels: np.ndarray
    x: np.ndarray
    z: np.ndarray
    inner: np.ndarray
    midline: np.ndarray
    ventricle: np.ndarray
    cavum: np.ndarray | None
    mass: np.ndarray | None
    indicators: np.ndarray
    base_z: float
    half_width: float
    week: int
    scale: float
    box: tuple[slice, ...]


def membrane(sheets: Sheets, rng: np.random.Generator, ranges: MembraneRanges | None = None) -> np.ndarray:
    """Strength (160, 160, 160) float32 of the sheets; 0 away from them and outside the skull."""
    ranges = ranges or MembraneRanges()
    strength = {name: float(rng.uniform(*limits)) for name, limits in vars(ranges).items() if name != "less"}
    less = float(rng.uniform(*ranges.less)) if any(ranges.less) else 0.0
    inner, labels, midline = sheets.inner, sheets.labels, sheets.midline
    above = np.clip((sheets.z - sheets.base_z) / 2 + 1, 0, 1)
    total = np.zeros(inner.shape, np.float32)

    def add(
        name: str, profile: np.ndarray, where: np.ndarray | float = 1.0, finest: int = 14, share: float = 0.75
    ) -> None:
        broken = strength[name] * _interruptions(rng, finest, share - less)[sheets.box]
        np.maximum(total, profile * where * broken, out=total)

    across = _profile(midline)
    add("midline", across, np.isin(labels, (WHITE_MATTER, CORTEX, EXTERNAL_CSF, FALX)) * above, finest=26, share=0.5)
    add("third_ventricle", across, np.isin(labels, (DEEP_GREY, VENTRICLES)) * above)
    add("ependyma", _profile(_distance(sheets.ventricle)), labels != CAVUM)
    surface = _profile(_distance(0.5 - sheets.indicators[0] + sheets.indicators[EXTERNAL_CSF]))
    depth = np.clip((-inner / sheets.scale - 5) / 4, 0, 1)
    lateral = np.clip((np.abs(sheets.x) / sheets.half_width - 0.35) / 0.15, 0, 1)
    age = float(np.clip((sheets.week - 20) / 12, 0.15, 1))
    add("pia", surface, 0.5 + 0.5 * age)
    add("insula", surface, depth * lateral)
    if sheets.week >= _ECHOGENIC_SULCI_WEEK:
        add("sulci", surface, depth * age)
        add("sulci", _profile(_distance(_furrows(rng, sheets.week)[sheets.box])), age * _furrowed(sheets))
    upper = np.clip((sheets.z - sheets.base_z) / 3 + 4, 0, 1)
    add("tentorium", _profile(_distance(0.5 - sheets.indicators[CEREBELLUM])), upper)
    if sheets.cavum is not None:
        # two lines along the sides; the front and back of the cavum reflect little
        side = np.clip(np.abs(midline) / (0.7 * sheets.scale), 0.2, 1)
        total *= labels != CAVUM  # the old wall between the horns went with the cavum
        add("cavum", _profile(_distance(sheets.cavum)), side * (labels != CORPUS_CALLOSUM), finest=7)
    if sheets.mass is not None:
        total *= labels != MASS
        add("mass", _profile(_distance(sheets.mass)))

    out = np.zeros((SIZE, SIZE, SIZE), np.float32)
    out[sheets.box] = total * np.clip(-inner / SPACING_MM, 0, 1)
    return out


def _profile(distance_mm: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(-((distance_mm / SHEET_SIGMA_MM) ** 2) / 2), np.float32)


def _distance(value: np.ndarray, floor: float = 0.004) -> np.ndarray:
    """First-order distance in canonical mm to the zero level: the value over its slope."""
    slope = np.zeros_like(value)
    for axis in range(3):
        slope += np.gradient(value, SPACING_MM, axis=axis) ** 2
    return np.asarray(value / np.maximum(np.sqrt(slope), floor), np.float32)


def _interruptions(rng: np.random.Generator, nodes: int, share: float) -> np.ndarray:
    """Smooth factor 0-1.3 that breaks a sheet into the stretches that a real scan shows."""
    coarse = np.clip(rng.standard_normal((5, 5, 5)), -2, 2)
    fine = np.clip(rng.standard_normal((nodes, nodes, nodes)), -2, 2)
    field = spline_field(coarse, SIZE) + spline_field(fine, SIZE)
    return np.clip(share + 0.75 * field, 0, 1.3)


def _furrows(rng: np.random.Generator, week: int) -> np.ndarray:
    """A random field whose zero level winds like the sulci: about 14 mm apart at 26 weeks, 9 mm at 34."""
    nodes = round(np.interp(week, (26, 34), (9, 13)))
    return spline_field(rng.standard_normal((nodes, nodes, nodes)), SIZE)


def _furrowed(sheets: Sheets) -> np.ndarray:
    """Where sulci lie: the outer 4-10 mm of the hemispheres, deeper with age."""
    depth = float(np.interp(sheets.week, (26, 34), (4, 10))) * sheets.scale
    hemisphere = np.isin(sheets.labels, (CORTEX, WHITE_MATTER)) & (sheets.z > sheets.base_z)
    return np.asarray(hemisphere * np.clip((depth + 4 * sheets.scale + sheets.inner) / 2, 0, 1), np.float32)


def bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """The mask's bounding box with one voxel of margin, within the grid."""
    slices = []
    for axis in range(3):
        used = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        slices.append(slice(max(int(used[0]) - 1, 0), int(used[-1]) + 2))
    return tuple(slices)
