"""The header of a MetaImage file (.mha, .mhd): reading and writing it. The geometry is taken as ITK takes it."""

from __future__ import annotations

import numpy as np

from USMRISynthesisLib.geometry.canonical import LPS_RAS
from USMRISynthesisLib.io.frames import recorded_frames
from USMRISynthesisLib.io.header import (
    Header,
    check_geometry,
    check_sizes,
    damaged,
    mm_per_unit,
    numbers,
    text_of,
    unsupported,
    whole_numbers,
    wrong_geometry,
)

_DTYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip
_TYPES = {np.dtype(code): name for name, code in _DTYPES.items() if name not in ("MET_LONG", "MET_ULONG")}
# What the format itself defines; any other key is a text that travels with the image.
_OWN = frozenset(
    "ObjectType ObjectSubType NDims TransformType Name ID ParentID Color BinaryData BinaryDataByteOrderMSB "
    "ElementByteOrderMSB CompressedData CompressedDataSize CompressionLevel TransformMatrix Rotation Orientation "
    "Offset Position Origin CenterOfRotation AnatomicalOrientation DistanceUnits ElementSpacing ElementSize DimSize "
    "HeaderSize Modality SequenceID ElementMin ElementMax ElementNumberOfChannels ElementToIntensityFunctionSlope "
    "ElementToIntensityFunctionOffset ElementType ElementDataFile Kinds".split()
)


