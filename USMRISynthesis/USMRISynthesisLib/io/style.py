"""Colours (RGB) and font of all drawn pages and pictures: the report, the demo and the evaluations."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import ImageFont

BACKGROUND, TEXT, DIM = (17, 19, 23), (232, 234, 237), (150, 156, 166)
NOTICE = (255, 196, 84)  # "SYNTHETIC" and "SIMULATED"
FOUND, ANNOTATED = NOTICE, (90, 170, 255)  # outlines
PAPER, INK, PALE_INK = (255, 255, 255), (0, 0, 0), (51, 51, 51)  # the report, which is printed
NOTICE_BAR = (140, 29, 24)  # behind "SYNTHETIC" on paper


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font that ships with PIL: the same picture on every machine."""
    from PIL import ImageFont

    return ImageFont.load_default(size)
