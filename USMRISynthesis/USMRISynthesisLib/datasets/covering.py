"""Marked frames whose cavum is painted over by other tissue of the same head.

All frames with marks show a cavum, in about the same place: from them alone a network learns to draw one there without
looking. Frames in which it is covered teach that it is drawn where it is seen. In as many others another place is
covered, so that a patch with a soft border is no sign of a missing cavum.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from USMRISynthesisLib.datasets.marked_frames import CAVUM, CAVUM_CORE

ABSENT = 3  # a code beside those of `marked_frames.py`: where a cavum was
COVERED, ELSEWHERE = 0.4, 0.3  # shares of the frames
_SIZE = (1.1, 1.5)  # of what is painted over, of a cavum's box
_SOURCE = (1.1, 1.8)  # how far off the tissue is taken, of the box's longer side
_TRIES = 20


def cover(us: np.ndarray, marks: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A frame (H, W) uint8 in canonical space and its marks' codes, covered at random; new arrays where they change."""
    core = marks == CAVUM
    kind = rng.random()
    if kind > COVERED + ELSEWHERE or not core.any():
        return us, marks
    rows, columns = np.nonzero(core)
    size = np.array([np.ptp(rows) + 1, np.ptp(columns) + 1]) / CAVUM_CORE
    centre = np.array([rows.mean(), columns.mean()])
    if kind < COVERED:
        return painted(us, centre, size, rng), np.where(core, ABSENT, marks).astype(marks.dtype)
    for _ in range(_TRIES):  # behind the cavum, where no mark is
        other = centre - size * [rng.uniform(1.5, 4.5), rng.uniform(-3, 3)]
        if not (marks[ellipse(us.shape, other, size * _SIZE[1])] > 0).any() and _seen(us, other):
            return painted(us, other, size, rng), marks
    return us, marks


def painted(us: np.ndarray, centre: np.ndarray, size: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The frame with an ellipse (row, column; height, width) filled with tissue from behind or beside it."""
    region = ellipse(us.shape, centre, size * rng.uniform(*_SIZE))
    weight = ndimage.gaussian_filter(region.astype(np.float32), rng.uniform(0.7, 2.5))
    angle, far = np.deg2rad(rng.uniform(-80, 80)), rng.uniform(*_SOURCE) * size.max()
    shift = (far * np.cos(angle), far * np.sin(angle))  # rows grow to the front: what is moved there lay behind
    behind = ndimage.shift(us.astype(np.float32), shift, order=1, mode="nearest")
    behind = np.where(behind > 0, behind, us)  # outside the fan there is no tissue
    return np.asarray(np.rint(us * (1 - weight) + behind * weight), us.dtype)


def ellipse(shape: tuple[int, ...], centre: np.ndarray, size: np.ndarray) -> np.ndarray:
    """(H, W) bool; centre (row, column), size (height, width) in pixels."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.asarray(((y - centre[0]) / size[0]) ** 2 + ((x - centre[1]) / size[1]) ** 2 <= 0.25)


def _seen(us: np.ndarray, centre: np.ndarray) -> bool:
    row, column = np.rint(centre).astype(int)
    return bool(0 <= row < us.shape[0] and 0 <= column < us.shape[1] and us[row, column] > 0)
