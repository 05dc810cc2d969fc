"""The similarity to canonical space that three points on the outer skull give."""

from __future__ import annotations

import numpy as np

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.geometry.canonical import HEAD_LENGTH_MM

_MIN_LENGTH_MM, _MAX_LENGTH_MM = 15.0, 200.0  # of a fetal head from 10 weeks to term, and more
_MIN_ANGLE_DEG = 25.0


def similarity_from_landmarks(front: np.ndarray, back: np.ndarray, top: np.ndarray) -> np.ndarray:
    """(4, 4), RAS mm to canonical mm, from three points (3,) on the outer skull in RAS mm.

    Front and back are the ends of the head along the midline: they give the place, the direction to anterior and the
    scale (`HEAD_LENGTH_MM` between them). The top, anywhere on the crown, gives the direction to superior.

    Raises Refused: the points cannot be those of a fetal head, or lie on one line.
    """
    along = np.asarray(front, dtype=float) - back
    length = float(np.linalg.norm(along))
    if not _MIN_LENGTH_MM <= length <= _MAX_LENGTH_MM:
        raise Refused(
            "landmarks",
            f"Front and Back are {length:.0f} mm apart, which no fetal head is.",
            "Move them to the two ends of the head.",
        )
    anterior = along / length
    upwards = np.asarray(top, dtype=float) - (np.asarray(front) + back) / 2
    across = upwards - anterior * (upwards @ anterior)
    if np.linalg.norm(across) < np.sin(np.radians(_MIN_ANGLE_DEG)) * max(np.linalg.norm(upwards), 0.1 * length):
        raise Refused("landmarks", "Top lies on the line from Back to Front.", "Move it to the crown of the head.")
    superior = across / np.linalg.norm(across)
    matrix = np.eye(4)
    matrix[:3, :3] = HEAD_LENGTH_MM / length * np.stack([np.cross(anterior, superior), anterior, superior])
    matrix[:3, 3] = -matrix[:3, :3] @ (np.asarray(front) + back) / 2
    return matrix
