"""Real frames on which fluid is marked (`hc18/structures.csv`) in canonical space, for training.

`python -m USMRISynthesisLib.datasets.marked_frames --data DIR --out data/marked.npz`

A cavum is fluid in the middle of its box; about a choroid plexus there is the ventricle's fluid at some places. The
face's end is known by the side on which the cavum lies. Frames are split by fetus as in `simulation/dataset.py`: what
is measured on the others was not trained on. Frames: van den Heuvel et al., PLoS ONE 2018, 13(8):e0200412; boxes:
FozanAzhar/Ultrasound-Fetal-CNS-Anomaly-Detection (both CC BY 4.0).
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.geometry.canonical import to_canonical
from USMRISynthesisLib.simulation.dataset import frame_to_canonical, frame_volume, read_frame_index, split_of
from USMRISynthesisLib.ultrasound.gate import find_fan

CAVUM, PLEXUS_RING = 1, 2  # codes of a frame's marks; 0: nothing is said
CAVUM_CORE = 0.5  # of the box's size: boxes are loose
_RING = (0.7, 1.7)  # likewise, about a plexus
_ANGLE_DEG = 30.0  # from the head's long axis to the face, at most


def marks_of(boxes: Sequence[Mapping[str, str]], shape: tuple[int, int]) -> np.ndarray:
    """(j, i) uint8 codes on a frame's grid; boxes: rows of the table."""
    marks = np.zeros(shape, np.uint8)
    plexus = [box for box in boxes if box["structure"] == "choroid_plexus"]
    for box in plexus:
        marks[_ellipse(box, shape, _RING[1])] = PLEXUS_RING
    for box in plexus:
        marks[_ellipse(box, shape, _RING[0])] = 0
    for box in boxes:
        if box["structure"] == "csp":
            marks[_ellipse(box, shape, CAVUM_CORE)] = CAVUM
    return marks


def _ellipse(box: Mapping[str, str], shape: tuple[int, int], factor: float) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    across = (x - float(box["cx"])) / (float(box["w"]) / 2 * factor)
    return np.asarray(across**2 + ((y - float(box["cy"])) / (float(box["h"]) / 2 * factor)) ** 2 <= 1)


def upright(row: Mapping[str, str], face_angle_deg: float) -> np.ndarray:
    """`frame_to_canonical`, with the face's end in front (+y). face_angle_deg: x right, y down in the image."""
    matrix = frame_to_canonical(dict(row))
    turn = np.deg2rad(face_angle_deg)
    face = matrix[:2, :2] @ -np.array([np.cos(turn), np.sin(turn)])
    if abs(np.rad2deg(np.arctan2(face[0], abs(face[1])))) > _ANGLE_DEG:
        raise Refused("data", f"The face of {row['file']} does not lie at an end of its head.", "Mend its angle.")
    return matrix if face[1] > 0 else np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix


def prepare(data: Path, target: Path) -> int:
    """Write us, fan, marks, split, frame of every frame with a marked cavum. Returns their number."""
    with open(data / "hc18" / "structures.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    heads = {row["file"]: row for row in read_frame_index(data)}
    us, fans, marks, names = [], [], [], []
    for name in sorted({row["file"] for row in rows if row["structure"] == "csp" and row["face_angle_deg"]}):
        boxes = [row for row in rows if row["file"] == name]
        angle = float(next(row["face_angle_deg"] for row in boxes if row["face_angle_deg"]))
        volume = frame_volume(data, heads[name])
        matrix = upright(heads[name], angle)
        drawn = marks_of(boxes, volume.array.shape[1:])
        fan = find_fan(volume.array)
        image, inside = (to_canonical(part, volume.ijk_to_ras, matrix)[0][0] for part in (volume.array, fan * 1.0))
        codes = [to_canonical((drawn[None] == code) * 1.0, volume.ijk_to_ras, matrix)[0][0] for code in (1, 2)]
        us.append(np.clip(np.round(image), 0, 255).astype(np.uint8))
        fans.append(inside > 0.5)
        marks.append(np.where(codes[0] > 0.5, CAVUM, np.where(codes[1] > 0.5, PLEXUS_RING, 0)).astype(np.uint8))
        names.append(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        target, us=np.stack(us), fan=np.stack(fans), marks=np.stack(marks), frame=np.array(names),
        split=np.array([split_of(name) for name in names]),
    )  # fmt: skip
    return len(us)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    print(f"{prepare(options.data, options.out)} frames")


if __name__ == "__main__":
    main()
