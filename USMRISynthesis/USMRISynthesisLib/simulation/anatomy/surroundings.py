"""What lies around the head: face with eyes in their orbits, neck, amniotic fluid, uterus, placenta, a limb."""

from __future__ import annotations

import numpy as np

from USMRISynthesisLib.geometry.canonical import SIZE, SPACING_MM, canonical_axis_mm
from USMRISynthesisLib.simulation.anatomy.deformation import Frame
from USMRISynthesisLib.simulation.anatomy.labels import AMNIOTIC, EYE, FACE, LIMB, MATERNAL, PLACENTA, SCALP, SKULL
from USMRISynthesisLib.simulation.anatomy.warp import spline_field


def add_uterus(
    labels: np.ndarray,
    frame: Frame,
    outer: np.ndarray,
    rng: np.random.Generator,
    draw: dict[str, float],
    placenta_probability: float,
) -> None:
    """Pockets of fluid, then the uterine wall with a placenta at times; touching the scalp at places."""
    axis = canonical_axis_mm().astype(np.float32)
    scalp = np.float32(draw["scalp_mm"] * frame.scale)
    tilt = rng.standard_normal(3).astype(np.float32) * 0.16
    fluid = np.float32(draw["fluid_mm"] * frame.scale) + 10 * spline_field(_clipped(rng, 4), SIZE)
    fluid += tilt[2] * axis[:, None, None] + tilt[1] * axis[:, None] + tilt[0] * axis
    wall = outer - scalp - np.maximum(fluid, 0)
    outside = outer >= scalp
    labels[outside] = np.where(wall[outside] > 0, np.uint8(MATERNAL), np.uint8(AMNIOTIC))
    present, direction = rng.random() < placenta_probability, _direction(rng)
    thickness, extent = rng.uniform(10, 30) * frame.scale, rng.uniform(0.0, 0.6)
    draw["placenta_mm"] = float(thickness / frame.scale) if present else 0.0
    if present:
        facing = direction[2] * axis[:, None, None] + direction[1] * axis[:, None] + direction[0] * axis
        reach = thickness * np.clip((facing / 40 - extent) * 3, 0, 1)
        labels[outside & (wall > 0) & (wall < reach)] = PLACENTA


def add_limb(
    labels: np.ndarray, frame: Frame, outer: np.ndarray, rng: np.random.Generator, draw: dict[str, float]
) -> None:
    """A straight limb with its bone beside the head, in fluid."""
    axis = canonical_axis_mm()
    side = _direction(rng)
    side[2] = abs(side[2])  # not in the neck
    radius, bone = rng.uniform(4, 9) * frame.scale, rng.uniform(1.2, 2.4) * frame.scale
    length, gap = rng.uniform(15, 45) * frame.scale, rng.uniform(0.5, 8)
    tangent = np.cross(side, _direction(rng))
    tangent /= np.linalg.norm(tangent) + 1e-6
    steps = np.arange(20, 70, 0.6)
    ray = np.clip(np.round(steps[:, None] * side / SPACING_MM + (SIZE - 1) / 2), 0, SIZE - 1).astype(int)
    beyond = outer[ray[:, 2], ray[:, 1], ray[:, 0]] > draw["scalp_mm"] * frame.scale + gap + radius
    centre = side * (steps[int(np.argmax(beyond))] if beyond.any() else 60.0)
    x, y, z = axis[None, None] - centre[0], axis[None, :, None] - centre[1], axis[:, None, None] - centre[2]
    along = (x * tangent[0] + y * tangent[1] + z * tangent[2]).astype(np.float32)
    distance = np.sqrt(np.maximum((x * x + y * y + z * z).astype(np.float32) - along**2, 0))
    distance = np.hypot(distance, np.maximum(np.abs(along) - length / 2, 0))
    free = (labels == AMNIOTIC) | (labels == MATERNAL) | (labels == PLACENTA)
    labels[free & (distance < radius + 1.5)] = AMNIOTIC
    labels[free & (distance < radius)] = LIMB
    labels[free & (distance < bone)] = SKULL
    draw["limb_radius_mm"] = float(radius / frame.scale)


