"""One page for patients and colleagues: three pictures, what they are and are not, and where they come from.

    write_report("case.pdf", Report(pictures={"Ultrasound": us, "Both": fused, "MR-like": mr}, provenance={...}))

PNG or PDF, A4 upright, by the file name's ending. Pillow is imported when a page is drawn. No names of patients and no
paths appear on it: only what is passed in, and the provenance has neither.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.io.synthetic import SYNTHETIC

PAGE = (1240, 1754)  # A4 at 150 dots an inch
_DPI = 150
_MARGIN = 80
FORMATS = (".png", ".pdf")
WHAT_IT_IS = (
    "The grey picture on the right looks like a magnetic resonance image, but no such scan was made. A computer "
    "program drew it from the ultrasound on the left, as it has learned from average brains and from simulated "
    "ultrasound. It shows the same place, at the same size."
)
WHAT_IT_IS_NOT = (
    "It is not a scan and not for diagnosis. What it shows need not be there, and what is there need not show: a "
    "finding, or its absence, can only be read from the ultrasound itself or from a real examination."
)


@dataclass(frozen=True)
class Report:
    """What goes on the page.

    Attributes:
        pictures: title -> (rows, columns, 3) uint8, from left to right.
        provenance: of the result, as `Synthesis.provenance` has it.
        title: heading; no patient's name.
    """

    pictures: Mapping[str, np.ndarray]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    title: str = "Ultrasound and MR-like image"


def provenance_lines(provenance: Mapping[str, Any]) -> list[str]:
    """The provenance in words, for people."""
    model, source = provenance.get("model", {}), provenance.get("input", {})
    alignment, software = provenance.get("alignment", {}), provenance.get("software", {})
    lines = []
    if software:
        lines.append(f"Software: {software.get('name', '')} {software.get('version', '')}".strip())
    if model:
        lines.append(
            f"Model: {model.get('name', '')} {model.get('version', '')}, "
            f"SHA-256 {str(model.get('sha256', 'not known'))[:16]}"
        )
    if provenance.get("planes"):
        lines.append(f"Slices: {provenance['planes']}")
    identity = source.get("voxels_sha256") or source.get("sha256")
    if identity:
        lines.append(f"Ultrasound voxels: SHA-256 {str(identity)[:16]}")
    if "score" in alignment:
        trust = "" if provenance.get("alignment_trusted", True) else " - not reliable"
        lines.append(f"Head found by: {alignment.get('method', '')}, score {alignment['score']:.2f}{trust}")
    if provenance.get("device"):
        lines.append(f"Computed on: {provenance['device'].get('name', '')}")
    return lines


def draw_report(report: Report) -> np.ndarray:
    """The page, (1754, 1240, 3) uint8."""
    image = _page(report)
    return np.asarray(image)


def write_report(path: str | os.PathLike[str], report: Report) -> None:
    """Write the page, all or nothing. Raises Failed for another ending, a missing folder or a disk that is full."""
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise Failed("format", f"A report cannot be written as {path.name}.", "Let its name end in .pdf or .png.")
    if not path.parent.is_dir():
        raise Failed("folder", f"The folder for {path.name} does not exist.", "Create it or choose another one.")
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        _page(report).save(
            part,
            resolution=_DPI,
            **({"title": f"{report.title} ({SYNTHETIC})"} if path.suffix.lower() == ".pdf" else {}),
        )
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise Failed(
            "write",
            f"Writing {path.name} failed: {error.strerror or 'it could not be saved'}.",
            "Check free space and permissions of the folder.",
        ) from error


def _page(report: Report) -> Any:
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise Failed(
            "pillow",
            "Reports need the Python package Pillow, which is not installed.",
            "Install it, in Slicer by slicer.util.pip_install('pillow').",
        ) from error
    page = Image.new("RGB", PAGE, "white")
    pen = ImageDraw.Draw(page)
    fonts = {size: ImageFont.load_default(size) for size in (22, 26, 30, 44)}
    width = PAGE[0] - 2 * _MARGIN

    def write(text: str, y: int, size: int, colour: str = "black") -> int:
        letters = int(width / (0.5 * size))
        for line in textwrap.wrap(text, letters):
            pen.text((_MARGIN, y), line, fill=colour, font=fonts[size])
            y += round(1.35 * size)
        return y

    y = write(report.title, _MARGIN, 44) + 6
    pen.rectangle((_MARGIN, y, PAGE[0] - _MARGIN, y + 56), fill="#8c1d18")
    pen.text((PAGE[0] / 2, y + 28), SYNTHETIC, fill="white", font=fonts[30], anchor="mm")
    y += 90
    gap = 20
    side = (width - gap * (len(report.pictures) - 1)) // max(1, len(report.pictures))
    tallest = 0
    for index, (title, picture) in enumerate(report.pictures.items()):
        shown = Image.fromarray(np.ascontiguousarray(picture[..., :3]))
        shown = shown.resize((side, round(side * shown.height / shown.width)))
        x = _MARGIN + index * (side + gap)
        pen.text((x, y), title, fill="black", font=fonts[26])
        page.paste(shown, (x, y + 40))
        tallest = max(tallest, shown.height)
    y += 40 + tallest + 40
    for heading, text in (("What it is", WHAT_IT_IS), ("What it is not", WHAT_IT_IS_NOT)):
        y = write(heading, y, 30) + 4
        y = write(text, y, 26) + 24
    y = write("Where it comes from", y, 30) + 4
    for line in provenance_lines(report.provenance):
        y = write(line, y, 22, "#333333")
    return page
