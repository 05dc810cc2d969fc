"""3D ultrasound in private elements, as far as its layout is publicly known; the rest is refused.

- Philips QLAB's "Cartesian" export, its own SOP class: slices and their distance are in group 3001, and the volumes of
  all time points end the file, 8 bits a voxel. Known from MITK's and SlicerHeart's readers.
- Philips Affiniti and EPIQ: size and voxel sides in block "Philips US Imaging DD 036", voxels in "... DD 033", where
  they are not compressed. Known from GDCM's examples and SlicerHeart.
- GE Voluson: a Kretz file in block "KRETZ_US"; read by SlicerHeart.

Both Philips forms lie in the probe's space: voxel axes along LPS, which is not the patient's anatomy.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.dicom_file import guarded, read_elements, text, vector, whole
from USMRISynthesisLib.io.dicom_pixels import frame_count
from USMRISynthesisLib.io.header import check_geometry, check_sizes, damaged
from USMRISynthesisLib.io.voxels import opened

CARTESIAN = "1.2.840.113543.6.6.1.3.10002"
_STANDARD = "1.2.840.10008."
_SLICES, _SIDE_K = 0x30011001, 0x30011003
_CM = 3
_KRETZ_GROUP, _KRETZ_MAKERS = 0x7FE1, ("GE", "KRETZ")


@dataclass(frozen=True, eq=False)
class PrivateVolume:
    """Where the voxels are: `count` time points of (k, j, i) uint8 from byte `offset` on, or in `data`; sides in mm."""

    path: Path
    shape: tuple[int, int, int]
    sides: np.ndarray
    count: int = 1
    offset: int = 0
    data: bytes | None = None

    @property
    def ijk_to_ras(self) -> np.ndarray:
        """(4, 4): voxel axes along LPS, the first voxel at the origin."""
        return np.diag([-self.sides[0], -self.sides[1], self.sides[2], 1.0])

    def read(self, index: int) -> np.ndarray:
        """(k, j, i) uint8 of one time point."""
        voxels = int(np.prod(self.shape))
        if self.data is not None:
            return np.frombuffer(self.data, np.uint8, voxels).reshape(self.shape).copy()
        with opened(self.path, self.path.name) as file:
            file.seek(self.offset + index * voxels)
            data = file.read(voxels)
        if len(data) != voxels:
            raise damaged(self.path.name, "it is cut short")
        return np.frombuffer(data, np.uint8).reshape(self.shape).copy()


def private_volume(header: Any, path: Path) -> PrivateVolume | None:
    """The 3D volume in private elements, or None where there is none.

    Raises Refused for one whose layout is not public.
    """
    name = path.name
    with guarded(name):
        if text(header, "SOPClassUID") == CARTESIAN and _SLICES in header:
            return _cartesian(header, path)
        voxels = _private(header, "Philips US Imaging DD 033", 0x0B)
        sizes = _private(header, "Philips US Imaging DD 036", 0x01)
        sides = _private(header, "Philips US Imaging DD 036", 0x03)
        if voxels is not None and sizes is not None and sides is not None:
            return _affiniti(path, voxels, sizes, sides)
        if any(maker in text(header, "Manufacturer").upper() for maker in _KRETZ_MAKERS):
            refuse_kretz(path)
        if text(header, "SOPClassUID") and not text(header, "SOPClassUID").startswith(_STANDARD):
            raise _by_slicerheart(name, "data of a kind that only its manufacturer defines")
    return None


def refuse_kretz(path: Path) -> None:
    """Raise Refused for a file with a Kretz volume, which lies after the pixels of its preview, or has none."""
    blocks = [_KRETZ_GROUP << 16 | block for block in range(0x10, 0x20)]
    with guarded(path.name):
        creators = read_elements(path, blocks)
        if any(tag in creators and str(creators[tag].value).strip("\0 ") == "KRETZ_US" for tag in blocks):
            raise _by_slicerheart(path.name, "a GE Voluson volume (Kretz)")


def _cartesian(header: Any, path: Path) -> PrivateVolume:
    slices, rows, columns = int(header[_SLICES].value), whole(header, "Rows"), whole(header, "Columns")
    deltas = [vector(header, f"PhysicalDelta{axis}", 1) for axis in "XY"]
    third = np.array([header[_SIDE_K].value], dtype=np.float64) if _SIDE_K in header else None
    units = [whole(header, f"PhysicalUnits{axis}Direction", _CM) for axis in "XY"]
    if any(one is None for one in [*deltas, third]) or units != [_CM, _CM] or whole(header, "BitsAllocated") != 8:
        raise _by_slicerheart(path.name, "a Philips volume whose voxel size it does not state as expected")
    sides = np.abs(np.concatenate([np.asarray(one) for one in [*deltas, third]])) * 10
    count = frame_count(header)
    check_sizes([("i", columns), ("j", rows), ("k", slices), ("t", count)], np.dtype("u1"), path.name)
    offset = path.stat().st_size - count * slices * rows * columns
    if offset < 0:
        raise damaged(path.name, "it is cut short: it holds fewer voxels than it announces")
    return _checked(PrivateVolume(path, (slices, rows, columns), sides, count, offset))


def _affiniti(path: Path, voxels: Any, sizes: Any, sides: Any) -> PrivateVolume:
    try:
        i, j, k = (int(float(part)) for part in _numbers(sizes))
        found = np.array([float(part) for part in _numbers(sides)])
    except ValueError:
        raise _by_slicerheart(path.name, "a Philips volume whose size it does not state as expected") from None
    check_sizes([("i", i), ("j", j), ("k", k)], np.dtype("u1"), path.name)
    if not isinstance(voxels, bytes) or len(voxels) - i * j * k not in (0, 1) or found.shape != (3,):
        raise _by_slicerheart(path.name, "a Philips volume that is compressed")
    return _checked(PrivateVolume(path, (k, j, i), found, data=voxels))


def _checked(volume: PrivateVolume) -> PrivateVolume:
    check_geometry(volume.ijk_to_ras, volume.path.name)
    return volume


def _numbers(value: Any) -> list[str]:
    parts = value.decode("ascii", "replace").split("\\") if isinstance(value, bytes) else list(map(str, value))
    return [part.strip("\0 ") for part in parts]


def _private(header: Any, creator: str, element: int) -> Any:
    """The value of a private element, whichever block of its group its creator has taken; None where it has none."""
    group = 0x200D
    for block in range(0x10, 0x100):
        tag = group << 16 | block
        if tag in header and str(header[tag].value).strip("\0 ") == creator:
            found = group << 16 | block << 8 | element
            return header[found].value if found in header else None
    return None


def _by_slicerheart(name: str, what: str) -> Refused:
    return Refused(
        "private",
        f"{name} holds {what}, which is not read here.",
        "Install the extension SlicerHeart in 3D Slicer, load the file with the DICOM module and save it as NRRD.",
    )
