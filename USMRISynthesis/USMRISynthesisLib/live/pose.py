"""Poses of a head in the picture, (4, 4) from pixels (i, j, k) to canonical mm, kept steady from search to search."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from USMRISynthesisLib.geometry.head import Alignment

# A search that finds the head so near to where it was followed to has found the same: the image must not tremble.
SAME_MM, SAME_DEGREES, SAME_SCALE = 1.5, 3.0, 0.03
_HALF_TURN = np.diag([-1.0, -1.0, 1.0, 1.0])


def carried_over(found: np.ndarray, followed_then: np.ndarray | None, followed_now: np.ndarray | None) -> np.ndarray:
    """Where the head lies now, if a search found it at `found` in an earlier picture.

    followed_then, followed_now: where it was followed to in the earlier picture and in the present one; None where
    it was not followed.
    """
    if followed_then is None or followed_now is None:
        return found
    return np.asarray(found @ np.linalg.inv(followed_then) @ followed_now)


def steadied(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """The pose to use after a search, where the head was followed to `expected` in the same picture.

    The expected one, if the two are the same. A search that finds the head turned by more than 90 degrees cannot tell
    the face's end better than the one before: the direction stays.
    """
    between = found @ np.linalg.inv(expected)
    if between[0, 0] + between[1, 1] < 0:
        found, between = _HALF_TURN @ found, _HALF_TURN @ between
    degrees = abs(float(np.degrees(np.arctan2(between[1, 0], between[0, 0]))))
    scale = float(np.sqrt(abs(np.linalg.det(between[:2, :2]))))
    shift = float(np.hypot(*between[:2, 3]))
    same = shift < SAME_MM and degrees < SAME_DEGREES and abs(scale - 1) < SAME_SCALE
    return expected if same else found


def in_pose(alignment: Alignment, ijk_to_ras: np.ndarray, ijk_to_canonical: np.ndarray) -> Alignment:
    """The same outline in the picture, in another pose of a frame."""
    ras_to_canonical = ijk_to_canonical @ np.linalg.inv(ijk_to_ras)
    change = ras_to_canonical @ np.linalg.inv(alignment.ras_to_canonical)
    scale = float(np.sqrt(abs(np.linalg.det(change[:2, :2]))))
    turn = np.eye(3)
    turn[:2, :2] = change[:2, :2] / scale
    return replace(
        alignment,
        ras_to_canonical=ras_to_canonical,
        centre=np.append(change[:2, :2] @ alignment.centre[:2] + change[:2, 3], alignment.centre[2]),
        semi_axes=alignment.semi_axes * [scale, scale, 1.0],
        rotation=turn @ alignment.rotation,
    )
