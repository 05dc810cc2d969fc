"""Pictures of the simulator: a head with its truth (`--preview`), simulated frames among real ones (`--picture`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from USMRISynthesisLib.geometry.canonical import SIZE, SPACING_MM
from USMRISynthesisLib.io.style import BACKGROUND, DIM, NOTICE, TEXT, font
from USMRISynthesisLib.simulation.anatomy.labels import LABEL_NAMES

if TYPE_CHECKING:
    from USMRISynthesisLib.evaluation.simulator.frames import Frames

_PANEL = 320  # pixels of a panel's side: two for a voxel
_GAP, _MARGIN, _TITLE = 10, 24, 64
_COLUMNS = ("ultrasound", "truth: T2", "truth: labels")
# one colour for each label, alike tissues alike: brain warm, fluid blue, bone white, outside grey
_COLOURS = {
    1: (206, 170, 125), 2: (64, 132, 255), 3: (190, 120, 70), 4: (120, 190, 255), 5: (228, 110, 90), 6: (160, 90, 140),
    7: (130, 100, 70), 8: (245, 215, 110), 9: (240, 240, 240), 10: (150, 120, 110), 11: (120, 255, 160),
    12: (0, 220, 220), 13: (220, 60, 200), 14: (60, 255, 60), 15: (22, 38, 70), 16: (80, 72, 68), 17: (120, 100, 92),
    18: (255, 140, 0), 19: (150, 150, 110), 20: (110, 60, 60), 21: (255, 0, 0),
}  # fmt: skip


def preview(data: Path, seed: int, target: Path) -> str:
    """Write one head's three planes (ultrasound, T2, labels) and a 2D frame of it.  Returns what it shows."""
    from USMRISynthesisLib.simulation.anatomy import atlas
    from USMRISynthesisLib.simulation.anatomy.head import build
    from USMRISynthesisLib.simulation.scanner import frame
    from USMRISynthesisLib.simulation.scanner.volume import simulate_canonical

    folders = atlas.available(data)
    folder = folders[seed % len(folders)]
    head = build(atlas.load(data, folder), seed)
    us, _, sweep = simulate_canonical(head, seed)
    still = frame.simulate_frame(head, seed)
    t2 = np.round(np.clip(head.t2, 0, 1) * 255).astype(np.uint8)
    offset = round(9.0 / SPACING_MM)  # beside the midline, where the ventricles are
    middle = SIZE // 2
    rows = [
        (f"{name} {(place - (SIZE - 1) / 2) * SPACING_MM:+.0f} mm", letters,
         [_cut(array, axis, place) for array in (us, t2, head.labels)])
        for name, axis, place, letters in (
            ("axial", 0, middle, "RLAP"), ("coronal", 1, middle - 8, "RLSI"), ("sagittal", 2, middle + offset, "APSI"))
    ]  # fmt: skip
    rows.append(("2D frame", "", [np.flipud(array)[:, ::-1] for array in (still.us, still.t2, still.labels)]))
    title = f"Simulated fetal head, week {head.week}, seed {seed}, probe: {sweep.view}"
    _sheet(title, rows, sorted(set(np.unique(head.labels).tolist()) - {0}), target)
    return title


def _cut(array: np.ndarray, axis: int, place: int) -> np.ndarray:
    """A plane as radiologists see it: anterior or superior up, the right side on the left; sagittal: anterior left."""
    plane = array.take(place, axis=axis)
    return plane[::-1, ::-1]


