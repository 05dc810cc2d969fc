"""Acoustic properties of the labelled tissues, and their maps on the canonical grid.

Two scatter models: by label, or from the T2 image's intensity (dark in T2 scatters more); a head may lie between.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from USMRISynthesisLib.geometry.canonical import SIZE, SPACING_MM
from USMRISynthesisLib.simulation.anatomy.head import Anatomy
from USMRISynthesisLib.simulation.anatomy.labels import (
    AMNIOTIC,
    BRAINSTEM,
    CAVUM,
    CEREBELLUM,
    CHOROID,
    CORPUS_CALLOSUM,
    CORTEX,
    DEEP_GREY,
    EXTERNAL_CSF,
    EYE,
    FACE,
    FALX,
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

# label: attenuation dB/cm/MHz, impedance MRayl, scatter amplitude; orders of magnitude, not measurements
PROPERTIES = {
    0: (0.01, 1.50, 0.01), WHITE_MATTER: (0.45, 1.555, 0.100), VENTRICLES: (0.01, 1.51, 0.012),
    CEREBELLUM: (0.50, 1.57, 0.120), EXTERNAL_CSF: (0.02, 1.515, 0.060),
    CORTEX: (0.50, 1.56, 0.110), DEEP_GREY: (0.50, 1.56, 0.110), BRAINSTEM: (0.50, 1.56, 0.120),
    CORPUS_CALLOSUM: (0.45, 1.56, 0.095), SKULL: (3.5, 1.66, 0.30), SCALP: (0.6, 1.535, 0.22),
    FALX: (0.7, 1.57, 0.13), CAVUM: (0.01, 1.51, 0.012), CHOROID: (0.55, 1.57, 0.50),
    EYE: (0.05, 1.52, 0.02), AMNIOTIC: (0.005, 1.50, 0.022), MATERNAL: (0.6, 1.60, 0.20),
    FACE: (0.7, 1.60, 0.30), SUTURE: (0.8, 1.60, 0.25), LIMB: (0.7, 1.60, 0.30),
    PLACENTA: (0.6, 1.58, 0.26), MASS: (0.6, 1.58, 0.25),
}  # fmt: skip
SCATTER, MEMBRANE = 1, 4  # places in the tissue maps
_LABELS = 32
_OUTSIDE = (SCALP, MATERNAL, FACE, LIMB, PLACENTA)
_BRAIN = (WHITE_MATTER, CEREBELLUM, CORTEX, DEEP_GREY, BRAINSTEM,
          CORPUS_CALLOSUM)  # fmt: skip
_FLUID = (VENTRICLES, EXTERNAL_CSF, CAVUM)
_SMOOTH_MM = 0.4
_ALL = slice(0, SIZE)
_ARRAYS = ("t2", "labels", "skull_distance", "membrane")


def tissue_maps(anatomy: Anatomy, draw: dict[str, float], rng: np.random.Generator, rows: slice = _ALL) -> np.ndarray:
    """Maps (6, k, j, i): attenuation, scatter, impedance, skull 0-1, membrane, distance to the skull in mm.

    rows: of the canonical grid's k, even at both ends; a frame needs few of them.
    """
    anatomy = replace(anatomy, **{name: getattr(anatomy, name)[rows] for name in _ARRAYS})
    table = np.tile(np.array(PROPERTIES[MATERNAL], np.float32)[:, None], (1, _LABELS))
    for label, values in PROPERTIES.items():
        table[:, label] = values
        table[:, label] *= [rng.uniform(0.75, 1.3), 1 + rng.normal(0, 0.004), np.exp(rng.normal(0, 0.22))]
    table[2, list(_BRAIN)] *= draw["brain_level"] / 0.11
    table[2, [CEREBELLUM, DEEP_GREY, BRAINSTEM]] *= draw["deep_scatter"]
    outside = [label for label in range(_LABELS) if label not in PROPERTIES or label in _OUTSIDE]
    if "mass_echo" in anatomy.parameters:
        table[2, MASS] = draw["brain_level"] * (0.2 + 2.5 * float(anatomy.parameters["mass_echo"]))
    table[2, outside] *= draw["maternal_scatter"] * draw["brain_level"] / PROPERTIES[MATERNAL][2]
    table[2, list(_FLUID)] *= draw["fluid_scatter"]
    table[2, AMNIOTIC] *= draw["amniotic_scatter"]
    table[2, CHOROID] *= draw["choroid_scatter"]
    alpha, impedance, scatter = (row[anatomy.labels] for row in table)
    if draw["t2_scatter"] > 0:
        scatter = _from_t2(anatomy, scatter, draw)
    scatter = scatter * _texture(len(scatter), draw, rng)
    sigma = _SMOOTH_MM / SPACING_MM
    bone = (anatomy.labels == SKULL).astype(np.float32)
    smooth = [ndimage.gaussian_filter(field, sigma, truncate=3) for field in (scatter, impedance, bone)]
    membrane = np.asarray(anatomy.membrane, np.float32)
    return np.stack([alpha, *smooth, membrane, anatomy.skull_distance])


def _from_t2(anatomy: Anatomy, scatter: np.ndarray, draw: dict[str, float]) -> np.ndarray:
    """The other scatter model inside the brain: a falling function of T2 intensity, mixed in by its share."""
    brain = (anatomy.labels >= 1) & (anatomy.labels <= 8)
    from_t2 = 1.6 * draw["brain_level"] * (1.03 - np.clip(anatomy.t2, 0, 1)) ** draw["t2_exponent"]
    share = draw["t2_scatter"]
    mixed = np.exp((1 - share) * np.log(scatter + 1e-4) + share * np.log(from_t2 + 1e-4))
    return np.where(brain, mixed, scatter).astype(np.float32)


def _texture(rows: int, draw: dict[str, float], rng: np.random.Generator) -> np.ndarray:
    """Echogenicity that varies within a tissue, over about 3 mm and 1.2 mm: a factor (rows, 160, 160), rows even."""
    half = rng.standard_normal((rows // 2, SIZE // 2, SIZE // 2)).astype(np.float32)
    coarse = ndimage.gaussian_filter(half, 1.4, truncate=3)
    coarse *= draw["coarse_texture"] / coarse.std()
    fine = ndimage.gaussian_filter(rng.standard_normal((rows, SIZE, SIZE), dtype=np.float32), 0.7, truncate=2)
    fine *= draw["fine_texture"] / fine.std()
    fine += coarse.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    return np.exp(fine, out=fine)
