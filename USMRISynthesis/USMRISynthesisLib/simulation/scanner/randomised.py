"""Echogenicities and boundaries drawn far beyond what is known of tissue: a network is left with geometry and place.

After the contrast-agnostic training of Billot et al., Medical Image Analysis 2023 (SynthSeg): the intensity of every
label is drawn anew for each image.  In ultrasound the boundaries shine as much as the tissues, so each pair of
neighbouring labels has an echo of its own too.  The middles of the ranges follow real volumes
(`python -m USMRISynthesisLib.evaluation.simulator.echogenicity`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from USMRISynthesisLib.simulation.anatomy import labels as names
from USMRISynthesisLib.simulation.anatomy.membrane import MembraneRanges
from USMRISynthesisLib.simulation.anatomy.ranges import AnatomyRanges, CavumRanges
from USMRISynthesisLib.simulation.scanner.acoustics import MEMBRANE, SCATTER

_LABELS = 32
_SOLID = (names.WHITE_MATTER, names.CEREBELLUM, names.CORTEX, names.DEEP_GREY, names.BRAINSTEM, names.CORPUS_CALLOSUM,
          names.CHOROID, names.FALX)  # fmt: skip
_FLUID = (names.VENTRICLES, names.CAVUM)
_INSIDE = (*_SOLID, *_FLUID, names.EXTERNAL_CSF)
_SMOOTH_VOXELS = 0.6


@dataclass(frozen=True)
class Randomisation:
    """Ranges (uniform) of one head's spreads, as natural logarithms of scatter amplitude, and of its boundaries.

    tissue: standard deviation over the solid tissues. fluid: mean of ventricles and cavum over their usual scatter;
    fluid_spread: its deviation. outer: mean of the outer fluid, whose vessels and membranes shine; outer_spread.
    boundary: the strongest echo between two labels, 1 = a strong midline; boundary_share: of the pairs that have one.
    fields: smooth changes of echogenicity over some cm, whatever the tissue.
    """

    tissue: tuple[float, float] = (0.05, 0.5)
    fluid: tuple[float, float] = (-0.3, 1.1)
    fluid_spread: tuple[float, float] = (0.0, 0.4)
    outer: tuple[float, float] = (-0.6, 1.5)
    outer_spread: tuple[float, float] = (0.0, 0.3)
    boundary: tuple[float, float] = (0.0, 1.1)
    boundary_share: tuple[float, float] = (0.2, 0.9)
    fields: tuple[float, float] = (0.0, 0.5)

    def draw(self, rng: np.random.Generator) -> dict[str, float]:
        """One value of each."""
        return {name: float(rng.uniform(*limits)) for name, limits in vars(self).items()}


# The lines that walls and membranes draw are broken more, and may be missing: on real heads the ventricle's wall shows
# where it lies across the beam, and nowhere else.
MEMBRANES = MembraneRanges(
    midline=(0.15, 1.1), third_ventricle=(0.0, 0.7), cavum=(0.2, 1.4), ependyma=(0.0, 0.9), pia=(0.0, 0.8),
    sulci=(0.0, 1.0), insula=(0.0, 1.4), tentorium=(0.0, 1.0), mass=(0.0, 0.8), less=(0.0, 0.55),
)  # fmt: skip
# Normal fetuses have a larger and higher cerebellum than the averages; the size is that of weeks 18 to 36. Their cavum
# lies further forward than the averages' callosum, by the boxes on real frames (`hc18/structures.csv`: its middle half
# way from the head's middle to the front), and is as bright as the ventricles.
CAVUM = CavumRanges(
    back=(-0.28, 0.06), width_mm=(1.5, 2.9), length=(0.15, 0.27), height_mm=(3.4, 5.4), brightness=(0.82, 0.97),
    contrast=1.0, clear=True,
)  # fmt: skip
ANATOMY = AnatomyRanges(
    cerebellum_factor=(0.9, 1.16), cerebellum_lift_mm=(1.0, 7.0), atrium_mm=(3.6, 9.4), size_factor=(0.78, 1.08),
    width_factor=(0.9, 1.13), fine_warp_mm=(0.3, 2.2), coarse_warp_mm=(0.5, 4.0), cavum=CAVUM,
)  # fmt: skip


def randomise(maps: np.ndarray, labels: np.ndarray, seed: int, ranges: Randomisation | None = None) -> np.ndarray:
    """Tissue maps (6, k, j, i) as `acoustics.tissue_maps` makes them, with scatter and sheets drawn anew.

    labels: (k, j, i) of the same rows.
    """
    rng = np.random.default_rng([seed, 9])
    draw = (ranges or Randomisation()).draw(rng)
    factor = np.zeros(_LABELS, np.float32)
    factor[list(_SOLID)] = rng.normal(0, draw["tissue"], len(_SOLID))
    factor[list(_FLUID)] = draw["fluid"] + rng.normal(0, draw["fluid_spread"], len(_FLUID))
    factor[names.EXTERNAL_CSF] = draw["outer"] + rng.normal(0, draw["outer_spread"])
    change = ndimage.gaussian_filter(factor[labels], _SMOOTH_VOXELS, truncate=3)
    coarse = rng.standard_normal((7, 7, 7))
    change += draw["fields"] * ndimage.zoom(coarse, np.array(labels.shape) / 7, order=1, grid_mode=True, mode="nearest")
    result = maps.copy()
    result[SCATTER] *= np.exp(change)
    result[MEMBRANE] = np.maximum(result[MEMBRANE], _boundaries(labels, draw, rng))
    return result


def _boundaries(labels: np.ndarray, draw: dict[str, float], rng: np.random.Generator) -> np.ndarray:
    """Strength of the sheets between the labels inside the skull, each pair of labels with its own."""
    inside = np.zeros(_LABELS, bool)
    inside[list(_INSIDE)] = True
    strength = draw["boundary"] * np.abs(rng.normal(0, 0.6, (_LABELS, _LABELS)))
    strength *= rng.random(strength.shape) < draw["boundary_share"]
    strength = np.triu(strength, 1)
    strength = (strength + strength.T) * np.outer(inside, inside)
    strength = strength.astype(np.float32)
    edges = np.zeros(labels.shape, np.float32)
    for axis in range(3):
        low = [slice(None)] * 3
        high = [slice(None)] * 3
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        step = strength[labels[tuple(low)], labels[tuple(high)]]
        for side in (tuple(low), tuple(high)):
            np.maximum(edges[side], step, out=edges[side])
    broken = ndimage.zoom(rng.standard_normal((14, 14, 14)), np.array(labels.shape) / 14, order=1, grid_mode=True,
                          mode="nearest")  # fmt: skip
    return np.asarray(ndimage.gaussian_filter(edges, _SMOOTH_VOXELS) * np.clip(0.6 + 0.6 * broken, 0, 1.4), np.float32)


def broadened(thinnest_mm: float) -> dict[str, tuple[float, float]]:
    """Settings of an acquisition whose ranges real volumes were found to leave. thinnest_mm: of the skull's echo."""
    return {
        "interface": (0.0, 10.0), "membrane": (0.2, 2.8), "membrane_floor": (0.0, 0.3), "brain_level": (0.06, 0.26),
        "deep_scatter": (0.8, 2.2), "coarse_texture": (0.05, 0.6), "fine_texture": (0.0, 0.5), "haze": (0.2, 1.3),
        "haze_level": (1.0, 6.0), "halo": (0.2, 4.5), "noise_db": (-40.0, -3.0), "smoothing": (0.0, 1.0),
        "axial_mm": (0.2, 0.6), "lateral_mm": (0.35, 1.2), "choroid_scatter": (0.4, 1.5),
        "skull_width_mm": (thinnest_mm, 0.9), "tgc_error_db": (-7.0, 7.0), "tgc_tilt_db": (-8.0, 10.0),
    }  # fmt: skip
