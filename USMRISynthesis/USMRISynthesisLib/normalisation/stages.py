"""The passes of the alignment network: how large each one's cube (or square) is, in cells and around the head."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """size: cells along the side. side_mm: the side in canonical mm, the unit of its coordinates (nominal in the
    two stages that look at the whole fan). dimensions: 3, or 2 for frames. widths: channels of each level.
    """

    size: int
    side_mm: float
    dimensions: int
    widths: tuple[int, ...]


# Canonical mm beyond which the distance to the midline is not told: a network sees the line, and not from afar.
MIDLINE_REACH_MM = 12.0

STAGES = {
    "locate": Stage(48, 160.0, 3, (16, 32, 64, 96)),
    "orient": Stage(32, 120.0, 3, (24, 48, 96)),
    "refine": Stage(64, 112.0, 3, (16, 32, 64, 96)),
    "frame": Stage(128, 160.0, 2, (16, 32, 48, 64, 96)),
    "plane": Stage(128, 120.0, 2, (16, 32, 48, 64, 96)),
}
