"""What the header of an image file states, whichever its format, and the limits that every header is held to.

The headers of NRRD, NIfTI and MetaImage files are parsed here in Python, from bytes, by pure functions
(``header_nrrd.py``, ``header_nifti.py``, ``header_metaimage.py``), and the voxels are read by ``voxels.py``. ITK's own
readers are not used: a crafted header crashes them, a decimal-comma locale changes the numbers that they read, and on
Windows they open no path with letters outside the code page.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from USMRISynthesisLib.errors import Refused

# The one text that all formats carry.
COMMENT = "Comment"
# Voxels of one volume, and bytes of all that a file holds.
MAX_VOXELS = 1024**3
MAX_BYTES = 1 << 36
# A header longer than this is none: a sequence of 10,000 tracked frames has about 20 MB.
MAX_HEADER = 1 << 25
# The side of a voxel in mm, far beyond what ultrasound and MR scanners have on both ends.
MIN_SIDE_MM, MAX_SIDE_MM = 1e-3, 1e3
# No part of a patient is farther from the scanner's origin.
MAX_OFFSET_MM = 1e6
# Below this share of a box's volume the three directions lie in one plane.
MIN_VOLUME = 1e-4

MM_PER_UNIT = {
    "": 1.0, "mm": 1.0, "millimeter": 1.0, "millimeters": 1.0, "millimetre": 1.0, "millimetres": 1.0,
    "m": 1e3, "meter": 1e3, "meters": 1e3, "metre": 1e3, "metres": 1e3,
    "cm": 10.0, "centimeter": 10.0, "centimeters": 10.0, "centimetre": 10.0, "centimetres": 10.0,
    "um": 1e-3, "\u00b5m": 1e-3, "\u03bcm": 1e-3, "micron": 1e-3, "microns": 1e-3,
    "micrometer": 1e-3, "micrometre": 1e-3,
    "nm": 1e-6, "?": 1.0, "???": 1.0, "none": 1.0, "unknown": 1.0,
}  # fmt: skip

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE | re.ASCII)
_WHOLE = re.compile(r"[+-]?\d{1,19}", re.ASCII)


@dataclass(frozen=True)
class Forms:
    """The two placements that a NIfTI header holds, as it holds them: some programs go by one, some by the other.

    Attributes:
        codes: qform and sform code.
        pixdim: the first four; the first is the handedness of the qform.
        quaternion: b, c, d and the offset of the qform.
        srow: the sform's three rows.
        units: code of the length unit in which all of these are.
    """

    codes: tuple[int, int]
    pixdim: tuple[float, ...]
    quaternion: tuple[float, ...]
    srow: tuple[float, ...]
    units: int


@dataclass(frozen=True, eq=False)
class Header:
    """What a file states about its voxels.

    Attributes:
        axes: role and length of each axis, the fastest first: "i", "j", "k" in space, "t" time, "c" values of a voxel.
        dtype: of a voxel as it is stored.
        ijk_to_ras: (4, 4), mm; of a flat image the third column is its normal.
        states_spacing: False where the file says nothing about the size of its voxels.
        metadata: the texts that are not part of the geometry.
        encoding: "raw", "deflate" (gzip or zlib) or "text".
        data_file: name of the file that holds the voxels; None where they follow the header.
        offset: where the voxels begin, in bytes; None where they end with the file.
        skipped_lines: lines to skip before the voxels.
        values_may_be_time: several values at a voxel that may be time points instead.
        slope, intercept: a stored value times the slope plus the intercept is the value.
        forms: NIfTI only.
    """

    axes: tuple[tuple[str, int], ...]
    dtype: np.dtype
    ijk_to_ras: np.ndarray
    states_spacing: bool = True
    metadata: Mapping[str, str] = field(default_factory=dict)
    encoding: str = "raw"
    data_file: str | None = None
    offset: int | None = 0
    skipped_lines: int = 0
    values_may_be_time: bool = False
    slope: float = 1.0
    intercept: float = 0.0
    forms: Forms | None = None

    def length(self, role: str) -> int:
        """Length of the axis of a role; 1 where there is none."""
        return dict(self.axes).get(role, 1)

    @property
    def count(self) -> int:
        """Stored values in the whole file."""
        total = 1
        for _, size in self.axes:
            total *= size
        return total

    @property
    def is_flat(self) -> bool:
        """Whether there are no slices."""
        return self.length("k") == 1


def damaged(name: str, why: str = "it is damaged, truncated or not an image") -> Refused:
    """The refusal of a file that is not what its name says."""
    return Refused("unreadable", f"{name} could not be read: {why}.", "Export or copy it again.")


def unsupported(kind: str, name: str, what: str) -> Refused:
    """The refusal of a sound file of a sort that is not read here."""
    return Refused(kind, f"{name} {what}.", "Save it from 3D Slicer as one greyscale NRRD file (.nrrd).")


def wrong_geometry(name: str, why: str = "are not usable") -> Refused:
    """The refusal of a position that no image can have."""
    return Refused(
        "geometry",
        f"The position and orientation stored in {name} {why}.",
        "Open it in 3D Slicer, check spacing and directions, and save it again.",
    )


def numbers(text: str, name: str) -> list[float]:
    """Numbers between white space, with a decimal point whatever the locale. Raises Refused."""
    parts = text.split()
    if len(parts) > 4096 or not all(len(part) < 400 and _NUMBER.fullmatch(part) for part in parts):
        raise damaged(name)
    return [float(part) for part in parts]


def whole_numbers(text: str, name: str) -> list[int]:
    """Whole numbers between white space. Raises Refused."""
    parts = text.split()
    if len(parts) > 4096 or not all(_WHOLE.fullmatch(part) for part in parts):
        raise damaged(name)
    return [int(part) for part in parts]


def mm_per_unit(unit: str, name: str) -> float:
    """Millimetres in a unit of length as a header names it. Raises Refused for one that is none."""
    try:
        return MM_PER_UNIT[unit.strip().strip('"').strip().lower()]
    except KeyError:
        raise wrong_geometry(name, "are in a unit that is not known here") from None


def check_sizes(axes: Sequence[tuple[str, int]], dtype: np.dtype, name: str) -> None:
    """Raises Refused for an image without voxels, or of more than anything here can hold."""
    if any(size < 1 for _, size in axes):
        raise damaged(name)
    spatial, total = 1, dtype.itemsize
    for role, size in axes:
        spatial *= size if role in "ijk" else 1
        total *= size
    if spatial > MAX_VOXELS or total > MAX_BYTES:
        raise Refused(
            "size",
            f"{name} announces more voxels than can be read here ({MAX_VOXELS:,} of a volume).",
            "Crop it to the head, or resample it to larger voxels, in 3D Slicer.",
        )


def check_geometry(ijk_to_ras: np.ndarray, name: str, *, flat: bool = False) -> None:
    """Raises Refused for a placement with what is no number, without volume, or of a size that no image has.

    Args:
        ijk_to_ras: (4, 4), RAS mm.
        name: of the file, for the sentence.
        flat: whether it is a single slice, whose thickness does not matter.
    """
    if not np.isfinite(ijk_to_ras).all() or (np.abs(ijk_to_ras[:3, 3]) > MAX_OFFSET_MM).any():
        raise wrong_geometry(name)
    with np.errstate(all="ignore"):
        sides = np.linalg.norm(ijk_to_ras[:3, :3], axis=0)
        volume = abs(np.linalg.det(ijk_to_ras[:3, :3] / sides)) if (sides > 0).all() else 0.0
    if not volume >= MIN_VOLUME:
        raise wrong_geometry(name, "do not span a space: the directions lie in one plane")
    shown = sides[:2] if flat else sides
    if not ((shown >= MIN_SIDE_MM) & (shown <= MAX_SIDE_MM)).all():
        raise Refused(
            "spacing",
            f"The voxel size stored in {name} cannot be right: {' x '.join(f'{side:.3g}' for side in shown)} mm.",
            "Enter the true spacing in 3D Slicer's Volumes module and save it again.",
        )


def text_of(data: bytes) -> str:
    """A header's text: UTF-8, or what can be read of it."""
    return data.decode("utf-8", "replace")
