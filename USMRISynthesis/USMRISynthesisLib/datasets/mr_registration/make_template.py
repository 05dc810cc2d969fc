"""Makes the mean T2 brains that MR volumes are registered to (`template.py`).

    python -m USMRISynthesisLib.datasets.mr_registration.make_template --data ../shared/data \
        --cases data/sim/train data/sim/mr

Two for each age: the mean of the simulated heads, whose ventricles are normal, and the mean of the averages they come
from, which have the large ventricles of spina bifida. Brains of either kind then find one that is like them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from USMRISynthesisLib.datasets.heads import anatomical_pose
from USMRISynthesisLib.datasets.mr_registration.template import CELLS, LANDMARKS, TEMPLATE, template_ijk_to_ras
from USMRISynthesisLib.geometry.canonical import HEAD_LENGTH_MM, canonical_ijk_to_ras, resample
from USMRISynthesisLib.simulation.anatomy.atlas import EXTERNAL_CSF, Atlas, load, week_of
from USMRISynthesisLib.simulation.anatomy.flow import outer_fluid_mm
from USMRISynthesisLib.simulation.anatomy.labels import BRAIN
from USMRISynthesisLib.simulation.anatomy.ranges import AnatomyRanges

# Weeks 22, 26, 29 and 32 are kept back for validation and test, as in configs/simulation.json.
AGES = (
    ("GA21-notoperated", "GA23-notoperated", "GA24-notoperated", "GA25-notoperated"),
    ("GA25-operated", "GA27-operated", "GA28-operated"),
    ("GA30-operated", "GA31-operated", "GA33-operated", "GA34-operated"),
)
_SHAPE = (CELLS, CELLS, CELLS)


class _Mean:
    """The mean of brains on the template's grid, and of what their grey values are."""

    def __init__(self) -> None:
        self.count = 0
        self.t2, self.brain, self.skull = (np.zeros(_SHAPE, np.float32) for _ in range(3))
        self.values: list[np.ndarray] = []

    def add(self, t2: np.ndarray, brain: np.ndarray, skull: np.ndarray, ijk_to_canonical: np.ndarray) -> None:
        """t2 0-1, brain and the inside of the skull bool, (k, j, i)."""
        to_input = np.linalg.inv(ijk_to_canonical) @ template_ijk_to_ras()
        self.count += 1
        self.t2 += resample(np.where(skull, t2, 0), to_input, _SHAPE, 1, 0.0)
        self.brain += resample(brain.astype(np.float32), to_input, _SHAPE, 1, 0.0)
        self.skull += resample(skull.astype(np.float32), to_input, _SHAPE, 1, 0.0)
        self.values.append(t2[brain][::7])

    def content(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """t2 (uint8), brain and skull as bits, grey values at the landmarks."""
        mean = np.where(self.skull > 0.5 * self.count, self.t2 / np.maximum(self.skull, 1e-3), 0)
        brain, skull = (np.packbits(part > 0.5 * self.count) for part in (self.brain, self.skull))
        values = np.percentile(np.concatenate(self.values), LANDMARKS).astype(np.float32)
        return np.round(255 * mean.clip(0, 1)).astype(np.uint8), brain, skull, values


def atlas_to_canonical(atlas: Atlas) -> tuple[np.ndarray, float]:
    """Where the simulator puts an average, without the random pose and shape: the outer skull's length becomes 88 mm.

    Returns:
        (4, 4) from the average's RAS mm to canonical mm, a similarity; mm from the brain's hull to the skull's inside.
    """
    ranges = AnatomyRanges()
    fluid = ranges.young_fluid_mm if atlas.week < 28 else ranges.old_fluid_mm
    gap = float(np.mean(fluid)) - outer_fluid_mm(atlas)
    skull = float(np.interp(atlas.week, (20, 34), (1.0, 1.6)) * np.mean(ranges.skull_factor))
    inside = np.argwhere(atlas.hull_distance < gap + skull)
    low, high = atlas.ras(inside.min(0))[0], atlas.ras(inside.max(0))[0]
    scale = HEAD_LENGTH_MM / float(high[1] - low[1])
    matrix = np.diag([scale, scale, scale, 1.0])
    matrix[:3, 3] = -scale * (low + high) / 2
    return matrix, gap


def _simulated(name: str, folders: Sequence[Path], mean: _Mean) -> None:
    """Add the simulated heads of one atlas folder."""
    for path in sorted(path for folder in folders for path in folder.glob(f"{name}-*.npz")):
        with np.load(path) as case:
            t2, labels, pose = case["t2"].astype(np.float32) / 255, case["labels"], anatomical_pose(case)
        skull = np.isin(labels, BRAIN)
        mean.add(t2, skull & (labels != EXTERNAL_CSF), skull, pose @ canonical_ijk_to_ras())


def _average(atlas: Atlas, mean: _Mean) -> None:
    to_canonical, gap = atlas_to_canonical(atlas)
    brain = atlas.labels > 0
    mean.add(atlas.t2, brain, brain | (atlas.hull_distance < gap), to_canonical @ atlas.ijk_to_ras)


def make(data: Path, folders: Sequence[Path], target: Path) -> None:
    """Write the template from the atlas below `data` and the simulated cases of `folders`."""
    weeks, contents = [], []
    for names in AGES:
        simulated, averages = _Mean(), _Mean()
        for name in names:
            _average(load(data, name), averages)
            _simulated(name, folders, simulated)
        week = round(float(np.mean([week_of(name) for name in names])))
        for mean in (simulated, averages):
            weeks.append(week)
            contents.append(mean.content())
    t2, brain, skull, values = (np.stack(parts) for parts in zip(*contents, strict=True))
    np.savez_compressed(target, week=np.array(weeks), t2=t2, brain=brain, skull=skull, landmarks=values)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cases", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, default=TEMPLATE)
    options = parser.parse_args(arguments)
    make(options.data, options.cases, options.out)


if __name__ == "__main__":
    main()
