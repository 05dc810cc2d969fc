"""The fitted atlas: the MR average of the estimated week, in the estimated pose, scaled to the skull.

What a synthesis must beat: it knows the head's place and size, and nothing of its inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from USMRISynthesisLib.alignment.volume.pose import head_length_mm
from USMRISynthesisLib.datasets.mr_registration.register import align_mr
from USMRISynthesisLib.geometry.canonical import HEAD_LENGTH_MM, SIZE, from_canonical, to_canonical
from USMRISynthesisLib.geometry.similarity import scale_of
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.simulation.anatomy.atlas import available, week_of
from USMRISynthesisLib.synthesis.result import Synthesis

ATLAS = "fetal-mr-atlas"


def week_of_length(length_mm: float, weeks: Sequence[int]) -> int:
    """The one of these gestational weeks whose mean occipito-frontal diameter is nearest to a head's, in mm."""
    return min(weeks, key=lambda week: abs(head_length_mm(week)[0] - length_mm))


@lru_cache(maxsize=4)
def canonical_average(data: Path, name: str) -> np.ndarray:
    """A week's T2 average in canonical space, (160, 160, 160), 0-1 (1 = the brightest fluid), 0 outside the brain."""
    folder = data / ATLAS / name
    t2, mask = Volume.read(folder / "t2.nii.gz"), Volume.read(folder / "mask.nii.gz")
    placed = align_mr(t2, mask.array > 0)
    brain = np.where(mask.array > 0, t2.array, 0).astype(np.float32)
    slices, _ = to_canonical(brain, t2.ijk_to_ras, placed.ras_to_canonical)
    bright = float(np.percentile(slices[slices > 0], 99.5))
    return np.asarray(np.clip(slices / bright, 0, 1), np.float32)


def fitted_atlas(data: Path, result: Synthesis) -> np.ndarray:
    """The average in the place of a result's MR-like image, on its grid, 0-1000 where that is not 0."""
    names = {week_of(name): name for name in available(data)}
    week = week_of_length(HEAD_LENGTH_MM / scale_of(result.transform), sorted(names))
    average = canonical_average(data, names[week])
    if result.mr.is_frame:
        # A frame lies in the canonical plane that its transform gives it.
        middle = result.transform @ result.mr.ijk_to_ras @ [*(np.array(result.mr.shape[::-1]) - 1) / 2, 1.0]
        k = int(np.clip(round(middle[2] / 0.6 + (SIZE - 1) / 2), 0, SIZE - 1))
        average = average[k : k + 1]
    back = from_canonical(average, result.transform, result.mr.ijk_to_ras, result.mr.shape)
    return np.asarray(np.where(result.mr.array > 0, 1000 * back, 0))
