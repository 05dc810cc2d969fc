"""How well MR volumes find their way into canonical space: held-out weeks of the atlas and simulated T2, in any
orientation.

    usmri evaluate mr-normalisation --data ../shared/data --cases data/sim

None of the weeks is in the template. The averages have the large ventricles of spina bifida, the simulated heads normal
ones. Every volume is turned over the full sphere, scaled and moved, with a seed from its name.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from USMRISynthesisLib.datasets.heads import anatomical_pose
from USMRISynthesisLib.datasets.mr_registration.make_template import AGES, atlas_to_canonical
from USMRISynthesisLib.datasets.mr_registration.register import align_mr
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.geometry.canonical import canonical_ijk_to_ras
from USMRISynthesisLib.geometry.similarity import angle_deg, random_rotation, rotation_of, scale_of
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.simulation.anatomy import atlas
from USMRISynthesisLib.simulation.anatomy.labels import BRAIN

WRONG_DEG, WRONG_MM = 20.0, 10.0


@dataclass(frozen=True, eq=False)
class Sample:
    """A volume whose place is known: (k, j, i) array with its brain, and its grid in canonical mm (4, 4)."""

    kind: str
    name: str
    array: np.ndarray
    brain: np.ndarray
    ijk_to_canonical: np.ndarray


def samples(data: Path, cases: Path) -> Iterator[Sample]:
    """The averages of weeks that the template lacks, then the simulated heads of val/ and test/."""
    known = {name for names in AGES for name in names}
    for name in atlas.available(data):
        if name not in known:
            average = atlas.load(data, name)
            brain = average.labels > 0
            yield Sample(
                "averages", name, average.t2 * brain, brain, atlas_to_canonical(average)[0] @ average.ijk_to_ras
            )
    paths = sorted(path for part in ("val", "test") for path in (cases / part).glob("*.npz"))
    for path in paths:
        with np.load(path) as case:
            brain = np.isin(case["labels"], BRAIN)
            pose = anatomical_pose(case)
            yield Sample("simulated", path.stem, case["t2"], brain, pose @ canonical_ijk_to_ras())


def evaluate(
    data: Path,
    cases: Path,
    *,
    poses: int = 1,
    without_mask: int = 4,
    progress: Callable[[float, str], None] | None = None,
) -> dict[str, Any]:
    """Figures for each kind, with the brain mask given, and of the first simulated heads without it.

    Raises Refused where there are no simulated heads, Failed where there is no atlas.
    """
    chosen = list(samples(data, cases))
    if not any(sample.kind == "simulated" for sample in chosen):
        raise Refused("data", f"There are no simulated heads in {cases}.", "Make them with `usmri simulate`.")
    jobs = [(sample, number, True) for sample in chosen for number in range(poses)]
    bare = [sample for sample in chosen if sample.kind == "simulated"]
    jobs += [(sample, 0, False) for sample in bare[:: max(1, len(bare) // max(without_mask, 1))][:without_mask]]
    rows: dict[str, list[tuple[float, ...]]] = {}
    for done, (sample, number, masked) in enumerate(jobs, start=1):
        kind = sample.kind if masked else f"{sample.kind}, no mask"
        rows.setdefault(kind, []).append(_errors(sample, number, masked))
        if progress:
            progress(done / len(jobs), f"{done} of {len(jobs)} volumes")
    return {kind: _figures(np.array(errors)) for kind, errors in rows.items()}


def _errors(sample: Sample, number: int, masked: bool) -> tuple[float, ...]:
    """Degrees, mm of the world, percent of scale, score, lead, whether it is called reliable, seconds."""
    rng = np.random.default_rng([zlib.crc32(sample.name.encode()), number])
    placed = np.eye(4)
    placed[:3, :3] = rng.uniform(0.6, 1.25) * random_rotation(rng)
    placed[:3, 3] = rng.uniform(-60, 60, 3)
    volume = Volume(sample.array, placed @ sample.ijk_to_canonical)
    began = time.perf_counter()
    found = align_mr(volume, sample.brain if masked else None)
    seconds = time.perf_counter() - began
    error = found.ras_to_canonical @ placed
    return (angle_deg(rotation_of(error), np.eye(3)),
            float(np.linalg.norm(error[:3, 3])) / scale_of(found.ras_to_canonical),
            100 * (scale_of(error) - 1), found.score, found.lead, float(found.is_reliable), seconds)  # fmt: skip


def _figures(rows: np.ndarray) -> dict[str, float | None]:
    """Errors over the volumes that are called reliable; shares over all. None where there is none."""
    reliable = rows[:, 5] > 0
    wrong = (rows[:, 0] > WRONG_DEG) | (rows[:, 1] > WRONG_MM)
    kept = rows[reliable] if reliable.any() else np.full((1, rows.shape[1]), np.nan)
    figures = {
        "volumes": len(rows), "not_reliable_share": float(1 - reliable.mean()),
        "wrong_and_called_reliable": int((wrong & reliable).sum()), "wrong": int(wrong.sum()),
        "rotation_deg_median": float(np.median(kept[:, 0])), "rotation_deg_worst": float(kept[:, 0].max()),
        "translation_mm_median": float(np.median(kept[:, 1])), "translation_mm_worst": float(kept[:, 1].max()),
        "scale_percent_median": float(np.median(np.abs(kept[:, 2]))), "score_least": float(kept[:, 3].min()),
        "score_most_of_wrong": float(rows[wrong, 3].max()) if wrong.any() else float("nan"),
        "lead_least": float(kept[:, 4].min()), "seconds_median": float(np.median(rows[:, 6])),
    }  # fmt: skip
    return {key: None if np.isnan(value) else value for key, value in figures.items()}  # JSON has no NaN


def table(figures: dict[str, dict[str, float | None]]) -> str:
    """One column a kind."""
    kinds = list(figures)
    lines = ["MR into canonical space: errors of those called reliable, shares of all",
             f"{'':28s}" + "".join(f"{kind:>22s}" for kind in kinds)]  # fmt: skip
    for key in figures[kinds[0]]:
        cells = (figures[kind][key] for kind in kinds)
        lines.append(f"{key:28s}" + "".join(f"{'none' if cell is None else f'{cell:.3f}':>22s}" for cell in cells))
    return "\n".join(lines)
