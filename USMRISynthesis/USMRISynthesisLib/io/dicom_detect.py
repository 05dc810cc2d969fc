"""Whether a file or a folder is DICOM, from the first bytes of its files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

_PREAMBLE, _MAGIC = 128, b"DICM"
PREFIX = _PREAMBLE + len(_MAGIC)
_FILES, _FOLDERS = 1000, 1000  # the most that are opened, and entered


def is_dicom_start(start: bytes) -> bool:
    """Whether a file that starts with these bytes is a DICOM file (part 10: 128 bytes, then "DICM")."""
    return start[_PREAMBLE : _PREAMBLE + len(_MAGIC)] == _MAGIC


def holds_dicom(folder: Path) -> bool:
    """Whether this is a folder, and one of its first files, in depth, a DICOM file."""
    if not os.path.isdir(folder):  # False for a name that no system takes
        return False
    for path in islice(_files(folder), _FILES):
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):  # what waits on a pipe's other end never blocks
                continue
            with open(path, "rb") as file:
                if is_dicom_start(file.read(PREFIX)):
                    return True
        except OSError:
            continue
    return False


def _files(folder: Path) -> Iterator[str]:
    """The names of a folder's files, in depth, one after the other; a large tree is not listed as a whole."""
    for number, (place, folders, names) in enumerate(os.walk(folder)):
        if number == _FOLDERS:
            return
        folders.sort()
        yield from (os.path.join(place, name) for name in sorted(names))
