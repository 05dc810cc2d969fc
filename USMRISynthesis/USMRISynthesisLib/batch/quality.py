"""What a table of many results says of each: figures to sort by, and a small picture.

    measure(result)                                  # {"score": 0.82, "roughness": 1.03, ...}
    thumbnail(result, ultrasound, Path("case.png"))

No figure here says that an image is right: they help to find the results that need a look first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from USMRISynthesisLib.geometry.canonical import resample, to_canonical
from USMRISynthesisLib.io.outputs import check, staged
from USMRISynthesisLib.io.png import framed, png_bytes
from USMRISynthesisLib.io.style import BACKGROUND
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.synthesis.result import DOUBT, GRAVE_DOUBT, PROBABILITY, Synthesis
from USMRISynthesisLib.synthesis.roughness import roughness

Quality = dict[str, float | str | None]
TILE, TILE_MM = 96, 1.1  # a tile's side in pixels, and a pixel's in canonical mm: the whole head
_GAP = 2
# Axes (canonical RAS) along a tile's columns and rows: the right side on the left, front or top up.
_PLANES = {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}


def measure(result: Synthesis) -> Quality:
    """The figures of one result; None where there is none.

    Returns:
        score: of the alignment, 0-1. found_by: how the head was found.
        answer: what a frame shows (a plane, or "no brain"); brain: the probability of a brain. None for a volume.
        reliability_mean, reliability_p10: mean and 10th percentile of the probability that the grey is right, where
            the beam reached the inside of the head. None without a reliability map.
        roughness: of the worst of the three views, in canonical space; about 1 for true MR. None for a frame.
        expected_error: in grey levels, where the synthesis estimates it.
        warnings: sentences, or "".
    """
    provenance = result.provenance
    alignment, content = provenance.get("alignment", {}), provenance.get("frame_content")
    inside = result.confidence.array[result.confidence.array > 0]
    known = has_reliability(result) and inside.size > 0
    return {
        "score": _number(alignment.get("score")),
        "found_by": alignment.get("method"),
        "answer": None if content is None else str(content["answer"]),
        "brain": None if content is None else _number(1 - content["probabilities"].get("no brain", 0.0)),
        "reliability_mean": _number(inside.mean(dtype=np.float64)) if known else None,
        "reliability_p10": _number(np.percentile(inside, 10)) if known else None,
        "roughness": _worst_roughness(result),
        "expected_error": _expected_error(provenance.get("expected_error")),
        "warnings": " ".join(provenance.get("warnings", ())),
    }


def has_reliability(result: Synthesis) -> bool:
    """Whether the confidence is the probability of being right, and not only where the beam was."""
    return result.provenance.get("support", {}).get("meaning") == PROBABILITY


def _worst_roughness(result: Synthesis) -> float | None:
    if result.mr.is_frame:
        return None
    mr, _ = to_canonical(result.mr.array.astype(np.float32), result.mr.ijk_to_ras, result.transform)
    found = [value for value in roughness(mr).values() if math.isfinite(value)]
    return _number(max(found)) if found else None


def _expected_error(value: object) -> float | None:
    """The error of the whole: a number, or an object that holds it under "whole"."""
    return _number(value.get("whole") if isinstance(value, Mapping) else value)


def _number(value: object) -> float | None:
    """Rounded to four digits; None for what is no finite number."""
    if isinstance(value, (int, float, np.number)) and math.isfinite(value):
        return round(float(value), 4)
    return None


def thumbnail(result: Synthesis, ultrasound: Volume, path: Path) -> None:
    """Write a small PNG: ultrasound, MR-like, both fused, and the MR-like image with what is unreliable in colour.

    One row for a frame; three for a volume: axial, coronal and sagittal, through the middle of the head.

    Args:
        result: of the synthesis. ultrasound: what it was made from, on the same grid. path: of the PNG.

    Raises:
        ValueError: the two are not on one grid.
        Refused, Failed: as `io.outputs.staged` does; no foreign file is replaced.
    """
    if ultrasound.shape != result.mr.shape:
        raise ValueError(f"ultrasound {ultrasound.shape} and result {result.mr.shape} are not on one grid")
    check([path], sidecars=False)
    data = png_bytes(framed(draw(result, ultrasound)))
    with staged([path]) as (name,):
        name.write_bytes(data)


def draw(result: Synthesis, ultrasound: Volume) -> np.ndarray:
    """The tiles of a thumbnail, (h, w, 3) uint8: four columns, one or three rows."""
    images = (ultrasound.array, result.mr.array, result.confidence.array)
    planes = ["axial"] if ultrasound.is_frame else list(_PLANES)
    low, high = _window(ultrasound.array)
    white = _mr_white(result.mr.array)
    tiles: list[list[np.ndarray]] = []
    for plane in planes:
        us, mr, confidence = (
            _cut(array, result.mr, result.transform, plane, order=order)
            for array, order in zip(images, (1, 1, 0), strict=True)
        )
        grey, bright = np.clip((us - low) / (high - low), 0, 1), np.clip(mr / white, 0, 1)
        warm = np.stack([bright, bright**1.4, bright**2.2], axis=-1)
        share = 0.6 * (confidence > 0)[..., None]
        fused = (1 - share) * grey[..., None] + share * warm
        row = [_rgb(grey), _rgb(bright), fused]
        tiles.append([*row, _doubted(bright, confidence) if has_reliability(result) else _blank()])
    rows = [np.concatenate([np.pad(tile, ((0, _GAP), (0, _GAP), (0, 0))) for tile in row], axis=1) for row in tiles]
    picture = np.concatenate(rows, axis=0)[:-_GAP, :-_GAP]
    return (255 * picture).astype(np.uint8) & 0xF8  # 32 greys a channel: half the file, and enough for a thumbnail


def _cut(array: np.ndarray, grid: Volume, ras_to_canonical: np.ndarray, plane: str, *, order: int) -> np.ndarray:
    """(TILE, TILE) float32: the image in a plane through canonical space's origin."""
    column, row = _PLANES[plane]
    tile = np.eye(4)
    tile[:3, :3] = 0
    half = TILE_MM * (TILE - 1) / 2
    tile[column, 0], tile[row, 1], tile[3 - column - row, 2] = -TILE_MM, -TILE_MM, TILE_MM
    tile[[column, row], 3] = half
    to_grid = ras_to_canonical @ grid.ijk_to_ras
    if not grid.is_frame:
        return resample(array, np.linalg.inv(to_grid) @ tile, (1, TILE, TILE), order, 0.0)[0]
    flat = np.ix_([0, 1, 3], [0, 1, 3])  # a frame goes through in its plane only
    return resample(array[0], np.linalg.inv(to_grid[flat]) @ tile[flat], (TILE, TILE), order, 0.0)


def _doubted(bright: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """The MR-like slice (h, w) in colour (h, w, 3): yellow where it is unreliable, red where it is more so."""
    yellow = np.clip((confidence - GRAVE_DOUBT) / (DOUBT - GRAVE_DOUBT), 0, 1)
    colour = np.stack([np.ones_like(yellow), yellow, np.zeros_like(yellow)], axis=-1)
    share = 0.55 * ((confidence < DOUBT) & (confidence > 0))[..., None]
    return np.asarray((1 - share) * bright[..., None] + share * colour)


def _rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=-1)


def _blank() -> np.ndarray:
    return np.full((TILE, TILE, 3), np.array(BACKGROUND) / 255.0)


def _window(array: np.ndarray) -> tuple[float, float]:
    """Grey values shown black and white: the lowest, and one that few voxels of the image exceed."""
    low = float(array.min())
    inside = array[array > low]
    high = float(np.percentile(inside[:: max(1, inside.size // 200_000)], 99.7)) if inside.size else low
    return low, max(high, low + 1e-6)


def _mr_white(mr: np.ndarray) -> float:
    inside = mr[mr > 0]
    return float(max(np.percentile(inside[:: max(1, inside.size // 200_000)], 99.5), 1.0)) if inside.size else 1000.0
