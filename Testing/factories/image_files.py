"""Image files made byte by byte, as other programs write them: NRRD, MetaImage, NIfTI-1 and NIfTI-2."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np
from scipy.spatial.transform import Rotation

_NRRD_TYPES = {"u1": "uchar", "i2": "short", "f4": "float", "f8": "double"}


def placed(seed: int, sides=(0.7, 0.9, 1.3), *, left_handed: bool = False) -> np.ndarray:
    """(4, 4): an oblique placement with these voxel sides in mm."""
    rng = np.random.default_rng(seed)
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.random(random_state=seed).as_matrix() * (-1 if left_handed else 1) * sides
    matrix[:3, 3] = rng.uniform(-90, 90, 3)
    return matrix


def nrrd(array: np.ndarray, lines: Mapping[str, str], *, magic: str = "NRRD0005") -> bytes:
    """An NRRD file; the lines add to or (with "") take away from type, dimension, sizes and encoding."""
    head = {
        "type": _NRRD_TYPES[array.dtype.str[1:]],
        "dimension": str(array.ndim),
        "sizes": " ".join(map(str, array.shape[::-1])),
        "endian": "little",
        "encoding": "raw",
        **lines,
    }
    text = "\n".join([magic, *(f"{key}: {value}" for key, value in head.items() if value)])
    return text.encode() + b"\n\n" + np.ascontiguousarray(array).tobytes()


def metaimage(array: np.ndarray, lines: Mapping[str, str], *, last: str = "LOCAL") -> bytes:
    """A MetaImage file of uint8; the lines add to or (with "") take away from what there is."""
    n = array.ndim
    head = {
        "ObjectType": "Image",
        "NDims": str(n),
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "TransformMatrix": " ".join(str(float(one)) for one in np.eye(n).ravel()),
        "Offset": " ".join(["0"] * n),
        "ElementSpacing": " ".join(["1"] * n),
        "DimSize": " ".join(map(str, array.shape[::-1])),
        "ElementType": "MET_UCHAR",
        **lines,
    }
    text = "\n".join(f"{key} = {value}" for key, value in head.items() if value)
    return text.encode() + f"\nElementDataFile = {last}\n".encode() + (array.tobytes() if last == "LOCAL" else b"")


def nifti(
    array: np.ndarray,
    qform: np.ndarray,
    sform: np.ndarray | None = None,
    *,
    codes: tuple[int, int] = (1, 1),
    units: int = 2,
    pixdim: tuple[float, ...] | None = None,
    dims: tuple[int, ...] | None = None,
    slope: tuple[float, float] = (1, 0),
    version: int = 1,
) -> bytes:
    """A NIfTI file of uint8 voxels (k, j, i) with these two placements (4, 4)."""
    sides = np.linalg.norm(qform[:3, :3], axis=0)
    axes = qform[:3, :3] / sides
    handed = 1.0 if np.linalg.det(axes) > 0 else -1.0
    x, y, z, w = Rotation.from_matrix(axes * [1, 1, handed]).as_quat()
    quaternion = np.array([x, y, z]) * (1 if w >= 0 else -1)
    rows = (qform if sform is None else sform)[:3].ravel()
    dim = dims or (3, *array.shape[::-1], 1, 1, 1, 1)
    size = (handed, *(sides if pixdim is None else pixdim), 1, 1, 1, 1)
    if version == 1:
        data = bytearray(352)
        struct.pack_into("<i", data, 0, 348)
        struct.pack_into("<8h", data, 40, *dim)
        struct.pack_into("<2h", data, 70, 2, 8)
        struct.pack_into("<8f", data, 76, *size)
        struct.pack_into("<3f", data, 108, 352, *slope)
        data[123] = units
        struct.pack_into("<2h", data, 252, *codes)
        struct.pack_into("<6f", data, 256, *quaternion, *qform[:3, 3])
        struct.pack_into("<12f", data, 280, *rows)
        data[344:348] = b"n+1\0"
    else:
        data = bytearray(544)
        struct.pack_into("<i", data, 0, 540)
        data[4:12] = b"n+2\0\r\n\x1a\n"
        struct.pack_into("<2h", data, 12, 2, 8)
        struct.pack_into("<8q", data, 16, *dim)
        struct.pack_into("<8d", data, 104, *size)
        struct.pack_into("<q", data, 168, 544)
        struct.pack_into("<2d", data, 176, *slope)
        struct.pack_into("<2i", data, 344, *codes)
        struct.pack_into("<6d", data, 352, *quaternion, *qform[:3, 3])
        struct.pack_into("<12d", data, 400, *rows)
        struct.pack_into("<i", data, 500, units)
    return bytes(data) + np.ascontiguousarray(array, dtype=np.uint8).tobytes()
