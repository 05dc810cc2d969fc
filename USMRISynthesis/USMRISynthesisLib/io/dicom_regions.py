"""The regions of an ultrasound picture (Sequence of Ultrasound Regions, PS3.3 C.8.5.5): where the B-mode is, and how
large its pixels are. Each region has its own units and sizes; what lies outside of all regions is the scanner's screen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.dicom_file import guarded, vector, whole

_2D, _TISSUE, _COLOUR_FLOW, _CM = 1, 1, 2, 3
_FORMATS = {2: "M-mode", 3: "spectral Doppler", 4: "a waveform", 5: "graphics"}
# Some writers give the last pixel, some the one after it.
_SLACK = 1


@dataclass(frozen=True)
class Region:
    """A part of a picture: columns `left` to `right`, rows `top` to `bottom` (both ends in), pixel sides in mm."""

    left: int
    top: int
    right: int
    bottom: int
    sides: tuple[float, float] | None

    def text(self, number: int) -> str:
        """For a list: "1 (columns 0 to 319, rows 0 to 479, 0.25 mm)"."""
        size = "" if self.sides is None else f", {max(self.sides):.3g} mm a pixel"
        return f"{number} (columns {self.left} to {self.right}, rows {self.top} to {self.bottom}{size})"


def b_mode_region(header: Any, name: str, number: int | None, *, size_given: bool = False) -> Region | None:
    """The region that shows the 2D B-mode image; None for a picture that states no regions.

    Args:
        header: of an ultrasound picture.
        name: of the file, for the sentences.
        number: which of several B-mode regions, from 1.
        size_given: the user states the size of a pixel, whatever the region says.

    Raises:
        Refused: no region shows a 2D B-mode image, colour flow lies over it, several show one and none is chosen, it
            has no size in cm, or it does not lie in the picture.
    """
    with guarded(name):
        found = list(header.get("SequenceOfUltrasoundRegions") or [])
        # Parts of the 2D image only: overlays of the screen are regions, too.
        b_mode = [_region(one) for one in found if _kind(one) == (_2D, _TISSUE)]
        flow = [_region(one) for one in found if _kind(one) == (_2D, _COLOUR_FLOW)]
        others = sorted({_FORMATS[kind] for one in found if (kind := whole(one, "RegionSpatialFormat")) in _FORMATS})
    if not found:
        if number is not None:
            raise Refused("region", f"{name} states no regions.", "Leave --region out.")
        return None
    if not b_mode:
        what = "colour flow" if flow else " and ".join(others) or "something else"
        raise Refused(
            "region", f"{name} shows {what} and no 2D B-mode image.", "Export the B-mode image, without Doppler."
        )
    listed = "; ".join(one.text(place + 1) for place, one in enumerate(b_mode))
    if number is not None and not 1 <= number <= len(b_mode):
        raise Refused(
            "region", f"There is no B-mode region {number} in {name}: it has {listed}.", "Choose one with --region N."
        )
    if number is None and len(b_mode) > 1:
        raise Refused("region", f"{name} shows {len(b_mode)} B-mode images: {listed}.", "Choose one with --region N.")
    chosen = b_mode[(number or 1) - 1]
    if any(_overlap(chosen, one) for one in flow):
        raise Refused(
            "region", f"Colour flow lies over the B-mode image of {name}.", "Export it without colour Doppler."
        )
    return _inside(chosen, header, name, size_given)


def _inside(region: Region, header: Any, name: str, size_given: bool) -> Region:
    """The region within the picture. Raises Refused where it is not the picture's, or has no size."""
    columns, rows = whole(header, "Columns"), whole(header, "Rows")
    beyond = region.right >= columns + _SLACK or region.bottom >= rows + _SLACK
    if region.left < 0 or region.top < 0 or region.right <= region.left or region.bottom <= region.top or beyond:
        if size_given:
            return Region(0, 0, columns - 1, rows - 1, None)
        raise Refused(
            "spacing",
            f"The B-mode region of {name} does not lie in its picture, so that its pixel size is that of another one.",
            "Export the picture as the scanner stores it, or give the size of a pixel with --pixel-size MM.",
        )
    if region.sides is None and not size_given:
        raise Refused(
            "spacing",
            f"The B-mode region of {name} has no pixel size in cm.",
            "Give the size of a pixel with --pixel-size MM.",
        )
    return Region(region.left, region.top, min(region.right, columns - 1), min(region.bottom, rows - 1), region.sides)


def _kind(one: Any) -> tuple[int, int]:
    return whole(one, "RegionSpatialFormat"), whole(one, "RegionDataType")


def _region(one: Any) -> Region:
    left, top, right, bottom = (
        whole(one, f"RegionLocation{corner}", -1) for corner in ("MinX0", "MinY0", "MaxX1", "MaxY1")
    )
    deltas = [vector(one, f"PhysicalDelta{axis}", 1) for axis in "XY"]
    in_cm = all(whole(one, f"PhysicalUnits{axis}Direction") == _CM for axis in "XY")
    sides = None
    if in_cm and all(delta is not None and delta[0] != 0 for delta in deltas):
        x, y = (10 * abs(float(np.asarray(delta)[0])) for delta in deltas)  # cm to mm; the sign is a direction
        sides = (x, y)
    return Region(left, top, right, bottom, sides)


def _overlap(one: Region, other: Region) -> bool:
    return one.left <= other.right and other.left <= one.right and one.top <= other.bottom and other.top <= one.bottom
