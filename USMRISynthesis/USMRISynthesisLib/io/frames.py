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
# From the pixels of a frame to a space that does not move with the probe, the best first.
_PLACES = tuple(f"ImageTo{space}Transform" for space in ("Ras", "RAS", "Reference", "World", "Tracker"))


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


def frame_place(texts: Mapping[str, str], spacing: tuple[float, float, float]) -> np.ndarray | None:
    """Where a tracked frame lies: (4, 4) from its pixels (i, j, k) to mm, or None where its texts do not say.

    Args:
        texts: of one frame, as `frame_texts` gives them. A transform counts only while its status is "OK".
        spacing: of the file, mm. A transform without scale maps mm, one with a scale maps pixels.
    """
    for key in _PLACES:
        if key not in texts or texts.get(f"{key}Status", "OK").strip() != "OK":
            continue
        try:
            matrix = np.array([float(part) for part in texts[key].split()]).reshape(4, 4)
        except ValueError:
            continue
        sides = np.linalg.norm(matrix[:3, :3], axis=0)
        if not np.isfinite(matrix).all() or (matrix[3] != (0, 0, 0, 1)).any() or not (sides > 0).all():
            continue
        if np.allclose(sides, 1, atol=0.01):
            matrix[:3, :3] *= spacing
        return matrix
    return None
