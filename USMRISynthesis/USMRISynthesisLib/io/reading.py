"""Reading an image file: which parser its name asks for, which time point is wanted, and what is refused.

Everything is refused in a sentence with a remedy; no file crashes the process, blocks it or fills its memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io import header_metaimage, header_nifti, header_nrrd
from USMRISynthesisLib.io.colour import several_values, to_grey
from USMRISynthesisLib.io.dicom_detect import holds_dicom, is_dicom_start
from USMRISynthesisLib.io.frames import frame_place, frame_texts, is_invalid, recorded_frames
from USMRISynthesisLib.io.header import MAX_HEADER, Forms, Header, check_geometry, damaged
from USMRISynthesisLib.io.picture import PICTURE_FORMATS, count_pages, read_picture
from USMRISynthesisLib.io.voxels import first_bytes, opened, read_voxels

VOLUME_FORMATS = (".nrrd", ".nhdr", ".nii", ".nii.gz", ".mha", ".mhd")
_KRETZ = b"KRETZFILE"
_SHORT, _START = 1 << 16, 160


@dataclass(frozen=True, eq=False)
class Image:
    """What a file holds of one time point: (k, j, i) voxels, their place (4, 4) in RAS mm, its texts and its files."""

    array: np.ndarray
    ijk_to_ras: np.ndarray
    metadata: Mapping[str, str]
    forms: Forms | None = None
    files: tuple[Path, ...] = ()


def ending_of(path: Path) -> str:
    """The ending in small letters; `.nii.gz` is one ending."""
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()


def read_header(path: Path) -> Header:
    """What the header of a volume file states; the voxels are not touched. Raises Refused."""
    ending = ending_of(path)
    if ending in (".nii", ".nii.gz"):
        return header_nifti.parse(first_bytes(path, 1024, unpack=True), path.name)
    data = first_bytes(path, _SHORT)
    whole = rb"\n\r?\n" if ending in (".nrrd", ".nhdr") else rb"(\A|\n)ElementDataFile[^\n]*\n"
    if len(data) == _SHORT and not re.search(whole, data):
        if not (data.startswith(b"NRRD") or b"=" in data[:200]):
            raise damaged(path.name)
        data = first_bytes(path, MAX_HEADER)
        if len(data) == MAX_HEADER and not re.search(whole, data):
            raise damaged(path.name, "its header does not end")
    parse = header_nrrd.parse if ending in (".nrrd", ".nhdr") else header_metaimage.parse
    return parse(data, path.name)


def read_texts(path: Path) -> dict[str, str]:
    """The texts in a volume file's header; empty for what cannot be read."""
    try:
        return dict(read_header(path).metadata)
    except Refused:
        return {}


def read_image(
    path: Path,
    *,
    frame: int | None = None,
    pixel_size_mm: float | None = None,
    voxel_size_mm: Sequence[float] | None = None,
    series: str | None = None,
    region: int | None = None,
) -> Image:
    """Read one time point of a volume file, a DICOM image, or a picture.

    Args:
        path: a file of one of `VOLUME_FORMATS` or `PICTURE_FORMATS`; or DICOM: a file, a folder, a DICOMDIR.
        frame: which time point, from 0; needed where there are several.
        pixel_size_mm: side of a frame's pixels, instead of the file's.
        voxel_size_mm: sides of a volume's voxels along i, j, k, or one for all three, instead of the file's.
        series: which of several DICOM images; see `dicom_read.open_dicom`.
        region: which of several B-mode regions of a DICOM picture, from 1.

    Raises:
        Refused: see `Volume.read`.
    """
    sides = _given_sides(pixel_size_mm, voxel_size_mm)
    stated = pixel_size_mm is not None or sides is not None
    if is_dicom(path):
        image = _dicom(path, frame, series, region, pixel_size_mm, stated=stated)
    else:
        for option, value in (("--series", series), ("--region", region)):
            if value is not None:
                raise Refused("arguments", f"{_shown(path)} is not DICOM, which alone has it.", f"Leave {option} out.")
        ending = _check_path(path)
        image = (
            _picture(path, frame, pixel_size_mm, sides)
            if ending in PICTURE_FORMATS
            else _volume(path, frame, stated=stated)
        )
        image = replace(image, files=(path,))
    matrix = image.ijk_to_ras.copy()
    if pixel_size_mm is not None:
        if image.array.shape[0] != 1:
            raise Refused(
                "pixel-size",
                f"{path.name} is a 3D volume: a pixel size does not apply to it.",
                "Leave --pixel-size out, or give the size of its voxels with --voxel-size I J K in mm.",
            )
        matrix[:3, :2] *= pixel_size_mm / np.linalg.norm(matrix[:3, :2], axis=0)
    elif sides is not None:
        matrix[:3, :3] *= sides / np.linalg.norm(matrix[:3, :3], axis=0)
    else:
        return image
    check_geometry(matrix, path.name, flat=image.array.shape[0] == 1)
    return replace(image, ijk_to_ras=matrix, forms=None)


