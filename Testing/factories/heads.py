"""Simulated cases for the alignment's tests: heads that are ellipsoids with eyes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from USMRISynthesisLib.simulation.anatomy.labels import (
    BACKGROUND,
    CORTEX,
    VENTRICLES,
    WHITE_MATTER,
)
from USMRISynthesisLib.simulation.scanner.wide import SIZE

EYES = np.array([[-12.0, 30.0, -20.0], [12.0, 30.0, -20.0]])


def simulated_case(seed: int, *, wide: bool = False) -> dict:
    """A case file's arrays: an ellipsoid of 44 mm half-length, bright in front, turned a little by `head_pose`."""
    rng = np.random.default_rng(seed)
    size = 160
    axis = (np.arange(size, dtype=np.float32) - (size - 1) / 2) * 0.6
    z, y, x = axis[:, None, None], axis[None, :, None], axis[None, None, :]
    level = (x / 35) ** 2 + (y / 44) ** 2 + (z / 33) ** 2
    inside = level < 1
    us = np.where(inside, 60 + y, 25) + rng.integers(0, 20, inside.shape)
    us[(level > 0.93) & inside] = 220
    labels = inside.astype(np.uint8)
    case = {
        "us": us.clip(0, 255).astype(np.uint8), "t2": inside.astype(np.uint8), "labels": labels,
        "fan": np.broadcast_to(abs(x) < 44, inside.shape), "skull": inside, "week": 26, "seed": seed, "eyes": EYES,
        "head_pose": np.eye(4), "parameters": json.dumps({"view": "left"}),
    }  # fmt: skip
    if wide:
        case["wide"] = case["us"][::2, ::2, ::2].repeat(2, 0).repeat(2, 1).repeat(2, 2)[:SIZE, :SIZE, :SIZE]
        case["wide_fan"] = np.ones((SIZE,) * 3, bool)
    return case


def data_set(folder: Path) -> Path:
    """Two heads in train/, one in val/."""
    for part, seeds in (("train", (1, 2)), ("val", (3,))):
        (folder / part).mkdir()
        for seed in seeds:
            np.savez(folder / part / f"case-{seed}.npz", **simulated_case(seed))
    return folder


def layered_case(seed: int) -> dict:
    """A case file's arrays: cortex around white matter around a column of fluid, elsewhere in each."""
    rng = np.random.default_rng(seed)
    k, j, i = np.indices((160, 160, 160)) - 79.5
    radius = np.sqrt((k / 60) ** 2 + (j / 66) ** 2 + (i / 52) ** 2)
    shift = rng.uniform(-3, 3)
    labels = np.select([radius > 1, np.hypot(j, i - shift) < 12, radius > 0.8],
                       [BACKGROUND, VENTRICLES, CORTEX], WHITE_MATTER)  # fmt: skip
    grey = np.select([labels == VENTRICLES, labels == CORTEX, labels == WHITE_MATTER],
                     [240, 100, 150], 0)  # fmt: skip
    us = np.clip(grey * rng.gamma(4, 0.25, grey.shape) * 0.5, 0, 255)
    return {"us": us.astype(np.uint8), "t2": grey.astype(np.uint8), "labels": labels.astype(np.uint8),
            "fan": np.abs(i) < 70, "scale": 1.0, "anomaly": "none", "week": 22}  # fmt: skip