def add_face(labels: np.ndarray, frame: Frame, outer: np.ndarray, week: int, rng: np.random.Generator) -> np.ndarray:
    """Face with jaws and eyes, neck with vertebrae.  Returns the eyes' centres (left, right) in canonical mm (2, 3)."""
    low, size = frame.low, frame.size
    face = low + size * [0.5, 0.78, 0.02]
    neck = low + size * [0.5, 0.42, -0.12]
    face[0] = neck[0] = 0.0
    free = outer >= 0
    body = frame.ellipsoid(face, size * [0.38, 0.3, 0.3]) < 1 + 0.25 * spline_field(_clipped(rng, 6), SIZE)
    body |= frame.ellipsoid(neck, size * [0.3, 0.25, 0.4]) < 1
    # soft tissue of the base fills the hollow below the skull
    labels[body & free] = FACE
    inner_face = body & (outer > 2)
    box = frame.box(np.array([0, *(face + neck)[1:] / 2]), 0.7 * size)
    spine = neck - size * [0, 0.06, 0]
    period, radius = rng.uniform(3.2, 4.5), rng.uniform(2.2, 3.6)
    column = np.hypot(frame.x[box], frame.y[box] - np.float32(spine[1])) < radius
    column &= np.mod(frame.z[box], period) < 0.65 * period
    shell = np.sqrt(frame.ellipsoid(face + size * [0, -0.02, 0], size * [0.24, 0.2, 0.6], box))
    level = np.abs(frame.z[box] - np.float32(face[2])) / size[2]
    jaws = (np.abs(shell - 1) < 0.07) & (frame.y[box] > face[1] - 0.05 * size[1])
    jaws &= (np.abs(level - 0.05) < 0.025) | (np.abs(level - 0.17) < 0.03)
    labels[box][(column | jaws) & inner_face[box]] = SKULL
    # eyes grow from 10 mm across at 20 weeks to 16.5 mm at 34
    eye_radius = float(np.interp(week, (20, 34), (5.0, 8.2)) * rng.uniform(0.92, 1.06))
    return np.array([_add_eye(labels, frame, outer, eye_radius, side) for side in (-1, 1)])


def _add_eye(labels: np.ndarray, frame: Frame, outer: np.ndarray, radius: float, side: int) -> np.ndarray:
    """A globe below the frontal base, in a bony orbit open to the front."""
    place = frame.low + frame.size * [0.5, 0.88, 0.14]
    step = np.array([0, 0.3, -0.9])  # down and forwards, until the globe clears the skull
    place[0] = side * max(0.25 * frame.size[0], 1.5 * radius)
    for _ in range(24):
        box = frame.box(place, 1.4 * radius)
        distance = np.sqrt(frame.ellipsoid(place, np.ones(3), box))
        nearest = np.unravel_index(int(np.argmin(distance)), distance.shape)
        if outer[box][nearest] > 0.85 * radius * frame.scale:
            break
        place = place + step
    free = outer[box] >= 0
    behind = frame.y[box] < place[1] + 0.45 * radius
    labels[box][free & (distance < 1.25 * radius) & ~behind & (distance >= radius)] = SCALP
    labels[box][free & (distance < 1.2 * radius) & behind] = SKULL
    labels[box][free & (distance < radius)] = EYE
    kji = np.array([part.start + n for part, n in zip(box, nearest, strict=True)])
    return np.asarray((kji[::-1] - (SIZE - 1) / 2) * SPACING_MM)


def _direction(rng: np.random.Generator) -> np.ndarray:
    vector = rng.standard_normal(3)
    return np.asarray(vector / np.linalg.norm(vector))


def _clipped(rng: np.random.Generator, nodes: int) -> np.ndarray:
    return np.clip(rng.standard_normal((nodes, nodes, nodes)), -2, 2)