def count_frames(path: Path, *, series: str | None = None, region: int | None = None) -> int:
    """How many time points, frames or pages `read_image` can be asked for. Raises Refused as it does."""
    if is_dicom(path):
        from USMRISynthesisLib.io.dicom_read import open_dicom

        # A size that the user may state later is none of this function's concern.
        return open_dicom(path, _shown(path), series=series, region=region, pixel_size_mm=1.0).count
    if _check_path(path) in PICTURE_FORMATS:
        return count_pages(path)
    header = _in_time(read_header(path), chosen=True)
    return header.length("t")


def is_dicom(path: Path) -> bool:
    """Whether a path is a DICOM file, whatever its name, or a folder with some. A volume's ending wins."""
    if holds_dicom(path):
        return True
    try:
        if not path.is_file() or ending_of(path) in VOLUME_FORMATS + PICTURE_FORMATS:
            return False
        with opened(path, _shown(path)) as file:
            return is_dicom_start(file.read(_START))
    except (OSError, ValueError, Refused):
        return False


def _dicom(
    path: Path, frame: int | None, series: str | None, region: int | None, pixel_size_mm: float | None, *, stated: bool
) -> Image:
    from USMRISynthesisLib.io.dicom_read import open_dicom, source_files  # here: other formats need no pydicom

    name = _shown(path)
    image = open_dicom(path, name, series=series, region=region, pixel_size_mm=pixel_size_mm)
    index = _checked_frame(frame, image.count, name)
    if not image.states_spacing and not stated:
        raise _without_spacing(name, image.shape[0] == 1)
    return Image(image.read(index), image.ijk_to_ras, image.texts, files=source_files(image))


def _given_sides(pixel_size_mm: float | None, voxel_size_mm: Sequence[float] | None) -> np.ndarray | None:
    if pixel_size_mm is not None and not (np.isfinite(pixel_size_mm) and pixel_size_mm > 0):
        raise Refused(
            "pixel-size", "The pixel size must be a positive number of millimetres.", "Correct --pixel-size MM."
        )
    if voxel_size_mm is None:
        return None
    sides = np.array(voxel_size_mm, dtype=np.float64).ravel()
    sides = np.repeat(sides, 3) if sides.size == 1 else sides
    if sides.size != 3 or not (np.isfinite(sides) & (sides > 0)).all():
        raise Refused(
            "voxel-size",
            "The voxel size must be one or three positive numbers of millimetres.",
            "Correct --voxel-size I J K.",
        )
    if pixel_size_mm is not None:
        raise Refused("voxel-size", "A pixel size and a voxel size are given.", "Leave one of them out.")
    return sides


def _check_path(path: Path) -> str:
    """The ending of a plain file that may be an image. Raises Refused."""
    ending = ending_of(path)
    with opened(path, _shown(path)) as file:
        start = file.read(_START)
    if start.startswith(_KRETZ) or ending in (".vol", ".v00"):
        raise Refused(
            "format",
            f"{_shown(path)} looks like a Kretz file, which cannot be read here.",
            "If it is compressed, save it uncompressed on the scanner; then open it in Slicer with "
            "SlicerHeart and save it as NRRD.",
        )
    if ending in (".hdr", ".img"):
        raise Refused(
            "format",
            f"{_shown(path)} is one of a pair of Analyze or NIfTI files, which are not read here.",
            "Open it in 3D Slicer, check left and right, and save it as NRRD.",
        )
    if ending not in VOLUME_FORMATS + PICTURE_FORMATS:
        raise Refused(
            "format",
            f"{_shown(path)} is not in a format that can be read here.",
            f"Save it as one of these: {', '.join(VOLUME_FORMATS)}.",
        )
    if not start:
        raise Refused("unreadable", f"{_shown(path)} is empty.", "Export or copy it again.")
    return ending


