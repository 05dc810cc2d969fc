"""The mean fetal T2 brain in canonical space that an MR volume is registered to (`register.py`).

Three ages of two kinds, from the weekly averages of Fidon et al. 2021 (CC0) and from heads simulated from them:
`python -m USMRISynthesisLib.datasets.mr_registration.make_template --data DIR --cases DIR...` makes the file.
The weeks that are kept back for validation and test (22, 26, 29, 32) are not in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from USMRISynthesisLib.geometry.canonical import SIZE, SPACING_MM

TEMPLATE = Path(__file__).with_name("mr-template.npz")
CELLS = 40
CELL_MM = SIZE * SPACING_MM / CELLS
# Percentiles of the grey values in the brain by which an MR volume's own are brought to the template's.
LANDMARKS = (1.0, 10.0, 25.0, 50.0, 75.0, 90.0, 99.0)


@dataclass(frozen=True, eq=False)
class Template:
    """One age's mean brain on 40^3 cells of 2.4 mm, (k, j, i), in canonical space.

    Attributes:
        week: mean gestational week of the averages in it.
        t2: float32, 0-1, 1 = the brightest fluid; 0 outside the skull.
        brain: bool. skull: bool, the inside of the skull: the brain with the fluid around it.
        landmarks: (7,) grey values 0-1 at LANDMARKS within the brain, at the averages' own resolution.
    """

    week: int
    t2: np.ndarray
    brain: np.ndarray
    skull: np.ndarray
    landmarks: np.ndarray


def template_ijk_to_ras() -> np.ndarray:
    """(4, 4): cells to canonical mm."""
    matrix = np.diag([CELL_MM, CELL_MM, CELL_MM, 1.0])
    matrix[:3, 3] = -CELL_MM * (CELLS - 1) / 2
    return matrix


@lru_cache(maxsize=1)
def templates() -> tuple[Template, ...]:
    """All, youngest first."""
    shape = (CELLS, CELLS, CELLS)
    with np.load(TEMPLATE) as content:
        return tuple(
            Template(
                int(week),
                t2.astype(np.float32) / 255,
                np.unpackbits(brain, count=CELLS**3).reshape(shape).astype(bool),
                np.unpackbits(skull, count=CELLS**3).reshape(shape).astype(bool),
                landmarks,
            )
            for week, t2, brain, skull, landmarks in zip(
                content["week"], content["t2"], content["brain"], content["skull"], content["landmarks"], strict=True
            )
        )
