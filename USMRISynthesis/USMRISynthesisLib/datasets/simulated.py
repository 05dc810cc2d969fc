"""The simulated heads that `usmri simulate` wrote, read back one at a time, whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.simulation.anatomy.labels import BRAIN


@dataclass(frozen=True, eq=False)
class Case:
    """One simulated head in canonical space: us uint8, t2 0-1, labels, fan; scale canonical mm per mm.

    anomaly: "none", or what was added to it.
    """

    name: str
    us: np.ndarray
    t2: np.ndarray
    labels: np.ndarray
    fan: np.ndarray
    scale: float
    anomaly: str = "none"

    @property
    def brain(self) -> np.ndarray:
        return np.isin(self.labels, BRAIN)


def cases(folder: Path) -> Iterator[Case]:
    """The cases of one split.  Raises Refused if the folder holds none."""
    return map(read_case, case_files(folder))


def case_files(folder: Path) -> list[Path]:
    """The files of one split's cases, in order.  Raises Refused if the folder holds none."""
    paths = sorted(p for p in folder.glob("*.npz") if ".partial" not in p.name)
    if not paths:
        raise Refused("no-cases", f"{folder} holds no simulated cases.", "Make them with `usmri simulate` first.")
    return paths


def read_case(path: Path) -> Case:
    """One of `case_files`."""
    with np.load(path) as file:
        return Case(
            path.stem,
            file["us"],
            file["t2"].astype(np.float32) / 255,
            file["labels"],
            file["fan"],
            float(file["scale"]),
            str(file["anomaly"]) if "anomaly" in file else "none",
        )
