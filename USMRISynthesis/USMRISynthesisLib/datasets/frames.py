"""What the head outline in 2D learns from: real frames with their annotated ellipse, and simulated ones.

Real frames are HC18's, split by fetus as everywhere (simulation/dataset.py); simulated ones lie in the cases of
`usmri simulate`. Each is kept as the pyramid that inference samples, with its ellipse in the same plane.
"""

from __future__ import annotations

import csv
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from USMRISynthesisLib.alignment.common.pyramid import Pyramid
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.geometry.canonical import canonical_axis_mm, canonical_ijk_to_ras
from USMRISynthesisLib.geometry.ellipse import Ellipse, from_mask
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.simulation.dataset import frame_volume, read_frame_index, split_of
from USMRISynthesisLib.simulation.scanner.frame import FrameRanges
from USMRISynthesisLib.ultrasound.gate import find_fan

Row = dict[str, str]


@dataclass(frozen=True, eq=False)
class Picture:
    """A frame with its truth.

    group: the fetus or the simulated head, of which there may be several frames. volume, fan: as inference gets them.
    ellipse: the outer skull in the frame's plane, mm. front: (2,) the plane's unit vector towards the face; None where
    nobody knows.
    """

    name: str
    group: str
    volume: Volume
    fan: np.ndarray
    ellipse: Ellipse
    front: np.ndarray | None

    @cached_property
    def pyramid(self) -> Pyramid:
        return Pyramid(self.volume, self.fan)


def rows_of(data: Path, split: str, minimum_mm: float = 0.0) -> list[Row]:
    """HC18's rows of one split of fetuses with at least this head circumference. Raises Refused without any."""
    if not (data / "hc18" / "index.csv").is_file():
        raise Refused("data", "There are no HC18 frames.", "Give the folder that holds hc18/.")
    rows = [
        row
        for row in read_frame_index(data)
        if split_of(row["file"]) == split and float(row["head_circumference_mm"]) >= minimum_mm
    ]
    if not rows:
        raise Refused("data", "There are no frames of these fetuses.", "Give the whole folder of HC18.")
    return rows


def annotated(row: Row) -> Ellipse:
    """The annotated ellipse in pixels."""
    angle = np.deg2rad(float(row["angle_deg"]))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return Ellipse(
        np.array([float(row["centre_x_px"]), float(row["centre_y_px"])]),
        turn * [float(row["semi_major_px"]), float(row["semi_minor_px"])],
    )


def face_directions(data: Path) -> dict[str, np.ndarray]:
    """Frame -> unit vector (x right, y down) towards the face, of the frames whose cavum is marked."""
    path = data / "hc18" / "structures.csv"
    if not path.is_file():
        return {}
    with open(path, newline="", encoding="utf-8") as stream:
        angles = {row["file"]: np.deg2rad(float(row["face_angle_deg"])) for row in csv.DictReader(stream)
                  if row["face_angle_deg"]}  # fmt: skip
    return {file: np.array([np.cos(angle), np.sin(angle)]) for file, angle in angles.items()}


def real_pictures(data: Path, split: str) -> list[Picture]:
    """HC18's frames of one split of fetuses, of all sizes; some of them know their face (`hc18/structures.csv`)."""
    pictures, faces = [], face_directions(data)
    for row in rows_of(data, split):
        volume = frame_volume(data, row)
        size = float(row["pixel_size_mm"])
        pictures.append(
            Picture(
                row["file"],
                f"fetus {row['file'].split('_')[0]}",
                volume,
                find_fan(volume.array, volume.spacing),
                annotated(row).moved(np.diag([size, size, 1.0])),
                faces.get(row["file"]),
            )
        )
    return pictures


def simulated_pictures(folder: Path) -> list[Picture]:
    """The 2D frames in the cases of a folder, which stand upright. Raises Refused (a damaged case)."""
    pictures = []
    for path in sorted(folder.glob("*.npz")):
        try:
            with np.load(path) as case:
                if "frames_us" not in case:
                    continue
                parts = [case[f"frames_{key}"] for key in ("us", "fan", "skull")]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise Refused(
                "data", f"{path.name} is not a simulated case ({error}).", "Make the data set again."
            ) from error
        for n, (us, fan, skull) in enumerate(zip(*parts, strict=True)):
            ellipse = _outline(skull)
            if ellipse is not None:
                volume = Volume(us[None], canonical_ijk_to_ras())
                pictures.append(
                    Picture(f"{path.stem} {n}", path.stem, volume, fan[None], ellipse, np.array([0.0, 1.0]))
                )
    return pictures


def _outline(skull: np.ndarray) -> Ellipse | None:
    """Of a mask on the canonical plane, in the plane's own mm; as wide of the bone as a sonographer draws it."""
    axis = canonical_axis_mm() - canonical_axis_mm()[0]
    y, x = np.meshgrid(axis, axis, indexing="ij")
    found = from_mask(skull.ravel().astype(np.float64), np.stack([x.ravel(), y.ravel()]))
    return None if found is None else Ellipse(found.centre, found.axes * (1 + FrameRanges().length_bias))
