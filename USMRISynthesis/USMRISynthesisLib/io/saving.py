"""An image as files: header and voxels, written in Python, so that no locale and no letter of a path matters."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from USMRISynthesisLib.io import header_metaimage, header_nifti, header_nrrd
from USMRISynthesisLib.io.header import COMMENT, Forms

_CHUNK = 1 << 22
# As ITK packs NRRD and MetaImage: nearly the size of the best, several times as fast. gzip's own default for NIfTI.
_LEVEL, _NIFTI_LEVEL = 2, 6


def save(
    folder: Path,
    name: str,
    ending: str,
    array: np.ndarray,
    ijk_to_ras: np.ndarray,
    texts: Mapping[str, str],
    *,
    compress: bool,
    forms: Forms | None = None,
) -> list[Path]:
    """Write an image into a folder; the header's file is the last of the list.

    Args:
        folder, name, ending: where; the ending is one of `VOLUME_FORMATS`.
        array: (k, j, i) of a type that all formats have; half precision and bool become float32 and uint8.
        ijk_to_ras: (4, 4), mm.
        texts: metadata, each on one line.
        compress: pack the voxels (`.nii.gz` always is, `.nii` never).
        forms: see `header.Forms`; NIfTI only.

    Raises:
        OSError: no space, no permission.
        ValueError: more voxels along an axis than the format can hold, or a type that it does not have.
    """
    array = np.ascontiguousarray(array)
    array = array.astype({"?": "u1", "e": "f4"}.get(array.dtype.char, array.dtype), copy=False)
    if array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
        raise ValueError(f"voxels of type {array.dtype} cannot be written")
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    header = folder / name
    k, j, i = array.shape
    shape, own = (k, j, i), dict(texts)
    if ending in (".nii", ".nii.gz"):
        head = header_nifti.compose(shape, array.dtype, ijk_to_ras, own.get(COMMENT, ""), forms)
        _write(header, [head, *_pieces(array)], _NIFTI_LEVEL if ending == ".nii.gz" else None)
        return [header]
    stem = name[: len(name) - len(ending)]
    if ending in (".nrrd", ".nhdr"):
        voxels = None if ending == ".nrrd" else folder / (stem + (".raw.gz" if compress else ".raw"))
        head = header_nrrd.compose(
            shape, array.dtype, ijk_to_ras, own, packed=compress, data_file=voxels.name if voxels else None
        )
        with open(header, "wb") as file:
            file.write(head)
            if voxels is None:
                for piece in _packed(_pieces(array), 31) if compress else _pieces(array):
                    file.write(piece)
            _settle(file)
        if voxels is None:
            return [header]
        _write(voxels, _pieces(array), _LEVEL if compress else None)
        return [voxels, header]
    packed = list(_packed(_pieces(array), 15)) if compress else None  # its size stands in the header
    size = None if packed is None else sum(map(len, packed))
    voxels = None if ending == ".mha" else folder / (stem + (".zraw" if compress else ".raw"))
    head = header_metaimage.compose(
        shape, array.dtype, ijk_to_ras, own, packed_size=size, data_file=voxels.name if voxels else None
    )
    body = _pieces(array) if packed is None else packed
    if voxels is None:
        _write(header, [head, *body], None)
        return [header]
    _write(voxels, body, None)
    _write(header, [head], None)
    return [voxels, header]


def _pieces(array: np.ndarray) -> list[memoryview]:
    """The array's bytes without a copy of them."""
    view = array.reshape(-1).view(np.uint8).data
    return [view[at : at + _CHUNK] for at in range(0, len(view), _CHUNK)]


def _packed(pieces: Iterable[bytes | memoryview], wbits: int, level: int = _LEVEL) -> Iterator[bytes]:
    """Packed by gzip (31) or zlib (15), without a time stamp: the same voxels give the same file."""
    pack = zlib.compressobj(level, zlib.DEFLATED, wbits)
    for piece in pieces:
        yield pack.compress(piece)
    yield pack.flush()


def _write(path: Path, pieces: Iterable[bytes | memoryview], level: int | None) -> None:
    with open(path, "wb") as file:
        for piece in pieces if level is None else _packed(pieces, 31, level):
            file.write(piece)
        _settle(file)


def _settle(file: BinaryIO) -> None:
    """Have the disk take what was written: a network drive may only now say that it is full."""
    file.flush()
    os.fsync(file.fileno())
