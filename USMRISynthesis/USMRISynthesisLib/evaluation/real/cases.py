"""Real images with what is known of them, as `shared/data` lays them out; and the product run on one of them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from USMRISynthesisLib.datasets.frames import annotated
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.geometry.canonical import to_canonical
from USMRISynthesisLib.geometry.ellipse import Ellipse
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.synthesis.pipeline import synthesize
from USMRISynthesisLib.synthesis.result import Synthesis

# Frames without a pixel size are given the one of a usual head scan at their stored size.
ASSUMED_PIXEL_MM = 0.5

Item = TypeVar("Item")


@dataclass(frozen=True, eq=False)
class Head3D:
    """A real volume with points by eye, (3,) RAS mm each, by name."""

    name: str
    volume: Volume
    landmarks: dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Frame:
    """A real frame. subject: the fetus. plane: as its source names it, or "". size_mm: head circumference, or nan."""

    name: str
    volume: Volume
    subject: str
    plane: str = ""
    machine: str = ""
    size_mm: float = float("nan")


def heads_3d(data: Path) -> list[Head3D]:
    """The volumes of `us-3d-real/` with their landmarks; [] where the folder is missing."""
    folder, heads = data / "us-3d-real", []
    points: dict[str, dict[str, np.ndarray]] = {}
    for row in rows_of(folder / "landmarks.csv"):
        place = np.array([float(row[f"ras_{axis}"]) for axis in "xyz"])
        points.setdefault(row["file"], {})[row["point"]] = place
    for name, landmarks in sorted(points.items()):
        if (folder / name).is_file():
            heads.append(Head3D(name, Volume.read(folder / name), landmarks))
    return heads


def hc18_frames(data: Path, names: list[str] | None = None) -> list[Frame]:
    """Frames of `hc18/` with their pixel size, all of them or those named."""
    wanted = None if names is None else set(names)
    return [
        Frame(
            row["file"],
            _frame(data / "hc18" / "images" / row["file"], float(row["pixel_size_mm"])),
            row["file"].split("_")[0],
            size_mm=float(row["head_circumference_mm"]),
        )
        for row in rows_of(data / "hc18" / "index.csv")
        if wanted is None or row["file"] in wanted
    ]


def hc18_ellipses(data: Path) -> dict[str, Ellipse]:
    """File name -> the annotated head ellipse, in pixels."""
    return {row["file"]: annotated(row) for row in rows_of(data / "hc18" / "index.csv")}


def plane_frames(data: Path, limit: int | None = None) -> list[Frame]:
    """Frames of `fetal-planes/`, evenly chosen; their pixel size is assumed."""
    rows = evenly(rows_of(data / "fetal-planes" / "index.csv"), limit)
    return [
        Frame(
            row["file"],
            _frame(data / "fetal-planes" / row["file"], ASSUMED_PIXEL_MM),
            row["patient"],
            row["plane"],
            row["machine"],
        )
        for row in rows
    ]


def frames_without_brain(data: Path, limit: int | None = None) -> list[Frame]:
    """Frames of `not-brain/`, evenly chosen; `plane` says what they show, their pixel size is assumed."""
    rows = evenly(rows_of(data / "not-brain" / "index.csv"), limit)
    return [
        Frame(row["file"], _frame(data / "not-brain" / row["file"], ASSUMED_PIXEL_MM), row["patient"], row["shows"])
        for row in rows
    ]


def run(volume: Volume, *, model: str, device: str, planes: str = "axial") -> tuple[Synthesis | None, bool]:
    """The whole product on an image: the result, and whether it was accepted as it stands.

    What is refused is tried again with `allow_low_confidence` and `any_content`, so that it can be measured all the
    same. (None, False) where that is refused, too.
    """
    try:
        result = synthesize(volume, model=model, device=device, planes=planes)
        return result, result.trusted
    except Refused:
        pass
    try:
        made = synthesize(
            volume, model=model, device=device, planes=planes, allow_low_confidence=True, any_content=True
        )
    except Refused:
        return None, False
    return made, False


def is_accepted(volume: Volume, *, model: str, device: str) -> bool:
    """Whether the product makes an MR-like image of this without being told to go on."""
    try:
        return synthesize(volume, model=model, device=device).trusted
    except Refused:
        return False


def canonical_mr(result: Synthesis) -> np.ndarray:
    """The MR-like image in canonical space, 0-1, (160, 160, 160); of a frame (160, 160)."""
    slices, _ = to_canonical(result.mr.array.astype(np.float32), result.mr.ijk_to_ras, result.transform)
    return np.asarray((slices[0] if len(slices) == 1 else slices) / 1000)


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a table; [] where it is missing."""
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def evenly(items: Sequence[Item], limit: int | None) -> list[Item]:
    """At most `limit` of them, evenly spread over the list."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[index] for index in np.linspace(0, len(items) - 1, limit).round().astype(int)]


def _frame(path: Path, pixel_mm: float) -> Volume:
    from PIL import Image

    with Image.open(path) as image:
        grey = np.asarray(image.convert("L"))
    # As a picture is read: x of the picture to the patient's left, y to posterior.
    return Volume(grey[None], np.diag([-pixel_mm, -pixel_mm, pixel_mm, 1.0]))
