"""The header of an NRRD file (.nrrd, .nhdr): reading and writing it. Format: teem.sourceforge.net/nrrd/format.html.

The geometry is taken as ITK takes it. Beyond ITK: axes of kind "time" and "list", two axes in a space of three
dimensions, and the units of the space.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

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

_TYPES = {
    "i1": "signed char|int8|int8_t",
    "u1": "uchar|unsigned char|uint8|uint8_t",
    "i2": "short|short int|signed short|signed short int|int16|int16_t",
    "u2": "ushort|unsigned short|unsigned short int|uint16|uint16_t",
    "i4": "int|signed int|int32|int32_t",
    "u4": "uint|unsigned int|uint32|uint32_t",
    "i8": "longlong|long long|long long int|signed long long|signed long long int|int64|int64_t",
    "u8": "ulonglong|unsigned long long|unsigned long long int|uint64|uint64_t",
    "f4": "float",
    "f8": "double",
}
_DTYPES = {name: np.dtype(code) for code, names in _TYPES.items() for name in names.split("|")}
_NAMES = {np.dtype(code): names.split("|")[0] for code, names in _TYPES.items()} | {np.dtype("u1"): "unsigned char"}
_ENCODINGS = {"raw": "raw", "gzip": "deflate", "gz": "deflate", "txt": "text", "text": "text", "ascii": "text"}
# Signs that bring a space's axes to R, A, S; others than these three are taken as LPS, as ITK does.
_SPACES = {
    "right-anterior-superior": (1, 1, 1), "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1), "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1), "lps": (-1, -1, 1),
    "scanner-xyz": (-1, -1, 1), "3d-right-handed": (-1, -1, 1), "3d-left-handed": (-1, -1, 1),
}  # fmt: skip
_LPS = (-1, -1, 1)
_SPACE, _TIME, _COLOUR, _VALUES = ("domain", "space"), ("time",), ("rgb-color", "3-color", "rgba-color", "4-color"), (
    "vector", "2-vector", "3-vector", "4-vector", "covariant-vector", "3-gradient", "3-normal", "normal", "point",
    "hsv-color", "xyz-color", "quaternion",
)  # fmt: skip
_UNKNOWN, _SINGLE = ("???", "none", ""), ("scalar", "stub")
_VECTOR = re.compile(r"\s*(none|\([^()]*\))", re.IGNORECASE)
_QUOTED = re.compile(r'\s*("[^"]*"|\S+)')


def parse(data: bytes, name: str) -> Header:
    """What an NRRD header states.

    Args:
        data: the file's beginning, with its whole header.
        name: of the file, for the sentences.

    Raises:
        Refused: no NRRD header, or of an image that cannot be read or placed.
    """
    fields, texts, end = _fields(data, name)
    try:
        dimension = whole_numbers(fields["dimension"], name)
        sizes = whole_numbers(fields["sizes"], name)
        kind = " ".join(fields["type"].lower().split())
        encoding = fields["encoding"].strip().lower()
    except KeyError:
        raise damaged(name) from None
    if len(dimension) != 1 or dimension[0] != len(sizes) or not 1 <= len(sizes) <= 16:
        raise damaged(name)
    if kind not in _DTYPES:
        raise unsupported("type", name, "holds voxels that are no numbers") if kind == "block" else damaged(name)
    if encoding not in _ENCODINGS:
        raise unsupported("encoding", name, f"is packed in a way that is not read here ({encoding[:20]!r})")
    dtype = _DTYPES[kind]
    endian = fields.get("endian", "little").strip().lower()
    if dtype.itemsize > 1 and endian not in ("little", "big"):
        raise damaged(name)
    dtype = dtype.newbyteorder(">" if endian == "big" else "<")
    vectors = _vectors(fields.get("spacedirections"), len(sizes), name)
    roles = _roles(fields, sizes, vectors, texts, name)
    axes = tuple((role, size) for role, size in zip(roles, sizes, strict=True) if role)
    check_sizes(axes, dtype, name)
    with np.errstate(all="ignore"):  # whatever comes out of absurd numbers is checked as a whole
        matrix, states_spacing = _matrix(fields, roles, sizes, vectors, name)
    check_geometry(matrix, name, flat=dict(axes).get("k", 1) == 1)
    return Header(
        axes,
        dtype,
        matrix,
        states_spacing,
        texts,
        _ENCODINGS[encoding],
        values_may_be_time=dict(axes).get("c", 1) > 1 and not any(k in _COLOUR for k in _kinds(fields, len(sizes))),
        **_data(fields, _ENCODINGS[encoding], end, name),
    )


def _fields(data: bytes, name: str) -> tuple[dict[str, str], dict[str, str], int]:
    """The fields by their names in small letters without spaces, the key/value texts, and where the header ends."""
    if not re.match(rb"NRRD000[1-6]\r?\n", data):
        raise damaged(name)
    blank = re.search(rb"\n\r?\n", data)
    end = blank.end() if blank else len(data)
    fields: dict[str, str] = {}
    texts: dict[str, str] = {}
    lines = iter(data[: blank.start() if blank else end].split(b"\n")[1:])
    for raw in lines:
        line = text_of(raw.rstrip(b"\r"))
        if not line.strip() or line.startswith("#"):
            continue
        key, colon, value = line.partition(":")
        if not colon:
            raise damaged(name)
        if value.startswith("="):
            if not key.startswith(("ITK_", "NRRD_")):
                texts[_unescaped(key)] = _unescaped(value[1:])
            continue
        key = key.lower().replace(" ", "")
        if key in fields:
            raise damaged(name)
        fields[key] = value.strip()
    return fields, texts, end


def _unescaped(text: str) -> str:
    return re.sub(r"\\([n\\])", lambda found: "\n" if found[1] == "n" else "\\", text)


def _vectors(text: str | None, count: int, name: str) -> list[np.ndarray | None] | None:
    """A vector for each axis, None where an axis has none; None where there are no directions at all."""
    if text is None:
        return None
    found = [match[1] for match in _VECTOR.finditer(text)]
    if _VECTOR.sub("", text).strip() or len(found) != count:
        raise damaged(name)
    vectors = [_vector(one, name) for one in found]
    if len({len(vector) for vector in vectors if vector is not None}) != 1:
        raise wrong_geometry(name)
    return vectors


def _vector(text: str, name: str) -> np.ndarray | None:
    if text.lower() == "none":
        return None
    vector = np.array(numbers(text[1:-1].replace(",", " "), name))
    return None if vector.size and np.isnan(vector).all() else vector


def _kinds(fields: dict[str, str], count: int) -> list[str]:
    return fields.get("kinds", "??? " * count).lower().split()


def _roles(
    fields: dict[str, str],
    sizes: list[int],
    vectors: list[np.ndarray | None] | None,
    texts: dict[str, str],
    name: str,
) -> list[str]:
    """The role of each axis as in `Header.axes`; "" for one of length 1 that means nothing."""
    kinds = _kinds(fields, len(sizes))
    if len(kinds) != len(sizes):
        raise damaged(name)
    placed = [
        vectors is not None and vector is not None and vector[:3].any() for vector in vectors or [None] * len(sizes)
    ]
    many = recorded_frames(texts)
    roles = []
    for axis, (kind, size, has_place) in enumerate(zip(kinds, sizes, placed, strict=True)):
        if kind in _TIME:
            role = "t"
        elif kind == "list":  # 3D reconstructions are marked so, too; the entries of several frames tell them apart
            role = "space" if has_place and many < 2 and axis == len(sizes) - 1 else "t"
        elif kind in _COLOUR or kind in _VALUES:
            role = "c" if size <= 4 or kind in _COLOUR else "t"
        elif kind in _SPACE or kind in _UNKNOWN:
            role = "space" if kind in _SPACE or has_place or vectors is None else "t"
        elif kind in _SINGLE and size == 1:
            role = ""
        elif kind == "complex":
            raise unsupported("colour", name, "holds complex numbers, not grey values")
        else:
            raise unsupported("colour", name, "has several values at each voxel that are no colours")
        roles.append("" if role in ("t", "c") and size == 1 else role)
    spatial = [axis for axis, role in enumerate(roles) if role == "space"]
    if len(spatial) == 3 and many > 1 and sizes[spatial[2]] == many:
        roles[spatial.pop()] = "t"
    elif len(spatial) > 3:
        for axis in spatial[3:]:
            roles[axis] = "t" if sizes[axis] > 1 else ""
        spatial = spatial[:3]
    for axis, role in zip(spatial, "ijk", strict=False):
        roles[axis] = role
    if len(spatial) < 2:
        raise damaged(name)
    if roles.count("t") > 1 or roles.count("c") > 1:
        raise unsupported("dimensions", name, "has more than three dimensions and time")
    return roles


def _matrix(
    fields: dict[str, str], roles: list[str], sizes: list[int], vectors: list[np.ndarray | None] | None, name: str
) -> tuple[np.ndarray, bool]:
    """(4, 4) ijk_to_ras, and whether the file states a spacing."""
    axes = [roles.index(role) for role in "ijk" if role in roles]
    own = np.eye(4)
    if vectors is None:
        if "space" in fields and "spacings" in fields:
            raise wrong_geometry(name, "are incomplete: there is a space, but no directions")
        spacings = numbers(fields["spacings"], name) if "spacings" in fields else [float("nan")] * len(sizes)
        if len(spacings) != len(sizes):
            raise damaged(name)
        chosen = np.array([spacings[axis] for axis in axes])
        if np.isinf(chosen).any() or (np.isnan(chosen).any() and not np.isnan(chosen).all()):
            raise wrong_geometry(name)
        states_spacing = not np.isnan(chosen).any()
        own[range(len(axes)), range(len(axes))] = chosen if states_spacing else 1.0
        own[: len(axes), 3] = _axis_origin(fields, own.diagonal(), axes, sizes, name)
        units = _units(fields.get("units"), len(sizes), axes, name)
        own[: len(axes)] *= np.reshape(units, (-1, 1))
        return _signed(_LPS, own), states_spacing
    columns = [vectors[axis] for axis in axes]
    if any(column is None for column in columns):
        raise wrong_geometry(name)
    size = len(columns[0])  # type: ignore[arg-type]
    if not 2 <= size <= 4:
        raise wrong_geometry(name)
    basis = np.zeros((3, 3))
    for place, column in enumerate(columns):
        basis[: min(size, 3), place] = column[:3]  # type: ignore[index]
    if len(axes) == 2:
        basis[:, 2] = _normal(basis)
    own[:3, :3] = basis
    if "spaceorigin" in fields:
        origin = _vector(fields["spaceorigin"].strip(), name) if _VECTOR.fullmatch(fields["spaceorigin"]) else None
        if origin is None or len(origin) != size:
            raise wrong_geometry(name)
        own[: min(size, 3), 3] = origin[:3]
    units = _units(fields.get("spaceunits"), size, list(range(min(size, 3))), name)
    own[: len(units)] *= np.reshape(units, (-1, 1))
    if len(axes) == 2:
        own[:3, 2] = _normal(own[:3, :3])
    space = fields.get("space", "").lower()
    signs = _SPACES.get(space.removesuffix("-time"), None if space else _LPS)
    if space and size != 3 + space.endswith("-time"):
        raise wrong_geometry(name)
    if signs is None:
        raise wrong_geometry(name, "are in a space that is not known here")
    return _signed(signs, own), True


def _signed(signs: tuple[int, int, int], own: np.ndarray) -> np.ndarray:
    return np.asarray(own * np.array([[*signs, 1]]).T)  # a product of matrices would make NaN of infinity


def _normal(basis: np.ndarray) -> np.ndarray:
    """(3,) of length 1, perpendicular to the first two columns."""
    normal = np.cross(basis[:, 0], basis[:, 1])
    return np.asarray(normal / np.linalg.norm(normal))


def _units(text: str | None, count: int, wanted: list[int], name: str) -> list[float]:
    """Millimetres per unit of the wanted axes."""
    if text is None:
        return [1.0] * len(wanted)
    found = [match[1] for match in _QUOTED.finditer(text)]
    if len(found) != count:
        raise damaged(name)
    return [mm_per_unit(found[axis], name) for axis in wanted]


def _axis_origin(
    fields: dict[str, str], spacing: np.ndarray, axes: list[int], sizes: list[int], name: str
) -> list[float]:
    """Where the first voxel's centre lies by "axis mins", as ITK has it: of cells half a voxel inside."""
    if "axismins" not in fields:
        return [0.0] * len(axes)
    low = numbers(fields["axismins"], name)
    high = numbers(fields["axismaxs"], name) if "axismaxs" in fields else [float("nan")] * len(sizes)
    centres = fields.get("centerings", fields.get("centers", "cell " * len(sizes))).lower().split()
    if not len(low) == len(high) == len(centres) == len(sizes):
        raise damaged(name)
    found = []
    for place, axis in enumerate(axes):
        step = spacing[place] if np.isnan(high[axis]) else (high[axis] - low[axis]) / sizes[axis]
        found.append(low[axis] + (0.0 if centres[axis] == "node" else step / 2))
    return [0.0] * len(axes) if np.isnan(found).any() else found


