"""How bright each tissue is in real heads and in simulated ones: do the simulator's ranges hold the real volumes?

`python -m USMRISynthesisLib.evaluation.simulator.echogenicity --data DIR --heads 8 --record FILE`

The week's MR average lies over each real volume of `us-3d-real/` in the pose of its landmarks, so its labels name the
tissues to some mm only.  Grey is in standard deviations about the brain's median.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from USMRISynthesisLib.datasets.mr_registration.register import align_mr
from USMRISynthesisLib.evaluation.real.cases import heads_3d
from USMRISynthesisLib.evaluation.real.volumes import reference_of
from USMRISynthesisLib.geometry.canonical import SIZE, to_canonical
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.simulation.anatomy.atlas import available, week_of
from USMRISynthesisLib.simulation.anatomy.labels import LABEL_NAMES
from USMRISynthesisLib.simulation.config import Head
from USMRISynthesisLib.simulation.dataset import simulate_case
from USMRISynthesisLib.simulation.scanner.volume import Machine

TISSUES = range(1, 9)
MACHINES = {"usual": Machine(), "randomised": Machine(randomised=True), "points": Machine(scatter="points")}
_SURE = 0.3  # share of a voxel that its label must have


def echogenicity(us: np.ndarray, labels: np.ndarray, fan: np.ndarray) -> dict[str, float]:
    """Mean grey of each tissue and of its boundary, in standard deviations about the brain's median.

    us, labels, fan: (k, j, i); labels 1-8, 0 = elsewhere. A tissue that is not there has no entry.
    """
    brain = (labels > 0) & fan
    middle, spread = float(np.median(us[brain])), float(us[brain].std())
    found = {}
    for label in TISSUES:
        tissue = labels == label
        edge = ndimage.binary_dilation(tissue) ^ ndimage.binary_erosion(tissue)
        for name, mask in ((LABEL_NAMES[label], tissue & fan), (f"{LABEL_NAMES[label]}, boundary", edge & brain)):
            if mask.any():
                found[name] = (float(us[mask].mean()) - middle) / max(spread, 1e-6)
    return found


def canonical_labels(data: Path, name: str) -> np.ndarray:
    """Labels 1-8 of a week's average in canonical space, (160, 160, 160) uint8."""
    folder = data / "fetal-mr-atlas" / name
    t2, mask, labels = (Volume.read(folder / f"{part}.nii.gz") for part in ("t2", "mask", "labels"))
    placed = align_mr(t2, mask.array > 0)
    best, chosen = np.full((SIZE,) * 3, _SURE, np.float32), np.zeros((SIZE,) * 3, np.uint8)
    for label in TISSUES:
        share, _ = to_canonical((labels.array == label).astype(np.float32), t2.ijk_to_ras, placed.ras_to_canonical)
        chosen[share > best] = label
        best = np.maximum(best, share)
    return chosen


def real_heads(data: Path) -> dict[str, dict[str, float]]:
    """`echogenicity` of each real volume; its name gives the week."""
    weeks = {week_of(name): name for name in available(data)}
    found = {}
    for head in heads_3d(data):
        week = int("".join(re.findall(r"(\d+)w", head.name)) or 23)
        us, _ = to_canonical(head.volume.array.astype(np.float32), head.volume.ijk_to_ras, reference_of(head))
        found[head.name] = echogenicity(
            us, canonical_labels(data, weeks[min(weeks, key=lambda w: abs(w - week))]), us > 0
        )
    return found


def simulated_heads(data: Path, machine: Machine, seeds: Sequence[int]) -> list[dict[str, float]]:
    """`echogenicity` of one head for each seed, of the weeks of the real volumes."""
    names = [name for name in available(data) if week_of(name) <= 25]
    cases = (simulate_case(data, Head(names[n % len(names)], seed, machine=machine)) for n, seed in enumerate(seeds))
    return [echogenicity(case["us"], np.where(case["labels"] <= 8, case["labels"], 0), case["fan"]) for case in cases]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--record", type=Path, required=True)
    options = parser.parse_args(arguments)
    real = list(real_heads(options.data).values())
    record: dict[str, dict[str, list[float]]] = {}
    made = {name: simulated_heads(options.data, machine, range(options.heads)) for name, machine in MACHINES.items()}
    for tissue in real[0]:
        columns = {"real": real, **made}
        record[tissue] = {
            name: [
                round(float(value), 2)
                for value in np.percentile([h[tissue] for h in heads if tissue in h], (0, 50, 100))
            ]
            for name, heads in columns.items()
        }
        print(f"{tissue:28}" + "".join(f"{name} {values}  " for name, values in record[tissue].items()))
    options.record.write_text(
        json.dumps({"simulated heads": options.heads, "lowest, median, highest": record}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
