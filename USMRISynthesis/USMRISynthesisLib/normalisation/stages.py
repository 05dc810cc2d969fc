"""The passes of the alignment: how large each one's cube (or square) is, in cells and around the head.

Passes share networks, one for volumes and one for pictures: what a skull, a face or a midline looks like is learnt once
for all of them, which in half an hour makes more of a difference than a network for each.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NetworkForm:
    """size: cells along the side. dimensions: 3, or 2. widths: channels of each level."""

    size: int
    dimensions: int
    widths: tuple[int, ...]


@dataclass(frozen=True)
class Stage:
    """network: whose input it is. side_mm: the side in canonical mm, the unit of its coordinates (nominal in the two
    stages that look at the whole fan).
    """

    network: str
    side_mm: float

    @property
    def size(self) -> int:
        return NETWORKS[self.network].size

    @property
    def dimensions(self) -> int:
        return NETWORKS[self.network].dimensions


NETWORKS = {
    "volume": NetworkForm(48, 3, (16, 32, 64, 96)),
    "picture": NetworkForm(128, 2, (16, 32, 48, 64, 96)),
}

# Canonical mm beyond which the distance to the midline is not told: a network sees the line, and not from afar.
MIDLINE_REACH_MM = 12.0

STAGES = {
    "locate": Stage("volume", 160.0),
    "orient": Stage("volume", 116.0),
    "refine": Stage("volume", 116.0),
    "frame": Stage("picture", 160.0),
    "plane": Stage("picture", 120.0),
}
