"""The grey values of frames in a DICOM file: stored as bytes or compressed, in grey, colour or a palette."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.colour import to_grey
from USMRISynthesisLib.io.dicom_decode import ALIKE, RLE, frames_of, unpack
from USMRISynthesisLib.io.dicom_file import guarded, pixel_bytes, pydicom, text, vector, whole
from USMRISynthesisLib.io.header import check_sizes, damaged
from USMRISynthesisLib.io.voxels import free_memory

RAW = ("", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
_GREY = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
_MAX_SEGMENTS = 1 << 14
_WORK_PER_VOXEL = 12


def frame_count(header: Any) -> int:
    """Number of Frames; 1 where it is not stated."""
    return max(1, whole(header, "NumberOfFrames", 1))


def syntax_of(header: Any) -> str:
    """UID of the transfer syntax; "" where it is not stated."""
    return text(header.file_meta, "TransferSyntaxUID") if hasattr(header, "file_meta") else ""


@dataclass(frozen=True, eq=False)
class Stored:
    """A frame of a file: `header` is the file's data set without pixels, `frame` counts from 0.

    `part` is what is wanted of it, rows and columns: the scanner's screen around an image is often in colour.
    """

    path: Path
    header: Any
    frame: int = 0
    part: tuple[slice, slice] = (slice(None), slice(None))


def read_frames(wanted: Sequence[Stored]) -> list[np.ndarray]:
    """The grey values of some frames, (j, i) each, in the order in which they are given.

    They are as they are stored, dark to bright, without the rescale slope; of colours the luminance. Compressed frames
    that are alike are unpacked together.

    Raises:
        Refused: damaged, in real colour, of a kind that is not read here, or more than memory holds.
    """
    by_file: dict[Path, list[int]] = {}
    for index, one in enumerate(wanted):
        by_file.setdefault(one.path, []).append(index)
    made: dict[int, np.ndarray] = {}
    packed: dict[tuple[str, ...], list[tuple[int, bytes]]] = {}
    for path, places in by_file.items():
        header, frames = wanted[places[0]].header, sorted({wanted[place].frame for place in places})
        with guarded(path.name):
            _check(path, header, len(wanted))
            value, syntax = pixel_bytes(path), syntax_of(header)
            if syntax in RAW:
                stored = dict(zip(frames, _raw(value, header, frames, path.name), strict=True))
                for place in places:
                    made[place] = _grey(
                        stored[wanted[place].frame][wanted[place].part], header, path.name, converted=False
                    )
                continue
            parts = dict(zip(frames, frames_of(value, frames, frame_count(header), path.name), strict=True))
            alike = (syntax, *(text(header, key) for key in ALIKE))
            packed.setdefault(alike, []).extend((place, parts[wanted[place].frame]) for place in places)
    for (syntax, *_), group in packed.items():
        first = wanted[group[0][0]]
        unpacked = unpack([part for _, part in group], first.header, syntax, first.path.name)
        for (place, _), values in zip(group, unpacked, strict=True):
            one = wanted[place]
            with guarded(one.path.name):
                made[place] = _grey(values[one.part], one.header, one.path.name, converted=syntax != RLE)
    return [made[index] for index in range(len(wanted))]


def rescaled(values: np.ndarray, header: Any, name: str) -> np.ndarray:
    """Stored values times Rescale Slope plus Rescale Intercept: float32, or as they are where that changes nothing."""
    slope, intercept = (vector(header, key, 1) for key in ("RescaleSlope", "RescaleIntercept"))
    a, b = (1.0 if slope is None else float(slope[0])), (0.0 if intercept is None else float(intercept[0]))
    if (a, b) == (1.0, 0.0):
        return values
    if a == 0:
        raise damaged(name)
    if a == 1 and b == int(b) and abs(b) < 1 << 30 and values.dtype.itemsize < 4:
        return values.astype(np.int32) + np.int32(b)
    return (values.astype(np.float64) * a + b).astype(np.float32)


def _check(path: Path, header: Any, wanted: int) -> None:
    """What the header states about the pixels makes sense, and fits into memory. Raises Refused."""
    rows, columns, samples, count = (
        whole(header, "Rows"),
        whole(header, "Columns"),
        _samples(header),
        frame_count(header),
    )
    allocated, stored = whole(header, "BitsAllocated"), _stored_bits(header)
    if allocated not in (8, 16, 32) or not 1 <= stored <= allocated or (samples == 3 and allocated == 32):
        raise Refused("type", f"{path.name} has pixels of a type that is not read here.", "Save it as NRRD in Slicer.")
    kind = text(header, "PhotometricInterpretation")
    if kind not in (_COLOURS if samples == 3 else _GREY):
        raise Refused(
            "colour",
            f"{path.name} has colours of a kind that is not read here ({samples} values at a pixel).",
            "Export it as greyscale.",
        )
    check_sizes([("c", samples), ("i", columns), ("j", rows), ("t", count)], np.dtype(f"u{allocated // 8}"), path.name)
    needed, free = rows * columns * wanted * (allocated // 8 * samples + _WORK_PER_VOXEL), free_memory()
    if free is not None and needed > free:
        raise Refused(
            "memory",
            f"{path.name} needs about {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free.",
            "Close other programs, or crop it to the head in 3D Slicer.",
        )


def _samples(header: Any) -> int:
    return whole(header, "SamplesPerPixel", 1)


def _stored_bits(header: Any) -> int:
    return whole(header, "BitsStored", whole(header, "BitsAllocated"))


def _raw(value: bytes, header: Any, frames: Sequence[int], name: str) -> np.ndarray:
    """(n, j, i) or (n, j, i, 3) of some frames of uncompressed pixels."""
    rows, columns, samples = whole(header, "Rows"), whole(header, "Columns"), _samples(header)
    size = whole(header, "BitsAllocated") // 8
    subsampled = text(header, "PhotometricInterpretation") == "YBR_FULL_422"
    if subsampled and (size != 1 or columns % 2):
        raise damaged(name)
    length = rows * columns * (2 if subsampled else samples)
    if len(value) < length * size * frame_count(header):
        raise damaged(name, "it is cut short: it holds fewer pixels than it announces")
    dtype = np.dtype(f"{'>' if syntax_of(header) == _BIG_ENDIAN else '<'}u{size}")
    parts = [np.frombuffer(value, dtype, length, one * length * size) for one in frames]
    values = np.stack(parts).astype(dtype.newbyteorder("="))
    if subsampled:
        y1, y2, cb, cr = values.reshape(-1, rows, columns // 2, 4).transpose(3, 0, 1, 2)
        both = [np.stack([y1, y2], -1), np.stack([cb, cb], -1), np.stack([cr, cr], -1)]
        return np.stack([one.reshape(-1, rows, columns) for one in both], -1)
    if samples == 1:
        return values.reshape(-1, rows, columns)
    if whole(header, "PlanarConfiguration") == 1:
        return np.moveaxis(values.reshape(-1, samples, rows, columns), 1, -1)
    return values.reshape(-1, rows, columns, samples)


def _grey(stored: np.ndarray, header: Any, name: str, *, converted: bool) -> np.ndarray:
    """(j, i) grey values of the stored ones of a frame. converted: GDCM has made RGB of YBR."""
    kind = text(header, "PhotometricInterpretation")
    if stored.ndim == 3:
        return to_grey(_to_rgb(stored) if kind.startswith("YBR_FULL") and not converted else stored)
    values = _significant(stored, header)
    if kind == "PALETTE COLOR":
        return to_grey(_through_palette(values, header, name))
    if kind != "MONOCHROME1":
        return values
    bits, signed = _stored_bits(header), whole(header, "PixelRepresentation") == 1
    lowest, highest = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    return (lowest + highest - values.astype(np.int64)).astype(values.dtype)


def _significant(stored: np.ndarray, header: Any) -> np.ndarray:
    """The stored bits of each value, which may be signed; the others may be an overlay's."""
    allocated, bits = stored.dtype.itemsize * 8, _stored_bits(header)
    high = min(max(whole(header, "HighBit", bits - 1), bits - 1), allocated - 1)
    plain = stored.view(f"u{stored.dtype.itemsize}")
    signed = whole(header, "PixelRepresentation") == 1
    if bits == allocated:
        return plain.view(f"i{stored.dtype.itemsize}") if signed else plain
    up = (plain << np.array(allocated - 1 - high, plain.dtype)).astype(plain.dtype)
    kind = np.dtype(f"{'i' if signed else 'u'}{stored.dtype.itemsize}")
    return np.asarray(up.view(kind) >> np.array(allocated - bits, kind))


