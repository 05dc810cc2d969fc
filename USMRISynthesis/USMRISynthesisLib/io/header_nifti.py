"""The header of a NIfTI file (.nii, .nii.gz), versions 1 and 2: reading and writing it.

The placement is the one that ITK and Slicer take: the sform where its code is 1 (scanner) or there is no qform, else
the qform. The size of a voxel is ITK's, too, from ``pixdim``: some programs write an sform of unit vectors. Both
placements are kept, so that a result lies on its source in programs that go by the other one.

Format: nifti.nimh.nih.gov.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.geometry.canonical import LPS_RAS
from USMRISynthesisLib.io.header import (
    COMMENT,
    Forms,
    Header,
    check_geometry,
    check_sizes,
    damaged,
    unsupported,
    wrong_geometry,
)

SIZES = {348: 1, 540: 2}
_DTYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_CODES = {np.dtype(code): number for number, code in _DTYPES.items()}
_COMPLEX, _COLOURS = (32, 1792, 2048), {128: 3, 2304: 4}
_MM = {0: 1.0, 1: 1e3, 2: 1.0, 3: 1e-3}
# Where the fields stand in the two versions: format and offset.
_FIELDS = {
    1: {
        "dim": ("8h", 40), "datatype": ("h", 70), "pixdim": ("8f", 76), "offset": ("f", 108), "slope": ("2f", 112),
        "units": ("B", 123), "text": ("80s", 148), "codes": ("2h", 252), "quaternion": ("6f", 256),
        "srow": ("12f", 280), "magic": ("4s", 344),
    },
    2: {
        "dim": ("8q", 16), "datatype": ("h", 12), "pixdim": ("8d", 104), "offset": ("q", 168), "slope": ("2d", 176),
        "units": ("i", 500), "text": ("80s", 240), "codes": ("2i", 344), "quaternion": ("6d", 352),
        "srow": ("12d", 400), "magic": ("4s", 4),
    },
}  # fmt: skip
_AGREES = 0.01


def parse(data: bytes, name: str) -> Header:
    """What a NIfTI header states.

    Args:
        data: the file's first 540 bytes or more, unpacked.
        name: of the file, for the sentences.

    Raises:
        Refused: no NIfTI header, or of an image that cannot be read or placed.
    """
    version, get = _reader(data, name)
    dim = get("dim")
    if not 1 <= dim[0] <= 7 or any(size < 1 for size in dim[1 : dim[0] + 1]):
        raise damaged(name)
    sizes = [*dim[1 : dim[0] + 1], *[1] * (7 - dim[0])]
    if max(sizes[5:]) > 1:
        raise unsupported("dimensions", name, "has more than three dimensions and time")
    datatype = get("datatype")[0]
    if datatype in _COMPLEX:
        raise unsupported("colour", name, "holds complex numbers, not grey values")
    if datatype not in _DTYPES and datatype not in _COLOURS:
        raise damaged(name)
    little = struct.unpack("<i", data[:4])[0] in SIZES
    dtype = np.dtype(_DTYPES.get(datatype, "u1")).newbyteorder("<" if little else ">")
    axes = [("i", sizes[0]), ("j", sizes[1]), ("k", sizes[2]), ("t", sizes[3]), ("c", sizes[4])]
    if datatype in _COLOURS:
        axes.insert(0, ("c", _COLOURS[datatype]))
    axes = [(role, size) for role, size in axes if role in "ijk" or size > 1]
    if sum(role == "c" for role, _ in axes) > 1:
        raise unsupported("dimensions", name, "has more than three dimensions and time")
    check_sizes(axes, dtype, name)
    offset = get("offset")[0]
    least = 352 if version == 1 else 544
    offset = least if offset == 0 else offset
    if not least - 4 <= offset < 2**40:
        raise damaged(name)
    slope, intercept = (float(value) for value in get("slope"))
    if not (np.isfinite(slope) and slope != 0):
        slope, intercept = 1.0, 0.0
    units = get("units")[0] & 7
    forms = Forms(get("codes"), get("pixdim")[:4], get("quaternion"), get("srow"), units)
    with np.errstate(all="ignore"):  # whatever comes out of absurd numbers is checked as a whole
        matrix, states_spacing = _matrix(forms, name, flat=sizes[2] == 1)
    check_geometry(matrix, name, flat=sizes[2] == 1)
    text = get("text")[0].split(b"\0")[0].decode("utf-8", "replace").strip()
    return Header(
        tuple(axes),
        dtype,
        matrix,
        states_spacing,
        {COMMENT: text} if text else {},
        offset=int(offset),
        values_may_be_time=datatype not in _COLOURS,
        slope=slope,
        intercept=intercept if np.isfinite(intercept) else 0.0,
        forms=forms,
    )


def _reader(data: bytes, name: str) -> tuple[int, Callable[[str], tuple[Any, ...]]]:
    """The version, and a function that gives a field's values."""
    if len(data) < 348:
        raise damaged(name)
    order = next((o for o in "<>" if struct.unpack(o + "i", data[:4])[0] in SIZES), None)
    if order is None:
        raise damaged(name)
    version = SIZES[struct.unpack(order + "i", data[:4])[0]]
    if version == 2 and len(data) < 540:
        raise damaged(name)

    def get(field: str) -> tuple[Any, ...]:
        kind, at = _FIELDS[version][field]
        return struct.unpack_from(order + kind, data, at)

    magic = get("magic")[0][:3]
    if magic in (b"ni1", b"ni2"):
        raise unsupported("format", name, "has its voxels in a second file (.img)")
    if magic != (b"n+1", b"n+2")[version - 1]:
        if version == 1 and magic == b"\0\0\0":
            raise unsupported("format", name, "is an Analyze file, which does not say where left and right are")
        raise damaged(name)
    return version, get


