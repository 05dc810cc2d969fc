"""Pictures of real ultrasound: volumes in three planes and a sheet of frames, with the fitted atlas beside each."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from USMRISynthesisLib.evaluation.pictures.comparison import Case, compare
from USMRISynthesisLib.evaluation.real.cases import Frame, Head3D, hc18_frames, plane_frames, run
from USMRISynthesisLib.evaluation.real.fitted_atlas import FITTED, fitted_atlas, images
from USMRISynthesisLib.evaluation.real.volumes import Pose
from USMRISynthesisLib.io.style import BACKGROUND, DIM, NOTICE, TEXT, font
from USMRISynthesisLib.io.synthetic import SYNTHETIC
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.simulation.dataset import split_of
from USMRISynthesisLib.synthesis.result import PROBABILITY, Synthesis

FRAMES = 24
_CELL, _COLUMNS, _GAP, _STRIP, _MARGIN = 200, 3, 8, 18, 20


def draw_volumes(data: Path, heads: Sequence[Head3D], poses: Sequence[Pose], folder: Path) -> None:
    """One picture a volume: ultrasound, MR-like, fused, reliability where there is a map of it, fitted atlas."""
    for head, pose in zip(heads, poses, strict=True):
        if pose.result is None:
            continue
        result = pose.result
        fitted = Volume(fitted_atlas(data, result).astype(np.int16), result.mr.ijk_to_ras)
        known = result.provenance.get("support", {}).get("meaning") == PROBABILITY
        title = f"{head.name.split('.')[0]}: real ultrasound, score {pose.score:.2f}"
        title += ", accepted" if pose.accepted else ", refused"
        case = Case(title, head.volume, result.mr, result.transform, result.confidence if known else None, fitted)
        compare([case], folder / f"{head.name.split('.')[0]}.png")


def draw_frames(
    data: Path, target: Path, *, model: str, device: str, progress: Callable[[float, str], None] | None = None
) -> None:
    """24 real frames, half of HC18's held-out fetuses and half of `fetal-planes/`, each beside what is made of it."""
    held_out = [frame for frame in hc18_frames(data) if split_of(frame.name) != "train" and frame.size_mm >= 150]
    step = max(1, len(held_out) // (FRAMES // 2))
    frames = [*held_out[::step][: FRAMES // 2], *plane_frames(data, FRAMES // 2)]
    rows = -(-len(frames) // _COLUMNS)
    wide, high = 3 * _CELL + _GAP, _CELL + _STRIP + _GAP
    size = (2 * _MARGIN + _COLUMNS * wide, 2 * _MARGIN + rows * high)
    sheet = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for number, frame in enumerate(frames):
        left, top = _MARGIN + number % _COLUMNS * wide, _MARGIN + number // _COLUMNS * high
        result, accepted = run(frame.volume, model=model, device=device)
        for column, panel in enumerate(_panels(data, frame, result)):
            sheet.paste(panel, (left + column * _CELL, top))
        label = f"{frame.plane or 'HC plane'}{'' if accepted else ', refused'}"
        draw.text((left + 3, top + _CELL + 1), label, font=font(12), fill=TEXT if accepted else NOTICE)
        draw.text((left + _CELL + 3, top + _CELL + 1), SYNTHETIC, font=font(9), fill=NOTICE)
        draw.text((left + 2 * _CELL + 3, top + _CELL + 1), FITTED, font=font(12), fill=DIM)
        if progress is not None:
            progress((number + 1) / len(frames), "pictures of frames")
    part = target.with_name(f".{target.name}.part")
    try:
        sheet.save(part, format="PNG", optimize=True)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _panels(data: Path, frame: Frame, result: Synthesis | None) -> list[Image.Image]:
    """The ultrasound, and of what is accepted or not the MR-like image and the fitted atlas, cut to the head."""
    shown = [frame.volume.array[0].astype(np.float32) / 255]
    box = (slice(None), slice(None))
    if result is not None and result.mr.array.any():
        made = images(data, result)
        shown += [made[name][0].astype(np.float32) / 1000 for name in list(made)[:2]]
        rows, columns = np.nonzero(result.mr.array[0] > 0)
        margin = 12
        box = (
            slice(max(rows.min() - margin, 0), rows.max() + margin),
            slice(max(columns.min() - margin, 0), columns.max() + margin),
        )
    return [_fitting(image[box]) for image in shown]


def _fitting(image: np.ndarray) -> Image.Image:
    """In a square of _CELL, its aspect kept."""
    picture = Image.fromarray((255 * np.clip(image, 0, 1)).astype(np.uint8))
    factor = (_CELL - 2) / max(picture.size)
    picture = picture.resize(
        (max(1, round(picture.width * factor)), max(1, round(picture.height * factor))), Image.Resampling.BILINEAR
    )
    square = Image.new("RGB", (_CELL, _CELL), BACKGROUND)
    square.paste(picture.convert("RGB"), ((_CELL - picture.width) // 2, (_CELL - picture.height) // 2))
    return square
