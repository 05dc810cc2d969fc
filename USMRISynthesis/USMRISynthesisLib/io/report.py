"""One page for patients and colleagues: three pictures, what they are and are not, and where they come from.

    write_report("case.pdf", Report(pictures={"Ultrasound": us, "Both": fused, "MR-like": mr}, provenance={...}))

PNG or PDF, A4 upright, by the file name's ending. Pillow is imported when a page is drawn. No names of patients and no
paths appear on it: only what is passed in, and the provenance has neither.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.io.style import INK, NOTICE_BAR, PALE_INK, PAPER, font
from USMRISynthesisLib.io.synthetic import SYNTHETIC

PAGE = (1240, 1754)  # A4 at 150 dots an inch
_DPI = 150
_MARGIN = 80
FORMATS = (".png", ".pdf")
TITLE = "Ultrasound and MR-like image"
ILLEGIBLE = "Some of the text is in letters that this page cannot show."
_MOST_TITLE_LINES = 3
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
        title: heading; no patient's name. Without accents, or replaced, where the page's font
            lacks a letter; a note says so.
    """

    pictures: Mapping[str, np.ndarray]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    title: str = TITLE


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
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise Failed(
            "pillow",
            "Reports need the Python package Pillow, which is not installed.",
            "Install it, in Slicer by slicer.util.pip_install('pillow').",
        ) from error
    fonts = {size: font(size) for size in (22, 26, 30, 44)}
    illegible: list[str] = []

    def legible(text: str, instead: str) -> str:
        """The text on one line; without its accents, or `instead`, where the font lacks a letter: boxes say nothing."""
        text = " ".join(text.split())
        if not _lacks(fonts[44], text):
            return text
        illegible.append(text)
        plain = "".join(one for one in unicodedata.normalize("NFKD", text) if not unicodedata.combining(one))
        return instead if _lacks(fonts[44], plain) else plain

    heading = _Text(_wrapped(legible(report.title, TITLE), fonts[44], _MOST_TITLE_LINES), 44, after=6)
    titles = [legible(title, f"Picture {n}") for n, title in enumerate(report.pictures, 1)]
    sources = [legible(line, "") for line in provenance_lines(report.provenance)]
    below = []
    for title, text in (("What it is", WHAT_IT_IS), ("What it is not", WHAT_IT_IS_NOT)):
        below += [_Text([title], 30, after=4), _Text(_wrapped(text, fonts[26]), 26, after=24)]
    below.append(_Text(["Where it comes from"], 30, after=4))
    below += [_Text(_wrapped(line, fonts[22], 2), 22, PALE_INK) for line in sources if line]
    if illegible:
        below.append(_Text(_wrapped(ILLEGIBLE, fonts[22]), 22, PALE_INK))

    page = Image.new("RGB", PAGE, PAPER)
    pen = ImageDraw.Draw(page)

    def write(text: _Text, y: int) -> int:
        for line in text.lines:
            pen.text((_MARGIN, y), line, fill=text.colour, font=fonts[text.size])
            y += text.line_height
        return y + text.after

    y = write(heading, _MARGIN)
    pen.rectangle((_MARGIN, y, PAGE[0] - _MARGIN, y + 56), fill=NOTICE_BAR)
    pen.text((PAGE[0] / 2, y + 28), SYNTHETIC, fill=PAPER, font=fonts[30], anchor="mm")
    y += 90
    free_height = PAGE[1] - _MARGIN - y - 80 - sum(one.height for one in below)
    gap, count = 20, max(1, len(report.pictures))
    side = (PAGE[0] - 2 * _MARGIN - gap * (count - 1)) // count
    tallest = 0
    for index, (title, picture) in enumerate(zip(titles, report.pictures.values(), strict=True)):
        shown = Image.fromarray(np.ascontiguousarray(picture[..., :3]))
        # In its column, and so low that the text below it stays on the page.
        factor = min(side / shown.width, free_height / shown.height)
        shown = shown.resize((max(1, round(factor * shown.width)), max(1, round(factor * shown.height))))
        x = _MARGIN + index * (side + gap)
        pen.text((x, y), _wrapped(title, fonts[26], 1, side)[0], fill=INK, font=fonts[26])
        page.paste(shown, (x, y + 40))
        tallest = max(tallest, shown.height)
    y += 40 + tallest + 40
    for one in below:
        y = write(one, y)
    return page


@dataclass(frozen=True)
class _Text:
    """Lines of one size, and the space after them in pixels."""

    lines: list[str]
    size: int
    colour: tuple[int, int, int] = INK
    after: int = 0

    @property
    def line_height(self) -> int:
        return round(1.35 * self.size)

    @property
    def height(self) -> int:
        return len(self.lines) * self.line_height + self.after


def _wrapped(text: str, font: Any, most: int = 99, width: int = PAGE[0] - 2 * _MARGIN) -> list[str]:
    """Lines of at most that width in pixels, and at most so many: the rest is left out and dots stand for it."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:  # a word that is wider than the page is cut
            if font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    if len(lines) > most:
        last = lines[most - 1]
        while last and font.getlength(f"{last}...") > width:
            last = last[:-1]
        lines = [*lines[: most - 1], f"{last}..."]
    return lines


def _lacks(font: Any, text: str) -> bool:
    """Whether the font has no shape for a letter of the text: it draws the one for unknown letters then."""
    unknown = bytes(font.getmask("\U0010ffff"))
    return any(not letter.isspace() and bytes(font.getmask(letter)) == unknown for letter in set(text))