def _shown(path: Path) -> str:
    """A name that fits into a sentence."""
    name = (path.name or str(path)).encode("utf-8", "replace").decode("utf-8")
    return name if len(name) <= 100 else f"{name[:60]}...{name[-20:]}"


def _picture(path: Path, frame: int | None, pixel_size_mm: float | None, sides: np.ndarray | None) -> Image:
    array = read_picture(path, frame, stack=sides is not None and frame is None)
    if pixel_size_mm is None and sides is None:
        raise Refused(
            "pixel-size",
            f"{path.name} is a picture without a pixel size.",
            "Give the size of a pixel with --pixel-size MM, or export the frame as NRRD or NIfTI.",
        )
    return Image(array, np.diag([-1.0, -1.0, 1.0, 1.0]), {})


def _volume(path: Path, frame: int | None, *, stated: bool) -> Image:
    header = read_header(path)
    header, index = _chosen(header, frame)
    flat = header.is_flat
    if not header.states_spacing and not stated:
        raise _without_spacing(path.name, flat)
    array = read_voxels(path, header, index)
    if array.ndim == 4:
        if array.shape[-1] not in (3, 4) or array.dtype.kind != "u":  # a field of displacements has three, too
            raise several_values(array.shape[-1])
        array = to_grey(array)
    texts, matrix = dict(header.metadata), header.ijk_to_ras
    if recorded_frames(texts):
        texts = frame_texts(texts, index if header.length("t") > 1 else 0)
        i, j, k = np.linalg.norm(matrix[:3, :3], axis=0)
        if is_invalid(texts):
            raise Refused(
                "frame-status",
                f"Frame {index} of {path.name} is marked as invalid: the recording lost its image.",
                "Choose another one with --frame N.",
            )
        size = header.length("i"), header.length("j")
        place = frame_place(texts, (float(i), float(j), float(k)), size) if flat else None
        if place is not None:
            check_geometry(place, path.name, flat=True)
            matrix = place
    return Image(array, matrix, texts, header.forms)


def _without_spacing(name: str, flat: bool) -> Refused:
    if flat:
        return Refused(
            "spacing",
            f"{name} does not state the size of its pixels.",
            "Give it with --pixel-size MM, or enter the spacing in 3D Slicer's Volumes module and save it again.",
        )
    return Refused(
        "spacing",
        f"{name} does not state the size of its voxels.",
        "Give it with --voxel-size I J K in mm, or enter the spacing in 3D Slicer's Volumes module and save it again.",
    )


def _chosen(header: Header, frame: int | None) -> tuple[Header, int]:
    """The header, and which time point of it. Raises Refused where none or a wrong one is chosen."""
    header = _in_time(header, chosen=frame is not None)
    return header, _checked_frame(frame, header.length("t"), "The file")


def _in_time(header: Header, *, chosen: bool) -> Header:
    """The header, with several values at a voxel as time points where they are: colours are few, and none is chosen."""
    values = header.length("c")
    if values > 1 and header.values_may_be_time and header.length("t") == 1 and (values > 4 or chosen):
        return replace(header, axes=tuple(("t" if role == "c" else role, size) for role, size in header.axes))
    return header


def _checked_frame(frame: int | None, count: int, name: str) -> int:
    """Which of so many time points. Raises Refused where none or a wrong one is chosen."""
    if frame is None and count > 1:
        raise Refused(
            "time", f"{name} holds {count} time points.", f"Choose one with --frame N, N from 0 to {count - 1}."
        )
    index = frame or 0
    if not 0 <= index < count:
        raise Refused(
            "time",
            f"There is no frame {index}: {name if name != 'The file' else 'the file'} holds {count}.",
            f"Choose one from 0 to {count - 1} with --frame N.",
        )
    return index
