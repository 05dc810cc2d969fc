"""The voxels of an image file, read by what its header states: never more than it states, and never from elsewhere.

A packed file is unpacked up to the stated size and no further. The file that holds the voxels of a detached header is a
plain file in the header's own folder or below it.
"""

from __future__ import annotations

import os
import stat
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.header import MAX_HEADER, Header, damaged

_CHUNK = 1 << 20
# Deflate packs 1032 bytes into one at most.
_BEST_RATIO = 1032
# A number in a text takes a digit and a space at least.
_MAX_TEXT = 1 << 28
_GZIP = b"\x1f\x8b"
# Beside the voxels themselves: what reading and checking them takes for each.
_WORK_PER_VOXEL = 4
_CUT = "it is cut short: it holds fewer voxels than its header announces"


@contextmanager
def opened(path: Path, name: str) -> Iterator[BinaryIO]:
    """A plain file for reading. Raises Refused where it is missing, something else, or not to be opened.

    A pipe or a device is noticed before it is opened and again after it: what waits on the other end never blocks.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise Refused("missing", f"{name} is not a plain file.", "Give a file.")
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Refused("missing", f"{name} is not a plain file.", "Give a file.")
            yield file
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise Refused("missing", f"There is no file {name} at that place.", "Check the path.") from error
    except OSError as error:
        reason = error.strerror or "it cannot be opened"
        raise Refused(
            "unreadable", f"{name} could not be read: {reason}.", "Check the path and the permissions."
        ) from error


def first_bytes(path: Path, count: int = MAX_HEADER, *, unpack: bool = False) -> bytes:
    """The beginning of a file, with `unpack` unpacked where it is packed by gzip. Raises Refused."""
    with opened(path, path.name) as file:
        start = file.read(2)
        file.seek(0)
        if start != _GZIP or not unpack:
            return file.read(count)
        parts, found = [], 0
        try:
            for part in _unpacked(file, count):
                parts.append(part)
                found += len(part)
        except zlib.error:
            pass  # the header may be whole; the voxels will tell
        return b"".join(parts)[:count]


def read_voxels(path: Path, header: Header, frame: int = 0) -> np.ndarray:
    """The voxels of one time point.

    Args:
        path: of the file with the header.
        header: what it states.
        frame: which time point, from 0.

    Returns:
        (k, j, i), or (k, j, i, c) where there are several values at a voxel; in the machine's byte order.

    Raises:
        Refused: the voxels are missing, elsewhere, fewer than stated, or more than memory holds.
    """
    source = path if header.data_file is None else _data_file(path, header.data_file)
    sizes = [size for _, size in header.axes]
    roles = [role for role, _ in header.axes]
    by_frame = roles[-1] == "t"  # then the other time points are not even read
    count = header.count // (sizes[-1] if by_frame else 1)
    _check_memory(header, count, path.name)
    with opened(source, source.name) as file:
        if header.encoding == "text":
            values = _text(file, header, path.name)
            flat = values[frame * count : (frame + 1) * count] if by_frame else values
        else:
            flat = np.empty(count, dtype=header.dtype)
            _fill(file, header, flat, frame if by_frame else 0, path.name)
    shape = sizes[:-1] if by_frame else sizes
    array = flat.reshape(shape[::-1])
    if not by_frame and "t" in roles:
        array = array.take(frame, axis=len(roles) - 1 - roles.index("t"))
    left = [role for role in roles[::-1] if role != "t"]
    if "c" in left:
        array = np.moveaxis(array, left.index("c"), -1)
    if "k" not in left:
        array = array[None]
    array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))
    if (header.slope, header.intercept) != (1.0, 0.0):
        kind = np.dtype(np.float64 if array.dtype == np.float64 else np.float32)
        with np.errstate(all="ignore"):
            array = (array.astype(kind) * kind.type(header.slope) + kind.type(header.intercept)).astype(kind)
    return array


def _data_file(path: Path, file: str) -> Path:
    """The file that a detached header names. Raises Refused where it is none beside the header or below it."""
    if "://" in file or "\0" in file or len(file) > 4096:
        raise Refused(
            "data-file",
            f"The voxels of {path.name} lie at an address that is no file in its folder.",
            "Copy header and voxels into one folder, or save the image as one file (.nrrd).",
        )
    folder = path.parent
    try:
        inside = Path(os.path.realpath(folder / file)).is_relative_to(Path(os.path.realpath(folder)))
    except (OSError, ValueError):
        inside = False
    if not inside:
        raise Refused(
            "data-file",
            f"The voxels of {path.name} lie outside its folder, where they are not read.",
            "Copy header and voxels into one folder, or save the image as one file (.nrrd).",
        )
    found = folder / file
    try:
        mode = os.stat(found).st_mode
    except (OSError, ValueError) as error:
        shown = Path(file).name if Path(file).name.isprintable() else "its voxel file"
        raise Refused(
            "data-file",
            f"{path.name} holds no voxels itself: it needs {shown[:100]} beside it, which is not there.",
            "Copy both files into one folder, or save the image as one file (.nrrd).",
        ) from error
    if not stat.S_ISREG(mode) or os.path.realpath(found) == os.path.realpath(path):
        raise Refused(
            "data-file",
            f"What {path.name} names as its voxels is not a file of voxels.",
            "Save the image again as one file (.nrrd).",
        )
    return found


def free_memory() -> int | None:
    """Bytes of memory that can be taken, or None where the system does not say."""
    if sys.platform.startswith("linux"):
        try:
            with open("/proc/meminfo", encoding="ascii") as file:
                return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))
        except (OSError, StopIteration, ValueError):
            return None
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _check_memory(header: Header, count: int, name: str) -> None:
    scaled = 4 if (header.slope, header.intercept) != (1.0, 0.0) else 0
    needed = count * (header.dtype.itemsize + scaled + _WORK_PER_VOXEL)
    free = free_memory()
    if free is not None and needed > free:
        raise Refused(
            "memory",
            f"{name} needs about {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free.",
            "Close other programs, or crop it to the head in 3D Slicer.",
        )


def _fill(file: BinaryIO, header: Header, flat: np.ndarray, frame: int, name: str) -> None:
    """Read the bytes of one time point into `flat`."""
    total = header.count * header.dtype.itemsize
    size = os.fstat(file.fileno()).st_size
    target = flat.view(np.uint8).data
    skipped = frame * len(target)
    start = file.read(2)
    file.seek(0)
    packed_whole = header.encoding == "raw" and start == _GZIP and header.data_file is None and header.forms is not None
    if header.encoding == "raw" and not packed_whole:
        if header.skipped_lines:
            file.seek(0 if header.data_file else header.offset or 0)
            for _ in range(header.skipped_lines):
                if not file.readline(_CHUNK):
                    raise damaged(name, _CUT)
            begins = file.tell()
        else:
            begins = size - total if header.offset is None else header.offset
        if begins < 0 or begins + total > size:
            raise damaged(name, _CUT)
        file.seek(begins + skipped)
        done = 0
        while done < len(target):
            got = file.readinto(target[done : done + (_CHUNK << 4)])  # type: ignore[attr-defined]
            if not got:
                raise damaged(name, _CUT)
            done += got
        return
    begins = 0 if packed_whole else header.offset or 0
    lead = (header.offset or 0) if packed_whole else 0
    if total > (size - begins) * _BEST_RATIO:
        raise damaged(name, _CUT)
    file.seek(begins)
    _unpack_into(file, target, lead + skipped, name)


def _unpack_into(file: BinaryIO, target: memoryview, skipped: int, name: str) -> None:
    """Unpack into `target` what follows after `skipped` unpacked bytes; the check sum is read where the stream ends."""
    at, wanted = -skipped, len(target)
    try:
        for part in _unpacked(file, skipped + wanted + 1):
            low, high = max(at, 0), min(at + len(part), wanted)
            if high > low:
                target[low:high] = part[low - at : high - at]
            at += len(part)
    except zlib.error as error:
        raise damaged(name) from error
    if at < wanted:
        raise damaged(name, _CUT)


def _unpacked(file: BinaryIO, most: int) -> Iterator[bytes]:
    """What gzip or zlib packed, in pieces: at least `most` bytes where there are as many, and never many more."""
    given, left = 0, b""
    while given < most:
        unpack = zlib.decompressobj(wbits=47)  # either of the two
        first = True
        while not unpack.eof and given < most:
            left = left or file.read(_CHUNK)
            if not left:
                if first:
                    return
                break
            part = unpack.decompress(left, _CHUNK)
            left, first = unpack.unconsumed_tail, False
            given += len(part)
            if part:
                yield part
        if not unpack.eof:
            return
        left = unpack.unused_data or file.read(_CHUNK)
        if given and left[:2] != _GZIP:  # bytes after the last stream belong to nobody
            return


def _text(file: BinaryIO, header: Header, name: str) -> np.ndarray:
    """Voxels written as numbers in a text."""
    size = os.fstat(file.fileno()).st_size
    if header.count * 2 > size + 1 or size > _MAX_TEXT:
        raise damaged(name, _CUT)
    file.seek(header.offset or 0)
    for _ in range(header.skipped_lines):
        file.readline(_CHUNK)
    try:
        parts = file.read().replace(b",", b" ").split()
        if len(parts) < header.count:
            raise damaged(name, _CUT)
        values = np.array(parts[: header.count]).astype(np.float64)
    except (ValueError, OverflowError) as error:
        raise damaged(name) from error
    kind = header.dtype.newbyteorder("=")
    if kind.kind in "iu":
        limits = np.iinfo(kind)
        if not ((values >= limits.min) & (values <= limits.max)).all():
            raise damaged(name)
    return values.astype(kind)