def parse(data: bytes, name: str) -> Header:
    """What a MetaImage header states.

    Args:
        data: the file's beginning, with its whole header.
        name: of the file, for the sentences.

    Raises:
        Refused: no MetaImage header, or of an image that cannot be read or placed.
    """
    fields, texts, end = _fields(data, name)
    if fields.get("ObjectType", "Image").lower() != "image" or "ElementDataFile" not in fields:
        raise damaged(name)
    dimensions = whole_numbers(fields.get("NDims", ""), name)
    sizes = whole_numbers(fields.get("DimSize", ""), name)
    if len(dimensions) != 1 or len(sizes) != dimensions[0] or not 2 <= len(sizes) <= 10:
        raise damaged(name)
    kind = fields.get("ElementType", "").upper().removesuffix("_ARRAY")
    channels = whole_numbers(fields.get("ElementNumberOfChannels", "1"), name)
    if kind not in _DTYPES or len(channels) != 1 or channels[0] < 1:
        raise damaged(name)
    big = _true(fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False")))
    dtype = np.dtype(_DTYPES[kind]).newbyteorder(">" if big else "<")
    roles = list("ijkt"[: len(sizes)]) + [""] * (len(sizes) - 4)
    if recorded_frames(texts) > 1 and len(sizes) == 3:
        roles[2] = "t"
    if any(size > 1 for role, size in zip(roles, sizes, strict=True) if not role):
        raise unsupported("dimensions", name, "has more than three dimensions and time")
    axes = tuple((role, size) for role, size in zip(roles, sizes, strict=True) if role and (role != "t" or size > 1))
    if channels[0] > 1:
        axes = (("c", channels[0]), *axes)
    check_sizes(axes, dtype, name)
    matrix, states_spacing = _matrix(fields, len(sizes), name)
    check_geometry(matrix, name, flat=dict(axes).get("k", 1) == 1)
    packed = _true(fields.get("CompressedData", "False"))
    binary = _true(fields.get("BinaryData", "True"))
    file = fields["ElementDataFile"].strip()
    if file.upper().split()[:1] == ["LIST"] or (len(file.split()) > 3 and "%" in file):
        raise unsupported("encoding", name, "has its voxels spread over several files")
    local = file.upper() == "LOCAL"
    skip = whole_numbers(fields.get("HeaderSize", "0"), name)
    if not file or len(skip) != 1 or skip[0] < -1 or (packed and skip[0] < 0):
        raise damaged(name)
    return Header(
        axes,
        dtype,
        matrix,
        states_spacing,
        texts,
        "deflate" if packed else "raw" if binary else "text",
        None if local else file,
        None if skip[0] < 0 else end if local else skip[0],
        values_may_be_time=channels[0] > 1,
    )


def _true(text: str) -> bool:
    return text.strip()[:1] in ("T", "t", "1", "Y", "y")


def _fields(data: bytes, name: str) -> tuple[dict[str, str], dict[str, str], int]:
    """The format's own fields, the other texts, and where the voxels begin."""
    fields: dict[str, str] = {}
    texts: dict[str, str] = {}
    at = 0
    while at < len(data):
        stop = data.find(b"\n", at)
        stop = len(data) if stop < 0 else stop
        line = text_of(data[at:stop]).rstrip("\r")
        at = stop + 1
        key, sign, value = line.partition("=")
        key = key.strip()
        if not sign:
            if line.strip():
                raise damaged(name)
            continue
        if key in fields:
            raise damaged(name)
        if key in _OWN:
            fields[key] = value.strip()
        else:
            texts[key] = value.strip()
        if key == "ElementDataFile":
            break
    return fields, texts, at


def _matrix(fields: dict[str, str], count: int, name: str) -> tuple[np.ndarray, bool]:
    """(4, 4) ijk_to_ras, and whether the file states a spacing."""

    def read(names: tuple[str, ...], length: int, default: list[float]) -> list[float]:
        given = next((fields[one] for one in names if one in fields), None)
        values = default if given is None else numbers(given, name)
        if len(values) != length:
            raise wrong_geometry(name)
        return values

    sizes = ("ElementSpacing", "ElementSize")
    spacing = read(sizes, count, [1.0] * count)
    rows = read(("TransformMatrix", "Rotation", "Orientation"), count**2, np.eye(count).ravel().tolist())
    offset = read(("Offset", "Position", "Origin"), count, [0.0] * count)
    n = min(count, 3)
    if any(not value > 0 for value in spacing[:n]):
        raise wrong_geometry(name)
    lps = np.eye(4)
    with np.errstate(all="ignore"):
        lps[:n, :n] = np.reshape(rows, (count, count))[:n, :n].T * spacing[:n]
        lps[:n, 3] = offset[:n]
        lps[:n] *= mm_per_unit(fields.get("DistanceUnits", "mm"), name)
        own = LPS_RAS @ lps
    return own, any(one in fields for one in sizes)


def compose(
    shape: tuple[int, int, int],
    dtype: np.dtype,
    ijk_to_ras: np.ndarray,
    texts: dict[str, str],
    *,
    packed_size: int | None,
    data_file: str | None,
) -> bytes:
    """A MetaImage header; the voxels follow it, or lie in a file of that name.

    Args:
        shape: (k, j, i); dtype: of the voxels, little-endian when they are written.
        ijk_to_ras: (4, 4), mm.
        texts: one line each; what could be taken for a field of the format is left out.
        packed_size: bytes of the packed voxels, None where they are not packed.
        data_file: name of a detached file.
    """
    lps = LPS_RAS @ ijk_to_ras
    spacing = np.linalg.norm(lps[:3, :3], axis=0)

    def row(values: np.ndarray) -> str:
        return " ".join(repr(float(value)) for value in np.ravel(values))

    fields: dict[str, str] = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": str(packed_size is not None),
        **({} if packed_size is None else {"CompressedDataSize": str(packed_size)}),
        "TransformMatrix": row((lps[:3, :3] / spacing).T),
        "Offset": row(lps[:3, 3]),
        "CenterOfRotation": "0 0 0",
        "ElementSpacing": row(spacing),
        **{key: value for key, value in texts.items() if key not in _OWN and key.strip() and "=" not in key},
        "DimSize": " ".join(map(str, shape[::-1])),
        "ElementType": _TYPES[dtype.newbyteorder("=")],
        "ElementDataFile": data_file or "LOCAL",
    }
    lines = [f"{key} = {value}" for key, value in fields.items()]
    return "\n".join(lines).encode("utf-8", "surrogateescape") + b"\n"