def _matrix(forms: Forms, name: str, *, flat: bool) -> tuple[np.ndarray, bool]:
    """(4, 4) ijk_to_ras in mm, and whether the file states a size of its voxels."""
    sides = np.abs(np.array(forms.pixdim[1:4], dtype=np.float64))
    if not np.isfinite(sides).all():
        raise wrong_geometry(name)
    if flat and sides[2] == 0:
        sides[2] = 1.0
    stated = bool((sides[:2] > 0).all()) if flat else bool((sides > 0).all())
    if not stated and sides.any():
        raise wrong_geometry(name)
    used = [
        value
        for code, values in zip(forms.codes, (forms.quaternion, forms.srow), strict=True)
        if code > 0
        for value in values
    ]
    if not np.isfinite(used).all():
        raise wrong_geometry(name)
    sform = np.vstack([np.reshape(forms.srow, (3, 4)), [0, 0, 0, 1]]).astype(np.float64)
    if forms.codes[1] > 0 and (forms.codes[0] <= 0 or (forms.codes[1] == 1 and _is_orthogonal(sform))):
        matrix, stated = _placed_by_sform(sform, sides, stated, name, flat=flat)
    elif forms.codes[0] > 0:
        matrix = _qform(forms, np.where(sides > 0, sides, 1.0))
    else:
        matrix = LPS_RAS @ np.diag([*np.where(sides > 0, sides, 1.0), 1.0])
    matrix = matrix.copy()
    matrix[:3] *= _MM.get(forms.units, 1.0)
    return matrix, stated


def _is_orthogonal(sform: np.ndarray) -> bool:
    axes = sform[:3, :3] / np.linalg.norm(sform[:3, :3], axis=0)
    return bool(np.allclose(axes.T @ axes, np.eye(3), atol=1e-3))


def _placed_by_sform(
    sform: np.ndarray, sides: np.ndarray, stated: bool, name: str, *, flat: bool
) -> tuple[np.ndarray, bool]:
    """The sform, with the sides of `pixdim` where it has none of its own; Refused where the two disagree."""
    own = np.linalg.norm(sform[:3, :3], axis=0)
    n = 2 if flat else 3
    if flat and own[2] == 0:
        normal = np.cross(sform[:3, 0], sform[:3, 1])
        sform[:3, 2] = normal / np.linalg.norm(normal) * sides[2]
        own = np.linalg.norm(sform[:3, :3], axis=0)
    if not stated or np.allclose(own[:n], sides[:n], rtol=_AGREES):
        return sform, True
    if not (own > 0).all():
        raise wrong_geometry(name)
    if np.allclose(own[:n], 1, rtol=1e-3):
        sform[:3, :3] *= sides / own
        return sform, True
    shown = " x ".join(f"{side:.3g}" for side in own[:n]), " x ".join(f"{side:.3g}" for side in sides[:n])
    raise Refused(
        "geometry",
        f"{name} states two voxel sizes: {shown[0]} mm in its sform and {shown[1]} mm in its pixdim.",
        "Open it in 3D Slicer, check the spacing, and save it again.",
    )