def _sheet(title: str, rows: Sequence[tuple[str, str, list[np.ndarray]]], legend: Sequence[int], target: Path) -> None:
    width = 2 * _MARGIN + 3 * _PANEL + 2 * _GAP
    legend_rows = -(-len(legend) // 6)
    height = _MARGIN + _TITLE + len(rows) * (_PANEL + _GAP) + 22 * legend_rows + _MARGIN
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN - 6), title, font=font(20), fill=TEXT)
    draw.text((width - _MARGIN, _MARGIN), "SIMULATED - no patient", font=font(14), fill=NOTICE, anchor="ra")
    for column, name in enumerate(_COLUMNS):
        draw.text((_MARGIN + column * (_PANEL + _GAP), _MARGIN + 28), name, font=font(15), fill=DIM)
    top = _MARGIN + _TITLE - 8
    for name, letters, (us, t2, labels) in rows:
        coloured = _palette()[labels]
        shaded = (coloured * (0.55 + 0.45 * t2[..., None] / 255)).astype(np.uint8)
        for column, picture in enumerate((us, t2, np.where((t2 > 0)[..., None], shaded, coloured))):
            left = _MARGIN + column * (_PANEL + _GAP)
            resample = Image.Resampling.NEAREST if column == 2 else Image.Resampling.BICUBIC
            panel = Image.fromarray(np.ascontiguousarray(picture)).convert("RGB").resize((_PANEL, _PANEL), resample)
            sheet.paste(panel, (left, top))
            draw.text(
                (left + 6, top + 4),
                name if column == 0 else "",
                font=font(13),
                fill=NOTICE,
                stroke_width=2,
                stroke_fill=(0, 0, 0),
            )
            _letters(draw, letters, left, top)
        top += _PANEL + _GAP
    for n, label in enumerate(legend):
        x, y = _MARGIN + (n % 6) * ((width - 2 * _MARGIN) // 6), top + 22 * (n // 6)
        draw.rectangle((x, y + 2, x + 12, y + 14), fill=_COLOURS.get(label, DIM))
        draw.text((x + 18, y), LABEL_NAMES.get(label, str(label)), font=font(13), fill=DIM)
    _save(sheet, target)


def _letters(draw: ImageDraw.ImageDraw, letters: str, left: int, top: int) -> None:
    """`letters`: what lies at the left, right, top and bottom edge."""
    middle = _PANEL // 2
    places = ((6, middle, "lm"), (_PANEL - 6, middle, "rm"), (middle, 5, "mt"), (middle, _PANEL - 5, "mb"))
    for text, (x, y, anchor) in zip(letters, places, strict=False):
        draw.text((left + x, top + y), text, font=font(14), fill=TEXT, anchor=anchor, stroke_width=2,
                  stroke_fill=(0, 0, 0))  # fmt: skip


def _palette() -> np.ndarray:
    table = np.zeros((256, 3), np.uint8)
    for label, colour in _COLOURS.items():
        table[label] = colour
    return table


def mixed(real: Frames, simulated: Frames, target: Path, each: int = 6, seed: int = 1) -> list[str]:
    """Write `each` real and `each` simulated frames, drawn and shuffled by `seed`, without saying which is which.

    Returns "real" or "simulated" of every picture, row by row: the order belongs below the picture, not on it.
    """
    rng = np.random.default_rng(seed)
    entries: list[tuple[str, np.ndarray]] = []
    for kind, frames in (("real", real), ("simulated", simulated)):
        groups = rng.permutation(np.unique(frames.group))[:each]
        for group in groups:
            chosen = int(rng.choice(np.flatnonzero(frames.group == group)))
            turned = frames.us[chosen]
            entries.append((kind, turned[:, ::-1] if rng.random() < 0.5 else turned))
    order = rng.permutation(len(entries))
    columns = 4
    lines = -(-len(entries) // columns)
    size = _PANEL - 40
    sheet = Image.new("RGB", (columns * (size + _GAP) + _GAP, lines * (size + _GAP) + _GAP), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for place, entry in enumerate(order):
        picture = Image.fromarray(np.ascontiguousarray(np.rot90(entries[entry][1])))
        left, top = _GAP + (place % columns) * (size + _GAP), _GAP + (place // columns) * (size + _GAP)
        sheet.paste(picture.resize((size, size), Image.Resampling.BICUBIC), (left, top))
        draw.text((left + 7, top + 5), str(place + 1), font=font(16), fill=NOTICE)
    _save(sheet, target)
    return [entries[entry][0] for entry in order]


def _save(sheet: Image.Image, target: Path) -> None:
    part = target.with_name(f".{target.name}.part")
    try:
        sheet.save(part, format="PNG", optimize=True)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
