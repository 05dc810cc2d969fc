"""A tiny folder like HC18 and simulated cases with frames: a bright ellipse in speckle, with its annotation."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image
from USMRISynthesisLib.geometry.canonical import canonical_axis_mm
from USMRISynthesisLib.geometry.ellipse import Ellipse
from USMRISynthesisLib.simulation.dataset import split_of

PIXEL_MM = 0.5


def painted(ellipse: Ellipse, shape: tuple[int, int], seed: int) -> np.ndarray:
    """(j, i) uint8: a skull with a dark inside; the ellipse is in pixels."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    away = ellipse.distance(np.stack([x, y]))
    level = np.where(away < 0, 40, 80) * rng.rayleigh(0.8, shape)
    return np.clip(np.where(abs(away + 3) < 3, 230, level), 1, 255).astype(np.uint8)


def turned(centre: tuple[float, float], semi: tuple[float, float], degrees: float) -> Ellipse:
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return Ellipse(np.array(centre, float), np.array([[c, -s], [s, c]]) * semi)


def fetuses(split: str, count: int) -> list[int]:
    """The first fetuses whose frames belong to a split."""
    return [n for n in range(200) if split_of(f"{n:03d}_HC.png") == split][:count]


def make_frames(folder: Path) -> Path:
    """hc18/ with three training fetuses and one of each other split, and train/ with one simulated case; the folder."""
    (folder / "hc18" / "images").mkdir(parents=True)
    rows = []
    for fetus in fetuses("train", 3) + fetuses("val", 1) + fetuses("test", 1):
        ellipse = turned((105 + fetus % 5, 82), (78, 62), 20.0 * fetus)
        name = f"{fetus:03d}_HC.png"
        Image.fromarray(painted(ellipse, (160, 210), fetus)).save(folder / "hc18" / "images" / name)
        major, minor = ellipse.semi_axes
        rows.append(
            {
                "file": name,
                "pixel_size_mm": PIXEL_MM,
                "head_circumference_mm": PIXEL_MM * 441.0,
                "centre_x_px": ellipse.centre[0],
                "centre_y_px": ellipse.centre[1],
                "semi_major_px": major,
                "semi_minor_px": minor,
                "angle_deg": 20.0 * fetus,
            }
        )
    with (folder / "hc18" / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (folder / "train").mkdir()
    np.savez(folder / "train" / "GA25-made-0000.npz", **frames_of_a_case())
    return folder


def frames_of_a_case() -> dict[str, np.ndarray]:
    """Two frames as `usmri simulate` stores them, upright, 88 mm long."""
    axis = canonical_axis_mm()
    y, x = np.meshgrid(axis, axis, indexing="ij")
    skull = Ellipse(np.zeros(2), np.diag([35.0, 43.0])).distance(np.stack([x, y])) < 0
    pixels = turned((79.5, 79.5), (43 / 0.6, 35 / 0.6), 90.0)
    us = np.stack([painted(pixels, (160, 160), seed) for seed in (1, 2)])
    return {"frames_us": us, "frames_fan": np.ones(us.shape, bool), "frames_skull": np.stack([skull, skull])}
