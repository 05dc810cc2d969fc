"""Consistency: the same anatomy must come out when only the picture changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

from USMRISynthesisLib.evaluation.metrics.image import ncc
from USMRISynthesisLib.evaluation.real.cases import Frame, run
from USMRISynthesisLib.io.volume import Volume

SHIFT = (9, -7)  # pixels, rows and columns


def flipped(array: np.ndarray) -> np.ndarray:
    """Mirrored left to right."""
    return np.ascontiguousarray(array[..., ::-1])


def darker(array: np.ndarray) -> np.ndarray:
    """Six tenths of the gain."""
    return np.asarray(array * 0.6).astype(np.uint8)


def brighter(array: np.ndarray) -> np.ndarray:
    """One and a half times the gain, saturated."""
    return np.clip(array * 1.5, 0, 255).astype(np.uint8)


def shifted(array: np.ndarray) -> np.ndarray:
    """Moved by SHIFT; what comes in is black."""
    return np.asarray(ndimage.shift(array, (0, *SHIFT), order=0))


def speckle_reduced(array: np.ndarray) -> np.ndarray:
    """A median over 5 by 5 pixels, as a scanner's speckle reduction leaves it."""
    return np.asarray(ndimage.median_filter(array, (1, 5, 5)))


def overlaid(array: np.ndarray) -> np.ndarray:
    """With callipers and a line of text's size, burnt in."""
    out = array.copy()
    _, rows, columns = out.shape
    for row, column in ((0.3, 0.3), (0.7, 0.7)):
        j, i = int(row * rows), int(column * columns)
        out[0, j - 6 : j + 7, i], out[0, j, i - 6 : i + 7] = 255, 255
    out[0, 6:16, 6 : columns // 4 : 3] = 230
    return out


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "flip": flipped,
    "darker": darker,
    "brighter": brighter,
    "shift": shifted,
    "speckle_reduction": speckle_reduced,
    "overlay": overlaid,
}
_BACK: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "flip": flipped,
    "shift": lambda array: np.asarray(ndimage.shift(array, (0, -SHIFT[0], -SHIFT[1]), order=0)),
}


def evaluate(
    frames: Sequence[Frame], *, model: str, device: str, progress: Callable[[float, str], None] | None = None
) -> dict[str, list[float]]:
    """Change -> NCC of each frame's two results, brought back onto each other, where either shows brain.

    A frame that is accepted before the change and refused after it counts 0.
    """
    found: dict[str, list[float]] = {name: [] for name in CHANGES}
    for number, frame in enumerate(frames):
        before, accepted = run(frame.volume, model=model, device=device)
        if before is not None and accepted:
            for name, change in CHANGES.items():
                changed = Volume(change(frame.volume.array), frame.volume.ijk_to_ras)
                after, again = run(changed, model=model, device=device)
                if after is None or not again:
                    found[name].append(0.0)
                    continue
                image = _BACK.get(name, np.asarray)(after.mr.array)
                either = (image > 0) | (before.mr.array > 0)
                found[name].append(ncc(image.astype(float), before.mr.array.astype(float), either))
        if progress is not None:
            progress((number + 1) / len(frames), "consistency")
    return found
