"""Structures marked on real frames (`hc18/structures.csv`): does the MR-like image show them as what they are?

Cavum and the fluid around a choroid plexus are bright in T2. The falx is the midline: its direction is that of the
annotated head ellipse's long axis, its place the middle of its box (a box is as high as the falx is tilted, so that its
diagonal says nothing of the direction). The cavum lies in the front half, which tells which end is the face. Boxes are
loose and in pixels of the frame.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import ndimage

from USMRISynthesisLib.evaluation.metrics.image import auc_between
from USMRISynthesisLib.evaluation.real import fitted_atlas
from USMRISynthesisLib.evaluation.real.cases import hc18_frames, rows_of, run
from USMRISynthesisLib.evaluation.real.midline import angle_between_deg, distance_from_line, symmetry_line
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.simulation.dataset import split_of
from USMRISynthesisLib.synthesis.result import Synthesis

# The part of the head in which a structure's grey is compared with all else: the skull's surroundings are left out.
INNER = 0.75
_CORE, _RING = 0.5, (0.7, 1.7)  # of a box's size: a cavum's core, and the ring about a plexus
_COVERED = 1.3  # likewise, of what is painted over


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
    """What is marked on one frame.

    face_angle_deg: direction from the head's middle to the face (x right, y down). axis_deg: of the annotated head
    ellipse's long axis, likewise, either way round.
    """

    cavum: Box | None = None
    falx: Box | None = None
    plexus: tuple[Box, ...] = field(default=())
    face_angle_deg: float = float("nan")
    axis_deg: float = float("nan")


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
    axes = {row["file"]: float(row["angle_deg"]) for row in rows_of(data / "hc18" / "index.csv")}
    return {
        name: Marked(
            cavum=next(iter(boxes.get("csp", [])), None),
            falx=next(iter(boxes.get("falx", [])), None),
            plexus=tuple(boxes.get("choroid_plexus", [])),
            face_angle_deg=faces.get(name, float("nan")),
            axis_deg=axes.get(name, float("nan")),
        )
        for name, boxes in found.items()
    }


def evaluate(
    data: Path, *, model: str, device: str, progress: Callable[[float, str], None] | None = None
) -> dict[str, list[dict[str, float]]]:
    """Method (`fitted_atlas.METHODS`) -> one row of measures a frame; of a refused frame `accepted` 0 may be all."""
    marked = read_structures(data)
    rows: dict[str, list[dict[str, float]]] = {}
    frames = hc18_frames(data, list(marked))
    for number, frame in enumerate(frames):
        result, accepted = run(frame.volume, model=model, device=device)
        made = {fitted_atlas.OURS: None} if result is None else fitted_atlas.images(data, result)
        for name, image in made.items():
            row = {"accepted": float(accepted), "held_out": float(split_of(frame.name) != "train")}
            if result is not None and image is not None:
                row |= measure(image[0], result, marked[frame.name], frame.volume.spacing[0])
            if name == fitted_atlas.OURS:
                row |= _without_cavum(frame.volume, marked[frame.name], model=model, device=device)
            rows.setdefault(name, []).append(row)
        if progress is not None:
            progress((number + 1) / len(frames), "structures")
    return rows


def _without_cavum(volume: Volume, marked: Marked, *, model: str, device: str) -> dict[str, float]:
    """cavum_auc_covered: `cavum_auc` of a picture that shows no cavum; high where one is drawn without being seen."""
    if marked.cavum is None or not np.isfinite(marked.face_angle_deg):
        return {}
    picture = covered(volume.array[0], marked.cavum, marked.face_angle_deg)
    result, _ = run(Volume(picture[None], volume.ijk_to_ras), model=model, device=device)
    if result is None:
        return {}
    found = measure(result.mr.array[0], result, marked, volume.spacing[0])
    return {"cavum_auc_covered": found["cavum_auc"]} if "cavum_auc" in found else {}


def covered(picture: np.ndarray, box: Box, face_angle_deg: float) -> np.ndarray:
    """A picture (j, i) with a box's structure painted over by the tissue behind it on the midline, its border blended.

    face_angle_deg: direction from the head's middle to the face (x right, y down).
    """
    turn, away = np.deg2rad(face_angle_deg), _COVERED * max(box.width, box.height)
    shift = (np.sin(turn) * away, np.cos(turn) * away)
    behind = ndimage.shift(picture.astype(np.float32), shift, order=1, mode="nearest")
    weight = ndimage.gaussian_filter(box.ellipse(picture.shape, _COVERED).astype(np.float32), box.width / 20)
    return np.asarray(np.rint(picture * (1 - weight) + behind * weight), picture.dtype)


# Figure, measure of a frame, and how its values become one.
FIGURES: tuple[tuple[str, str, Callable[[Sequence[float]], np.floating]], ...] = (
    ("cavum_auc", "cavum_auc", np.mean),
    ("cavum_auc_covered", "cavum_auc_covered", np.mean),
    ("plexus_ring_auc", "plexus_ring_auc", np.mean),
    ("falx_deg_median", "falx_deg", np.median),
    ("falx_mm_median", "falx_mm", np.median),
    ("midline_pose_deg_median", "pose_deg", np.median),
    ("midline_pose_mm_median", "pose_mm", np.median),
    ("face_end_right_share", "face_right", np.mean),
)


def summarise(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """FIGURES over frames, those that any frame has; with `_held_out`, over fetuses whose marks are not trained on."""
    found = {}
    for name, key, over in FIGURES:
        held_out = [row[key] for row in rows if key in row and row.get("held_out")]
        for suffix, values in (("", [row[key] for row in rows if key in row]), ("_held_out", held_out)):
            if values:
                found[name + suffix] = float(over(values))
    return found


def measure(image: np.ndarray, result: Synthesis, marked: Marked, pixel_mm: float) -> dict[str, float]:
    """Measures of one image (j, i) on a frame's grid, as far as they are marked.

    cavum_auc, plexus_ring_auc: of the structure's grey over the rest of the head's inside. falx_deg: between the
    image's line of symmetry and the ellipse's axis; falx_mm: of the falx's middle from that line. pose_deg, pose_mm:
    likewise, of the estimated midline, whatever the image shows. face_right: whether the estimated face lies at the
    marked end.
    """
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
        # The ring holds the ventricle's fluid and some brain: its brighter half is compared, and with the brighter half
        # of the rest, for against all of it that of any place would have an AUC of 0.75.
        measures["plexus_ring_auc"] = auc_between(_brighter_half(image[elsewhere]), _brighter_half(image[rings]))
    # The canonical A axis and the midline x = 0 in the frame's pixels.
    to_pixels = np.linalg.inv(to_canonical)
    axis = (to_pixels[:2, :3] @ [0.0, 1.0, 0.0]) / np.linalg.norm(to_pixels[:2, :3] @ [0.0, 1.0, 0.0])
    centre = to_pixels[:2, 3]
    line = symmetry_line(image, inner, centre, axis, pixel_mm)
    for name, shown in (("falx", line), ("pose", (centre, axis))):
        if shown is None:
            continue
        direction = marked.axis_deg if np.isfinite(marked.axis_deg) else marked.face_angle_deg
        if np.isfinite(direction):
            turn = np.deg2rad(direction)
            measures[f"{name}_deg"] = angle_between_deg(shown[1], np.array([np.cos(turn), np.sin(turn)]))
        if marked.falx is not None:
            middle = np.array([marked.falx.x, marked.falx.y])
            measures[f"{name}_mm"] = distance_from_line(middle, *shown) * pixel_mm
    if np.isfinite(marked.face_angle_deg):
        face = np.deg2rad(marked.face_angle_deg)
        measures["face_right"] = float(axis @ [np.cos(face), np.sin(face)] > 0)
    return measures


def _brighter_half(values: np.ndarray) -> np.ndarray:
    return np.sort(values)[len(values) // 2 :]


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
