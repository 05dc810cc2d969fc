"""From canonical slices back to the grid of the ultrasound: interpolated, and cut at the skull and at the fan."""

from __future__ import annotations

import numpy as np

from USMRISynthesisLib.geometry.canonical import canonical_ijk_to_ras, from_canonical
from USMRISynthesisLib.geometry.head import Alignment
from USMRISynthesisLib.io.volume import Volume

MR_MAX = 1000
MIN_RELIABILITY = 1e-3


def onto_input_grid(
    mr: np.ndarray,
    head: np.ndarray,
    fan: np.ndarray,
    volume: Volume,
    alignment: Alignment,
    reliability: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """MR in [-1, 1] and head mask on canonical slices -> int16 MR, float32 confidence on the input's grid.

    reliability: probability on canonical slices that the MR is right; the confidence is that, if it is given.

    The MR is interpolated unmasked and cut at the skull after that: masking first draws a dark rim.
    """
    values = np.zeros(volume.shape, dtype=np.int16)
    confidence = np.zeros(volume.shape, dtype=np.float32)
    part = _part_of(head, fan, volume, alignment)
    if part is not None:
        box, corner, inside = part
        _put_mr(values[box], mr, corner, inside, alignment)
        # Never 0 inside: 0 means that the beam was not there.
        on_head = head.astype(np.float32) if reliability is None else reliability
        share = from_canonical(on_head, alignment.ras_to_canonical, corner, inside.shape)
        np.copyto(confidence[box], np.clip(share, MIN_RELIABILITY, 1), where=inside)
    return values, confidence


def mr_on_input_grid(
    mr: np.ndarray, head: np.ndarray, fan: np.ndarray, volume: Volume, alignment: Alignment
) -> np.ndarray:
    """The first of what `onto_input_grid` returns, in half the time."""
    values = np.zeros(volume.shape, dtype=np.int16)
    part = _part_of(head, fan, volume, alignment)
    if part is not None:
        box, corner, inside = part
        _put_mr(values[box], mr, corner, inside, alignment)
    return values


def _part_of(
    head: np.ndarray, fan: np.ndarray, volume: Volume, alignment: Alignment
) -> tuple[tuple[slice, ...], np.ndarray, np.ndarray] | None:
    """The head's box, the rest of the grid being 0 anyway: its slices, its `ijk_to_ras`, and (k, j, i) bool: inside."""
    box = _box_of(head, alignment.ras_to_canonical, volume)
    if box is None:
        return None
    corner = volume.ijk_to_ras.copy()
    corner[:3, 3] += volume.ijk_to_ras[:3, :3] @ [part.start for part in box[::-1]]
    shape = tuple(part.stop - part.start for part in box)
    return box, corner, alignment.head_on(corner, shape) & fan[box]


def _put_mr(
    values: np.ndarray, mr: np.ndarray, ijk_to_ras: np.ndarray, inside: np.ndarray, alignment: Alignment
) -> None:
    back = from_canonical((mr + 1) * (MR_MAX / 2), alignment.ras_to_canonical, ijk_to_ras, inside.shape)
    np.copyto(values, np.clip(np.rint(back), 0, MR_MAX), where=inside, casting="unsafe")


def _box_of(head: np.ndarray, ras_to_canonical: np.ndarray, volume: Volume) -> tuple[slice, ...] | None:
    """The (k, j, i) slices of the input's grid that hold the head, or None when none of it lies there."""
    where = [np.flatnonzero(head.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    if not len(where[0]):
        return None
    low, high = (np.array([line[end] for line in where[::-1]]) for end in (0, -1))  # (i, j, k)
    corners = np.stack(np.meshgrid(*zip(low - 1, high + 1, strict=True), indexing="ij")).reshape(3, -1)
    to_input = np.linalg.inv(ras_to_canonical @ volume.ijk_to_ras) @ canonical_ijk_to_ras()
    at = to_input[:3, :3] @ corners + to_input[:3, 3:]
    box = []
    for first, last, size in zip(np.floor(at.min(axis=1)), np.ceil(at.max(axis=1)), volume.shape[::-1], strict=True):
        box.append(slice(int(np.clip(first, 0, size)), int(np.clip(last + 1, 0, size))))
    if volume.is_frame:
        box[2] = slice(0, 1)  # a frame lies in one plane, whatever its z
    if any(part.stop <= part.start for part in box):
        return None
    return tuple(box[::-1])