def _qform(forms: Forms, sides: np.ndarray) -> np.ndarray:
    b, c, d, *offset = (float(value) for value in forms.quaternion)
    square = 1.0 - (b * b + c * c + d * d)
    if square < 1e-7:  # as the format's reference code has it: a turn by 180 degrees
        length = np.sqrt(b * b + c * c + d * d)
        b, c, d, a = b / length, c / length, d / length, 0.0
    else:
        a = np.sqrt(square)
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ]
    matrix[:3, :3] *= sides * (1, 1, -1 if forms.pixdim[0] < 0 else 1)
    matrix[:3, 3] = offset
    return matrix


def compose(
    shape: tuple[int, int, int], dtype: np.dtype, ijk_to_ras: np.ndarray, comment: str, forms: Forms | None = None
) -> bytes:
    """A NIfTI-1 header of 352 bytes, little-endian; the voxels follow it.

    Args:
        shape: (k, j, i); dtype: of the voxels.
        ijk_to_ras: (4, 4), mm. What is sheared has an sform alone.
        comment: up to 79 bytes of it are kept.
        forms: the placements of the file that the grid came from, kept as they are.

    Raises:
        ValueError: more than 32767 voxels along an axis.
    """
    if max(shape) > 32767:
        raise ValueError("NIfTI-1 cannot hold more than 32767 voxels along an axis")
    data = bytearray(352)
    forms = forms or _both(ijk_to_ras)
    pixdim = [one if one else 1.0 for one in forms.pixdim]
    values = {
        "dim": (3, *shape[::-1], 1, 1, 1, 1),
        "datatype": (_CODES[dtype.newbyteorder("=")],),
        "pixdim": (*pixdim, 1, 1, 1, 1),
        "offset": (352,),
        "slope": (1, 0),
        "units": (forms.units,),
        "text": (comment.encode("utf-8", "surrogateescape")[:79],),
        "codes": forms.codes,
        "quaternion": forms.quaternion,
        "srow": forms.srow,
        "magic": (b"n+1\0",),
    }
    struct.pack_into("<i", data, 0, 348)
    struct.pack_into("<h", data, 72, dtype.itemsize * 8)
    for field, content in values.items():
        kind, at = _FIELDS[1][field]
        struct.pack_into("<" + kind, data, at, *content)
    data[38] = ord("r")
    return bytes(data)


def _both(ijk_to_ras: np.ndarray) -> Forms:
    """qform and sform of a placement; of a sheared one the sform alone."""
    sides = np.linalg.norm(ijk_to_ras[:3, :3], axis=0)
    axes = ijk_to_ras[:3, :3] / sides
    srow = tuple(ijk_to_ras[:3].ravel().tolist())
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-6):
        return Forms((0, 1), (1.0, *sides.tolist()), (0.0,) * 6, srow, 2)
    handed = 1.0 if np.linalg.det(axes) > 0 else -1.0
    b, c, d = _quaternion(axes * (1, 1, handed))
    return Forms((1, 1), (handed, *sides.tolist()), (b, c, d, *ijk_to_ras[:3, 3].tolist()), srow, 2)


def _quaternion(rotation: np.ndarray) -> tuple[float, float, float]:
    """b, c, d of a rotation, with a >= 0: the eigenvector of the largest eigenvalue, steady for any turn."""
    m = rotation
    matrix = np.array(
        [
            [m[0, 0] + m[1, 1] + m[2, 2], m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]],
            [0, m[0, 0] - m[1, 1] - m[2, 2], m[0, 1] + m[1, 0], m[0, 2] + m[2, 0]],
            [0, 0, m[1, 1] - m[0, 0] - m[2, 2], m[1, 2] + m[2, 1]],
            [0, 0, 0, m[2, 2] - m[0, 0] - m[1, 1]],
        ]
    )
    vectors = np.linalg.eigh(matrix, UPLO="U")[1][:, -1]
    _, b, c, d = (vectors if vectors[0] >= 0 else -vectors).tolist()
    return b, c, d
