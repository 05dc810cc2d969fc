"""A fetal trunk instead of a head: what an alignment must refuse. Never trained on; evaluation only.

An elliptic cylinder along z with skin, a cage of ribs, a spine, and either a stomach bubble, a bladder and vessels in
a liver (abdomen) or a heart between two lungs (thorax), in amniotic fluid within the uterus. It is an `Anatomy`, so
that every scanner of `simulation/scanner` can image it: the cage stands for the skull, ribs are its bone, and the
labels lend their echogenicity, whatever they are called.
"""

from __future__ import annotations

import numpy as np

from USMRISynthesisLib.geometry.canonical import SIZE, canonical_axis_mm
from USMRISynthesisLib.simulation.anatomy.head import Anatomy
from USMRISynthesisLib.simulation.anatomy.labels import (
    AMNIOTIC,
    BRAINSTEM,
    CHOROID,
    DEEP_GREY,
    FACE,
    MATERNAL,
    SCALP,
    SKULL,
    VENTRICLES,
    WHITE_MATTER,
)
from USMRISynthesisLib.simulation.anatomy.warp import spline_field

KINDS = ("abdomen", "thorax")
_LIVER, _LUNG, _MUSCLE, _BLOOD, _KIDNEY = DEEP_GREY, CHOROID, BRAINSTEM, VENTRICLES, WHITE_MATTER
_RIB_EVERY_MM, _RIB_MM = (8.0, 12.0), (1.6, 2.6)


def build_body(seed: int, kind: str) -> Anatomy:
    """Draw one trunk; kind: one of KINDS. Canonical mm are physical mm times `scale`, as of a head of that week."""
    rng = np.random.default_rng([seed, 31])
    axis = canonical_axis_mm().astype(np.float32)
    z, y, x = axis[:, None, None], axis[None, :, None], axis[None, None, :]
    wobble = 2.0 * spline_field(np.clip(rng.standard_normal((6, 6, 6)), -2, 2), SIZE)
    half_x, half_y = rng.uniform(28, 36), rng.uniform(27, 36)
    taper = 1 - rng.uniform(0, 0.12) * (z / 48) ** 2
    radius = np.sqrt((x / (half_x * taper)) ** 2 + (y / (half_y * taper)) ** 2)
    cage = ((radius - 1) * (half_x + half_y) / 2 + wobble).astype(np.float32)  # about mm to the ribs' outer surface
    wall = np.float32(rng.uniform(2.5, 6.0))
    labels = np.full(cage.shape, AMNIOTIC, np.uint8)
    fluid = np.float32(rng.uniform(-10, 16)) + 8 * spline_field(np.clip(rng.standard_normal((4, 4, 4)), -2, 2), SIZE)
    labels[cage > wall + np.maximum(fluid, 0)] = MATERNAL
    labels[cage < wall] = SCALP
    labels[cage < wall - 1.2] = FACE
    labels[cage < 0] = _LIVER
    if kind == "thorax":
        labels[(cage < -2.5) & (np.abs(x) > 3)] = _LUNG
    _ribs(labels, cage, np.broadcast_to(z, cage.shape), np.arctan2(x, y), rng, kind)
    # the spine: three centres of bone about its canal, at the back
    back = -half_y + rng.uniform(6, 9)
    for at_x, at_y in ((0.0, 0.0), (-4.0, -6.0), (4.0, -6.0)):
        disc = np.mod(z + 48, 7.0) < 5.0 if at_y == 0 else np.ones_like(z, bool)
        labels[(np.hypot(x - at_x, y - back - at_y) < rng.uniform(2.4, 3.4)) & disc] = SKULL
    inside = cage < -3
    if kind == "abdomen":
        _ball(labels, inside, (rng.uniform(-18, -10), rng.uniform(-2, 9), rng.uniform(-8, 12)),
              rng.uniform(5, 9, 3), _BLOOD, (x, y, z))  # fmt: skip
        _ball(labels, inside, (0, rng.uniform(6, 12), -30), rng.uniform(5, 9, 3), _BLOOD, (x, y, z))
        labels[inside & (np.hypot(x - rng.uniform(2, 8), y - rng.uniform(0, 12) - 0.25 * z) < 1.6)] = _BLOOD
        for side in (-1, 1):
            _ball(labels, inside, (side * 13, back + 8, rng.uniform(-14, -4)), (6, 5, 10), _KIDNEY, (x, y, z))
    else:
        heart = np.array([rng.uniform(-9, -3), rng.uniform(2, 9), rng.uniform(-8, 8)])
        _ball(labels, inside, heart, rng.uniform(10, 14, 3), _MUSCLE, (x, y, z))
        for dx, dy in ((-4, -3), (4, -3), (-4, 4), (4, 4)):
            _ball(labels, inside, heart + np.array([dx, dy, 0]), rng.uniform(2.5, 4, 3), _BLOOD, (x, y, z))
    labels[inside & (np.hypot(x + 4, y - back - 7) < 2.0)] = _BLOOD  # the aorta
    scale = float(rng.uniform(1.1, 1.7))
    return Anatomy(
        t2=np.zeros(cage.shape, np.float32),
        labels=labels,
        skull_distance=cage,
        scale=scale,
        week=24,
        centre=np.zeros(3),
        length_mm=float(2 * half_y),
        eyes=np.zeros((2, 3)),
        membrane=np.zeros(cage.shape, np.float32),
        parameters={"kind": kind},
    )


def _ribs(
    labels: np.ndarray, cage: np.ndarray, z: np.ndarray, around: np.ndarray, rng: np.random.Generator, kind: str
) -> None:
    """Oblique bands of bone just below the cage's surface, open in front; few of them about an abdomen."""
    every, half = rng.uniform(*_RIB_EVERY_MM), rng.uniform(*_RIB_MM) / 2
    lowest = -60.0 if kind == "thorax" else rng.uniform(-5, 25)
    slanted = z + 7 * np.cos(around) + rng.uniform(0, every)
    band = (np.mod(slanted, every) < 2 * half) & (z > lowest) & (np.abs(around) > 0.45)
    labels[band & (cage < 0) & (cage > -2 * half)] = SKULL


def _ball(
    labels: np.ndarray,
    inside: np.ndarray,
    centre: tuple[float, ...] | np.ndarray,
    half: tuple[float, ...] | np.ndarray,
    label: int,
    axes: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    total = sum(((axis - c) / h) ** 2 for axis, c, h in zip(axes, centre, half, strict=True))
    labels[inside & (np.asarray(total) < 1)] = label
