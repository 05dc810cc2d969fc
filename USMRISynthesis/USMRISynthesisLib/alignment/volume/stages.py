"""The passes of the alignment: how large each one's cube is, in cells and around the head, and its network's form."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One pass, with a network of its own.

    size: cells along the cube's side. side_mm: that side in canonical mm, the unit of the coordinates being its half;
    nominal in `locate`, which looks at the whole fan first. widths: channels of each level. maps: how many maps of the
    input's own resolution there are. upright: the head stands nearly as it should, so that its coordinates are nearly
    the cube's own.
    """

    size: int
    side_mm: float
    widths: tuple[int, ...]
    maps: int = 0
    upright: bool = False


STAGES = {
    "locate": Stage(32, 150.0, (16, 32, 96)),
    "orient": Stage(32, 130.0, (16, 32, 96)),
    "refine": Stage(48, 116.0, (16, 32, 96), maps=5, upright=True),
}
