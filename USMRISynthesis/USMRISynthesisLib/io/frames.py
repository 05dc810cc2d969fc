"""Frames in time: what a recorded sequence says about each of its frames.

PLUS and SlicerIGSIO write, for every frame, ``Seq_Frame0003_ProbeToTrackerTransform`` and the like into the header of
a MetaImage or NRRD file (``.igs.mha``, ``.seq.mha``, ``.igs.nrrd``). A volume that was reconstructed from such a sweep
may carry the entries of one frame; several frames' entries make a sequence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

_ENTRY = re.compile(r"Seq_Frame(\d{1,9})_(\w+)", re.ASCII)
_TRANSFORM = re.compile(r"(\w+?)To(\w+)Transform", re.ASCII)
# Spaces that do not move with the probe, the best first.
_FIXED = ("Ras", "RAS", "Reference", "World", "Tracker")
_IMAGE = "Image"
_LEAST_SCALE = 1e-12  # determinant of a transform that can be turned over
_ORIENTATION = "UltrasoundImageOrientation"


def recorded_frames(texts: Mapping[str, str]) -> int:
    """How many frames have entries of their own."""
    return len({found[1] for key in texts if key.startswith("Seq_Frame") and (found := _ENTRY.fullmatch(key))})


def frame_texts(texts: Mapping[str, str], frame: int) -> dict[str, str]:
    """The texts of one frame, under their plain names, and those of the whole sequence."""
    kept = {key: value for key, value in texts.items() if not _ENTRY.fullmatch(key)}
    for key, value in texts.items():
        found = _ENTRY.fullmatch(key)
        if found and int(found[1]) == frame:
            kept[found[2]] = value
    return kept


def is_invalid(texts: Mapping[str, str]) -> bool:
    """Whether a frame is marked as one without an image: the recording lost it."""
    return texts.get("ImageStatus", "OK").strip() != "OK"


def frame_place(
    texts: Mapping[str, str], spacing: tuple[float, float, float], size: tuple[int, int] | None = None
) -> np.ndarray | None:
    """Where a tracked frame lies: (4, 4) from its pixels (i, j, k) to mm, or None where its texts do not say.

    A space is reached directly (ImageToReference), or step by step and against a transform's direction, as PLUS does:
    ImageToProbe, ProbeToTracker, and ReferenceToTracker turned over.

    Args:
        texts: of one frame, as `frame_texts` gives them. A transform counts only while its status is "OK".
        spacing: of the file, mm. A transform of the image without scale maps mm, one with a scale maps pixels.
        size: (i, j) pixels; the image's transforms go by its orientation "MF" (to the marked side, and far away), so
            that a picture stored in another one is counted from its other end.
    """
    known = _transforms(texts)
    for space in _FIXED:
        matrix = _chain(known, space)
        if matrix is None:
            continue
        sides = np.linalg.norm(matrix[:3, :3], axis=0)
        if np.allclose(sides, 1, atol=0.01):
            matrix = matrix @ np.diag([*spacing, 1.0])
        return matrix @ _to_marked_far(texts.get(_ORIENTATION, ""), size)
    return None


def _transforms(texts: Mapping[str, str]) -> dict[tuple[str, str], np.ndarray]:
    """(from, to) -> (4, 4) of the valid transforms in a frame's texts."""
    known = {}
    for key, text in texts.items():
        found = _TRANSFORM.fullmatch(key)
        if not found or texts.get(f"{key}Status", "OK").strip() != "OK":
            continue
        try:
            matrix = np.array([float(part) for part in text.split()]).reshape(4, 4)
        except ValueError:
            continue
        if not np.isfinite(matrix).all() or (matrix[3] != (0, 0, 0, 1)).any():
            continue
        if abs(np.linalg.det(matrix[:3, :3])) > _LEAST_SCALE:
            known[found[1], found[2]] = matrix
    return known


def _chain(known: Mapping[tuple[str, str], np.ndarray], space: str) -> np.ndarray | None:
    """(4, 4) from the image to a space, by as few steps as there are; None where no way leads there."""
    ways, reached = [(_IMAGE, np.eye(4))], {_IMAGE}
    while ways:
        further = []
        for place, matrix in ways:
            if place == space:
                return matrix
            for (start, end), step in known.items():
                for here, there, forward in ((start, end, True), (end, start, False)):
                    # An image's own transform is its calibration: another image's is none of its own.
                    if here == place and there not in reached and there != _IMAGE:
                        reached.add(there)
                        further.append((there, (step if forward else np.linalg.inv(step)) @ matrix))
        ways = further
    return None


def _to_marked_far(orientation: str, size: tuple[int, int] | None) -> np.ndarray:
    """(4, 4) from the pixels as they are stored to those of an image in orientation MF."""
    matrix = np.eye(4)
    if size is not None:
        for axis, other in ((0, "U"), (1, "N")):
            if orientation[axis : axis + 1].upper() == other:
                matrix[axis, axis], matrix[axis, 3] = -1.0, size[axis] - 1
    return matrix
