"""Consistency: the same anatomy must come out when only the picture changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from USMRISynthesisLib.evaluation.metrics.image import ncc
from USMRISynthesisLib.evaluation.real import fitted_atlas
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
    data: Path,
    frames: Sequence[Frame],
    *,
    model: str,
    device: str,
    progress: Callable[[float, str], None] | None = None,
) -> dict[str, dict[str, list[float]]]:
    """Method -> change -> NCC of each frame's two images, brought back onto each other, where either shows brain.

    A frame that is accepted before the change and refused after it counts 0.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for number, frame in enumerate(frames):
        before, accepted = run(frame.volume, model=model, device=device)
        if before is not None and accepted:
            shown = fitted_atlas.images(data, before)
            for change in CHANGES:
                after = _changed(data, frame.volume, change, model, device)
                for method, image in shown.items():
                    values = found.setdefault(method, {name: [] for name in CHANGES})[change]
                    values.append(0.0 if after is None else _alike(_BACK.get(change, np.asarray)(after[method]), image))
        if progress is not None:
            progress((number + 1) / len(frames), "consistency")
    return found


def _changed(data: Path, volume: Volume, change: str, model: str, device: str) -> dict[str, np.ndarray] | None:
    """Method -> image of the changed frame; None where it is refused."""
    result, accepted = run(Volume(CHANGES[change](volume.array), volume.ijk_to_ras), model=model, device=device)
    return fitted_atlas.images(data, result) if result is not None and accepted else None


def _alike(a: np.ndarray, b: np.ndarray) -> float:
    return ncc(a.astype(float), b.astype(float), (a > 0) | (b > 0))
