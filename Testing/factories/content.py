"""A tiny data folder for what frames show: brains of three planes, HC18's frames, and frames without a brain."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from factories.frames import make_frames, painted, turned

PLANES = ("Trans-thalamic", "Trans-ventricular", "Trans-cerebellum", "Other")
PATIENTS = [f"Patient{number:05d}" for number in range(24)]


def make_content(folder: Path) -> Path:
    """fetal-planes/, hc18/ and not-brain/: a brain is a bright ellipse, no brain is stripes; the folder.

    Every patient has a frame of a brain and one without; three more patients are African and have the latter only.
    """
    make_frames(folder)
    brains, others = [], []
    for number, patient in enumerate(PATIENTS):
        name = f"{patient}_Plane3_1_of_1.png"
        grey = painted(turned((80, 64), (54, 42), 15.0 * number), (128, 160), number)
        _save(folder / "fetal-planes" / name, grey)
        brains.append({"file": name, "patient": patient, "plane": PLANES[number % 4], "machine": "A"})
        name = f"fp_{patient}_Plane1_1_of_1.png"
        _save(folder / "not-brain" / name, stripes(number))
        others.append({"file": name, "patient": patient, "shows": ("abdomen", "femur")[number % 2]})
    for number in range(3):
        name = f"african_patient{number:03d}_EGY_plane0.png"
        _save(folder / "not-brain" / name, stripes(100 + number))
        others.append({"file": name, "patient": f"patient{number:03d}_EGY", "shows": "thorax"})
    # One of those that show a head after all.
    name = "fp_Patient01212_Plane1_1_of_1.png"
    _save(folder / "not-brain" / name, stripes(200))
    others.append({"file": name, "patient": "Patient01212", "shows": "other"})
    for part, rows in (("fetal-planes", brains), ("not-brain", others)):
        with (folder / part / "index.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return folder


def stripes(seed: int) -> np.ndarray:
    """(j, i) uint8: bright stripes in speckle."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:128, :160].astype(float)
    waves = 0.5 + 0.5 * np.sin((x * np.cos(seed) + y * np.sin(seed)) / 7)
    return np.clip((40 + 150 * waves) * rng.rayleigh(0.8, waves.shape), 1, 255).astype(np.uint8)


def _save(path: Path, grey: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(grey).save(path)