def _to_rgb(values: np.ndarray) -> np.ndarray:
    """YBR_FULL to RGB (PS3.3 C.7.6.3.1.2), in place of colours of 8 or 16 bits."""
    half = 128.0 if values.dtype.itemsize == 1 else 32768.0
    y, cb, cr = (values[..., index].astype(np.float32) for index in range(3))
    cb, cr = cb - half, cr - half
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], -1)
    return np.rint(np.clip(rgb, 0, 2 * half - 1)).astype(values.dtype)


def _through_palette(values: np.ndarray, header: Any, name: str) -> np.ndarray:
    """(..., 3) uint8 of indices into a palette."""
    lengths = [
        len(header.get_item(f"{kind}{colour}PaletteColorLookupTableData").value)
        for colour in ("Red", "Green", "Blue")
        for kind in ("", "Segmented")
        if f"{kind}{colour}PaletteColorLookupTableData" in header
    ]
    if len(lengths) < 3 or max(lengths) > 1 << 17:
        raise damaged(name)
    if "SegmentedRedPaletteColorLookupTableData" in header and max(lengths) > _MAX_SEGMENTS:
        raise damaged(name)  # segments that repeat segments could make a table without end
    home = "pixels.processing" if int(pydicom().__version__.split(".")[0]) >= 3 else "pixel_data_handlers.util"
    apply_color_lut = import_module(f"pydicom.{home}").apply_color_lut
    colours = np.asarray(apply_color_lut(values, header))
    if colours.shape != (*values.shape, 3):
        raise damaged(name)
    # Tables of 16 bits whose entries are of 8 bits exist; the bright end tells.
    wide = colours.dtype.itemsize == 2 and int(colours.max(initial=0)) > 255
    return (colours >> 8).astype(np.uint8) if wide else colours.astype(np.uint8)
