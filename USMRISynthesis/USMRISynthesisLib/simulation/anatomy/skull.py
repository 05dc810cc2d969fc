"""The bony head: vault with sutures and fontanelles, base with its foramen and ridges, scalp."""

from __future__ import annotations

import numpy as np

from USMRISynthesisLib.geometry.canonical import SIZE
from USMRISynthesisLib.simulation.anatomy.atlas import Atlas
from USMRISynthesisLib.simulation.anatomy.deformation import Frame
from USMRISynthesisLib.simulation.anatomy.labels import (
    BACKGROUND,
    BRAINSTEM,
    EXTERNAL_CSF,
    FACE,
    SCALP,
    SKULL,
    SUTURE,
)
from USMRISynthesisLib.simulation.anatomy.warp import spline_field


def add_skull(
    labels: np.ndarray,
    t2: np.ndarray,
    frame: Frame,
    atlas: Atlas,
    outer: np.ndarray,
    rng: np.random.Generator,
    draw: dict[str, float],
) -> None:
    """Bone below the outer surface (`outer`: signed canonical mm), opened along the sutures, and scalp above it.

    `labels` holds brain and fluid already: what is left of the background below the outer surface is bone too, so
    that where the bone is drawn thin no gap opens between it and the fluid.
    """
    thickness = draw["skull_mm"] * frame.scale * (1 + 0.2 * spline_field(_clipped(rng, 6), SIZE))
    skull = (outer < 0) & ((outer > -np.maximum(thickness, 0.7)) | (labels == BACKGROUND))
    labels[skull] = SKULL
    labels[(outer >= 0) & (outer < draw["scalp_mm"] * frame.scale)] = SCALP

    stem = atlas.label_ras(BRAINSTEM)
    base_z = float(stem[:, 2].mean())
    index = np.nonzero(skull)
    wobble = spline_field(_clipped(rng, 22), SIZE)[index]
    opened = _sutures(frame, index, base_z, wobble, rng, draw["suture_mm"] / 2)
    labels[tuple(axis[opened] for axis in index)] = SUTURE
    lowest = stem[stem[:, 2] <= np.percentile(stem[:, 2], 5)].mean(0)
    plan = np.hypot(frame.x[index] - lowest[0], frame.y[index] - lowest[1])
    foramen = (plan < rng.uniform(4, 5.5)) & (frame.z[index] < lowest[2] + 4)
    labels[tuple(axis[foramen] for axis in index)] = FACE
    _add_ridges(labels, t2, frame, base_z, outer, rng)


def _sutures(
    frame: Frame,
    index: tuple[np.ndarray, ...],
    base_z: float,
    wobble: np.ndarray,
    rng: np.random.Generator,
    half_mm: float,
) -> np.ndarray:
    """Which of the skull's voxels are suture or fontanelle, by anatomical place in atlas mm."""
    hx, hy = frame.size[0] / 2, frame.size[1] / 2
    top = float(frame.high[2]) - base_z
    x = frame.x[index] + 0.8 * wobble
    y = frame.y[index] - np.float32((frame.low[1] + frame.high[1]) / 2) + 0.8 * wobble
    z = frame.z[index] - np.float32(base_z)
    height = z / top
    bregma, lambda_y = rng.uniform(0.2, 0.36) * hy, -rng.uniform(0.6, 0.75) * hy
    lambda_z = float(rng.uniform(0.5, 0.65))
    width = half_mm * rng.uniform(0.7, 1.3, 5) * (1 + 0.25 * wobble[:, None])
    # the coronal suture leaves the bregma sideways and forwards, the lambdoid one downwards
    coronal = np.abs(y - bregma - rng.uniform(0.05, 0.25) * hy * (1 - height)) < width[:, 0]
    lambdoid = np.abs(z - top * (lambda_z - rng.uniform(0.6, 0.9) * np.abs(x) / hx)) < 1.3 * width[:, 1]
    squamous = np.abs(np.hypot((y + 0.05 * hy) / (0.5 * hy), height / 0.4) - 1) * 0.45 * hy < 0.7 * width[:, 2]
    sagittal = (np.abs(x) < width[:, 3]) & (y < bregma) & (y > lambda_y) & (height > 0.4)
    metopic = (np.abs(x) < 0.8 * width[:, 4]) & (y > bregma) & (height > 0.15)
    anterior = np.abs(x) / rng.uniform(4, 9) + np.abs(y - bregma) / rng.uniform(5, 12) < 1
    posterior = np.hypot(x, z - top * lambda_z) < rng.uniform(1.5, 4)
    opened = sagittal | metopic | (coronal & (height > -0.1)) | (lambdoid & (y < -0.3 * hy) & (height > -0.25))
    opened |= squamous & (np.abs(x) > 0.6 * hx) & (height > 0) & (y < bregma)
    opened |= (anterior & (height > 0.5)) | (posterior & (y < -0.4 * hy))
    return np.asarray(opened)


def _add_ridges(
    labels: np.ndarray,
    t2: np.ndarray,
    frame: Frame,
    base_z: float,
    outer: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Sphenoid wings and petrous ridges: bone in the fluid between the lobes at the base, an X from below."""
    hx, hy = frame.size[0] / 2, frame.size[1] / 2
    middle = (frame.low + frame.high) / 2
    box = frame.box(np.array([0, middle[1], (base_z + frame.low[2]) / 2]), max(hx, 0.6 * hy))
    x, y = np.abs(frame.x[box]), frame.y[box] - np.float32(middle[1])
    free = (labels[box] == EXTERNAL_CSF) & (outer[box] > -rng.uniform(3, 7) * frame.scale)
    free &= frame.z[box] < base_z + 2
    for start, end in (((0.1, 0.24), (0.75, 0.36)), ((0.1, 0.02), (0.8, -0.36))):
        a = np.array(start) * [hx, hy]
        along = np.array(end) * [hx, hy] - a
        length = float(np.linalg.norm(along))
        across = np.abs((x - a[0]) * along[1] - (y - a[1]) * along[0]) / length
        reached = ((x - a[0]) * along[0] + (y - a[1]) * along[1]) / length
        ridge = free & (across < rng.uniform(0.7, 1.5)) & (reached > 0) & (reached < length)
        labels[box][ridge] = SKULL
        t2[box][ridge] *= 0.35


def _clipped(rng: np.random.Generator, nodes: int) -> np.ndarray:
    return np.clip(rng.standard_normal((nodes, nodes, nodes)), -2, 2)
