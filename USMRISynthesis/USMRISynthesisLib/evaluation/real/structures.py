"""Structures marked on real frames (`hc18/structures.csv`): does the MR-like image show them as what they are?

Cavum and the fluid around a choroid plexus are bright in T2. The falx is the midline. The cavum lies in the front half,
which tells which end is the face. Boxes are loose and in pixels of the frame.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from USMRISynthesisLib.evaluation.metrics.image import auc_between
from USMRISynthesisLib.evaluation.real.cases import Frame, hc18_frames, run
from USMRISynthesisLib.synthesis.result import Synthesis

# The part of the head in which a structure's grey is compared with all else: the skull's surroundings are left out.
INNER = 0.75
_CORE, _RING = 0.5, (0.7, 1.7)  # of a box's size: a cavum's core, and the ring about a plexus


@dataclass(frozen=True)
class Box:
    """Centre and size in pixels (x right, y down)."""

    x: float
    y: float
    width: float
    height: float

    def ellipse(self, shape: tuple[int, int], factor: float) -> np.ndarray:
        """(j, i) bool: the ellipse of `factor` times the box's size about its centre."""
        y, x = np.mgrid[: shape[0], : shape[1]]
        radius = ((x - self.x) / (self.width / 2 * factor)) ** 2 + ((y - self.y) / (self.height / 2 * factor)) ** 2
        return np.asarray(radius <= 1)


@dataclass(frozen=True)
class Marked:
    """What is marked on one frame; face_angle_deg: direction from the head's middle to the face (x right, y down)."""

    cavum: Box | None = None
    falx: Box | None = None
    plexus: tuple[Box, ...] = field(default=())
    face_angle_deg: float = float("nan")


def read_structures(data: Path) -> dict[str, Marked]:
    """File name -> what is marked on it; {} where the table is missing."""
    path = data / "hc18" / "structures.csv"
    if not path.is_file():
        return {}
    found: dict[str, dict[str, list[Box]]] = {}
    faces: dict[str, float] = {}
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            box = Box(*(float(row[key]) for key in ("cx", "cy", "w", "h")))
            found.setdefault(row["file"], {}).setdefault(row["structure"], []).append(box)
            if row["face_angle_deg"]:
                faces[row["file"]] = float(row["face_angle_deg"])
    return {
        name: Marked(
            cavum=next(iter(boxes.get("csp", [])), None),
            falx=next(iter(boxes.get("falx", [])), None),
            plexus=tuple(boxes.get("choroid_plexus", [])),
            face_angle_deg=faces.get(name, float("nan")),
        )
        for name, boxes in found.items()
    }


def evaluate(
    data: Path,
    *,
    model: str,
    device: str,
    show: Callable[[Frame, Synthesis, Marked], np.ndarray] | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> list[dict[str, float]]:
    """One row of measures a frame; a frame that is refused has `accepted` 0 and nothing else.

    show: what is measured in place of the MR-like image, on the frame's grid (baselines).
    """
    marked, rows = read_structures(data), []
    frames = hc18_frames(data, list(marked))
    for number, frame in enumerate(frames):
        result, accepted = run(frame.volume, model=model, device=device)
        row = {"accepted": float(accepted)}
        if result is not None:
            truth = marked[frame.name]
            image = result.mr.array[0] if show is None else show(frame, result, truth)
            row |= measure(image, result, truth, frame.volume.spacing[0])
        rows.append(row)
        if progress is not None:
            progress((number + 1) / len(frames), "structures")
    return rows


def measure(image: np.ndarray, result: Synthesis, marked: Marked, pixel_mm: float) -> dict[str, float]:
    """Measures of one frame: cavum_auc, plexus_ring_auc, falx_deg, falx_mm, face_right, as far as they are marked."""
    to_canonical = result.transform @ result.mr.ijk_to_ras
    inner = _inner_head(result, to_canonical)
    shape = (image.shape[0], image.shape[1])
    boxes = [box for box in (marked.cavum, *marked.plexus) if box is not None]
    elsewhere = inner.copy()
    for box in boxes:
        elsewhere &= ~box.ellipse(shape, _RING[1])
    measures: dict[str, float] = {}
    if marked.cavum is not None:
        core = marked.cavum.ellipse(shape, _CORE) & inner
        if core.any() and elsewhere.any():
            measures["cavum_auc"] = auc_between(image[elsewhere], image[core])
    rings = np.zeros(shape, bool)
    for box in marked.plexus:
        rings |= box.ellipse(shape, _RING[1]) & ~box.ellipse(shape, _RING[0]) & inner
    if rings.any() and elsewhere.any():
        # The ring holds the ventricle's fluid and some brain: its brighter half is what is compared.
        bright = image[rings][image[rings] >= np.median(image[rings])]
        measures["plexus_ring_auc"] = auc_between(image[elsewhere], bright)
    # The canonical A axis and the midline x = 0 in the frame's pixels.
    to_pixels = np.linalg.inv(to_canonical)
    axis = (to_pixels[:2, :3] @ [0.0, 1.0, 0.0]) / np.linalg.norm(to_pixels[:2, :3] @ [0.0, 1.0, 0.0])
    centre = to_pixels[:2, 3]
    if marked.falx is not None:
        angle, offset = _against_falx(axis, centre, marked.falx)
        measures |= {"falx_deg": angle, "falx_mm": offset * pixel_mm}
    if np.isfinite(marked.face_angle_deg):
        face = np.deg2rad(marked.face_angle_deg)
        measures["face_right"] = float(axis @ [np.cos(face), np.sin(face)] > 0)
    return measures


def _inner_head(result: Synthesis, to_canonical: np.ndarray) -> np.ndarray:
    """(j, i) bool: the head's outline shrunk about its middle, where there is an image."""
    head = result.mr.array[0] > 0
    y, x = np.nonzero(head)
    if not len(x):
        return head
    points = np.stack([x, y]).astype(float)
    centre = points.mean(axis=1, keepdims=True)
    spread = np.linalg.inv(np.cov(points))
    j, i = np.mgrid[: head.shape[0], : head.shape[1]]
    away = np.stack([i, j]).reshape(2, -1) - centre
    radius = (away * (spread @ away)).sum(axis=0).reshape(head.shape)  # 4 on the outline of a full ellipse
    return np.asarray(head & (radius <= 4 * INNER**2))


def _against_falx(axis: np.ndarray, centre: np.ndarray, falx: Box) -> tuple[float, float]:
    """Angle in degrees between the estimated midline and the falx, and the falx's distance from it in pixels.

    A box holds the falx along one of its diagonals; which one, the nearer to the estimate says. Boxes are higher than
    the falx is tilted, so that a perfect midline still has the diagonal's own angle, of several degrees.
    """
    diagonals = [np.array([falx.width, sign * falx.height]) for sign in (1, -1)]
    angles = [np.rad2deg(np.arccos(np.clip(abs(axis @ d) / np.linalg.norm(d), 0, 1))) for d in diagonals]
    normal = np.array([-axis[1], axis[0]])
    return float(min(angles)), float(abs(normal @ (np.array([falx.x, falx.y]) - centre)))