def _data(fields: dict[str, str], encoding: str, end: int, name: str) -> dict[str, Any]:
    lines = whole_numbers(fields.get("lineskip", "0"), name)
    skip = whole_numbers(fields.get("byteskip", "0"), name)
    if len(lines) != 1 or len(skip) != 1 or lines[0] < 0 or skip[0] < -1 or (skip[0] and encoding != "raw"):
        raise damaged(name)
    file = fields.get("datafile")
    if file is not None and (file.split()[:1] == ["LIST"] or (len(file.split()) > 3 and "%" in file)):
        raise unsupported("encoding", name, "has its voxels spread over several files")
    start = end if file is None else 0
    return {
        "data_file": file,
        "skipped_lines": lines[0],
        "offset": None if skip[0] == -1 else start + skip[0],
    }


def compose(
    shape: tuple[int, int, int],
    dtype: np.dtype,
    ijk_to_ras: np.ndarray,
    texts: dict[str, str],
    *,
    packed: bool,
    data_file: str | None,
) -> bytes:
    """An NRRD header; the voxels follow it, or lie in a file of that name.

    Args:
        shape: (k, j, i); dtype: of the voxels, little-endian when they are written.
        ijk_to_ras: (4, 4), mm.
        texts: key/value texts, each on one line.
        packed: whether the voxels are written by gzip.
        data_file: name of a detached file.
    """
    lps = np.diag([*_LPS, 1.0]) @ ijk_to_ras
    lines = [
        "NRRD0004",
        "# Complete NRRD file format specification at:",
        "# http://teem.sourceforge.net/nrrd/format.html",
        f"type: {_NAMES[dtype.newbyteorder('=')]}",
        "dimension: 3",
        "space: left-posterior-superior",
        "sizes: " + " ".join(map(str, shape[::-1])),
        "space directions: " + " ".join(_written(column) for column in lps[:3, :3].T),
        "kinds: domain domain domain",
        "endian: little",
        f"encoding: {'gzip' if packed else 'raw'}",
        "space origin: " + _written(lps[:3, 3]),
        *(f"{_escaped(key)}:={_escaped(value)}" for key, value in texts.items()),
    ]
    if data_file is not None:
        lines.append(f"data file: {data_file}")
    return "\n".join(lines).encode("utf-8", "surrogateescape") + b"\n\n"


def _written(vector: np.ndarray) -> str:
    return "(" + ",".join(repr(float(value)) for value in vector) + ")"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")
