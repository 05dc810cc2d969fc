"""What a synthesis must beat: the fitted atlas and the mean MR, in the place of a result's MR-like image.

The fitted atlas is the MR average of the estimated week, in the estimated pose, scaled to the skull: it knows the
head's place and size, and nothing of its inside. The mean MR is the mean of all weeks' averages in that pose.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from USMRISynthesisLib.alignment.volume.pose import head_length_mm
from USMRISynthesisLib.geometry.canonical import HEAD_LENGTH_MM, SIZE, SPACING_MM, from_canonical, to_canonical
from USMRISynthesisLib.geometry.similarity import scale_of
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.simulation.anatomy import atlas
from USMRISynthesisLib.synthesis.result import Synthesis

OURS, FITTED, MEAN = "ours", "fitted atlas", "mean MR"
METHODS = (OURS, FITTED, MEAN)
# Between brain and outer skull in a normal head: the middle of the simulator's ranges of fluid and bone.
_FLUID_AND_BONE_MM = 4.0


def week_of_length(length_mm: float, weeks: Sequence[int]) -> int:
    """The one of these gestational weeks whose mean occipito-frontal diameter is nearest to a head's, in mm."""
    return min(weeks, key=lambda week: abs(head_length_mm(week)[0] - length_mm))


def canonical_placement(data: Path, name: str) -> np.ndarray:
    """(4, 4), a week's average's RAS mm to canonical mm.

    Its place is the simulator's: upright, the outer skull, `_FLUID_AND_BONE_MM` beyond the brain's hull, centred and
    `HEAD_LENGTH_MM` long.
    """
    average = atlas.load(data, name)
    inside = np.argwhere(average.hull_distance < _FLUID_AND_BONE_MM)
    low, high = average.ras(inside.min(axis=0))[0], average.ras(inside.max(axis=0))[0]
    matrix = np.eye(4)
    matrix[:3, :3] *= HEAD_LENGTH_MM / (high[1] - low[1])
    matrix[:3, 3] = -matrix[0, 0] * (low + high) / 2
    return matrix


@lru_cache(maxsize=32)
def canonical_average(data: Path, name: str) -> np.ndarray:
    """A week's T2 average in canonical space, (160, 160, 160) float16, 0-1, 0 outside the brain."""
    average, matrix = atlas.load(data, name), canonical_placement(data, name)
    brain = np.where(average.labels > 0, average.t2, 0).astype(np.float32)
    return np.asarray(np.clip(to_canonical(brain, average.ijk_to_ras, matrix)[0], 0, 1), np.float16)


@lru_cache(maxsize=2)
def mean_mr(data: Path, folder: str = atlas.FOLDER) -> np.ndarray:
    """The mean (160, 160, 160) over the weeks' averages, at each place over those that have brain there."""
    total, count = np.zeros((SIZE,) * 3, np.float32), np.zeros((SIZE,) * 3, np.float32)
    for name in atlas.available(data, folder):
        average = canonical_average(data, name)
        total += average
        count += average > 0
    return np.asarray(np.where(count >= 2, total / np.maximum(count, 1), 0), np.float16)


def atlas_of_length(data: Path, length_mm: float, *, without: int | None = None) -> np.ndarray:
    """The canonical average of the week whose heads are so long; `without`: a week that may not be taken."""
    names = {atlas.week_of(name): name for name in atlas.available(data) if atlas.week_of(name) != without}
    return canonical_average(data, names[week_of_length(length_mm, sorted(names))])


def fitted_atlas(data: Path, result: Synthesis, *, without: int | None = None) -> np.ndarray:
    """The average in the place of a result's MR-like image, on its grid, 0-1000 where that is not 0.

    without: a week that may not be taken.
    """
    return _placed(atlas_of_length(data, HEAD_LENGTH_MM / scale_of(result.transform), without=without), result)


def images(data: Path, result: Synthesis) -> dict[str, np.ndarray]:
    """Method -> image of METHODS on the result's grid, 0-1000; baselines only where there is an atlas below `data`."""
    made = {OURS: result.mr.array}
    if (data / atlas.FOLDER).is_dir():
        made |= {FITTED: fitted_atlas(data, result), MEAN: _placed(mean_mr(data), result)}
    return made


def _placed(average: np.ndarray, result: Synthesis) -> np.ndarray:
    if result.mr.is_frame:
        # A frame lies in the canonical plane that its transform gives it.
        middle = result.transform @ result.mr.ijk_to_ras @ [*(np.array(result.mr.shape[::-1]) - 1) / 2, 1.0]
        k = int(np.clip(round(middle[2] / SPACING_MM + (SIZE - 1) / 2), 0, SIZE - 1))
        average = average[k : k + 1]
    back = from_canonical(average.astype(np.float32), result.transform, result.mr.ijk_to_ras, result.mr.shape)
    return np.asarray(np.where(result.mr.array > 0, 1000 * back, 0))


def with_image(result: Synthesis, array: np.ndarray) -> Synthesis:
    """A result with another image on its grid."""
    return Synthesis(
        Volume(np.rint(array).astype(np.int16), result.mr.ijk_to_ras),
        result.transform,
        result.confidence,
        result.provenance,
    )
