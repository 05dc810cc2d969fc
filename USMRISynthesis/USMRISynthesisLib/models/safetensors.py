"""Arrays by name in one file: the safetensors format (https://github.com/huggingface/safetensors), without its package.

    length of the header (8 bytes, little-endian) | header: JSON, name -> dtype, shape, data_offsets | data

Nothing in such a file can run code. It is read strictly: the data are exactly what the header describes, one array
after another, without gaps or overlaps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

TYPES = {
    "BOOL": "|b1", "U8": "|u1", "I8": "|i1", "I16": "<i2", "I32": "<i4", "I64": "<i8",
    "F16": "<f2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip
_NAMES = {np.dtype(code): name for name, code in TYPES.items()}
METADATA = "__metadata__"
MOST_HEADER = 1 << 20  # bytes
MOST_DIMENSIONS = 8
_LENGTH = 8


def write(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The file's bytes: the same arrays give the same bytes. Raises ValueError for a type that has no name here."""
    header: dict[str, Any] = {}
    blocks: list[bytes] = []
    end = 0
    for name, array in sorted(arrays.items(), key=lambda item: (-np.asarray(item[1]).dtype.itemsize, item[0])):
        stored = np.asarray(array)  # the widest types first: every array lies at a multiple of its element's size
        if stored.dtype.newbyteorder("<") not in _NAMES or name == METADATA:
            raise ValueError(f"{name} cannot be stored as {stored.dtype}")
        block = stored.astype(stored.dtype.newbyteorder("<"), copy=False).tobytes()
        header[name] = {
            "dtype": _NAMES[stored.dtype.newbyteorder("<")],
            "shape": list(stored.shape),
            "data_offsets": [end, end + len(block)],
        }
        blocks.append(block)
        end += len(block)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begin at a multiple of 8
    return b"".join([len(text).to_bytes(_LENGTH, "little"), text, *blocks])


def read(content: bytes) -> dict[str, np.ndarray]:
    """The arrays of a file's bytes, read-only views of them. Raises ValueError that says what is wrong."""
    size = int.from_bytes(content[:_LENGTH], "little")
    if len(content) < _LENGTH or size > MOST_HEADER or _LENGTH + size > len(content):
        raise ValueError("the header is longer than the file or than a header may be")
    try:
        header = json.loads(content[_LENGTH : _LENGTH + size].decode("utf-8"), object_pairs_hook=_without_repeats)
    except RecursionError as error:
        raise ValueError("the header is nested too deeply") from error
    if not isinstance(header, dict):
        raise ValueError("the header is no JSON object")
    header.pop(METADATA, None)
    data = memoryview(content)[_LENGTH + size :]
    fields = {name: _field(name, entry) for name, entry in header.items()}
    arrays: dict[str, np.ndarray] = {}
    end = 0
    for name, (dtype, shape, first, last) in sorted(fields.items(), key=lambda item: item[1][2:]):
        if first != end:
            raise ValueError(f"before {name} there is a gap or an overlap")
        if last - first != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{name} has another size than its shape")
        if last > len(data):
            raise ValueError(f"{name} lies beyond the end of the file")
        arrays[name] = np.frombuffer(data[first:last], dtype).reshape(shape)
        end = last
    if end != len(data):
        raise ValueError("there are data that the header does not describe")
    return arrays


def _field(name: str, entry: Any) -> tuple[np.dtype, tuple[int, ...], int, int]:
    """Type, shape, first and last byte of a header's entry."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name} is not described by dtype, shape and data_offsets")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in TYPES:
        raise ValueError(f"{name} has an unknown dtype")
    if not _sizes(shape) or len(shape) > MOST_DIMENSIONS:
        raise ValueError(f"{name} has an impossible shape")
    if not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"{name} has impossible offsets")
    return np.dtype(TYPES[entry["dtype"]]), tuple(shape), offsets[0], offsets[1]


def _sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 48 for value in values)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("the header has a name twice")
    return dict(pairs)
