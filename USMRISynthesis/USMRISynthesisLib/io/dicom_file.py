"""One DICOM file: its data set without the pixels, whatever the file holds, and saving one.

    header = read_dataset(path)            # pydicom.Dataset, without pixels; Refused where the file is damaged
    with guarded(path.name):               # what pydicom raises while a damaged value is decoded becomes a sentence
        rows = header.Rows

pydicom (2.2 and later, 3 too), which Slicer brings, is imported when a file is read. It never gets more bytes than the
file has. Its warnings, its log and its errors quote values, and a value may be a patient's name: none of them is passed
on.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from USMRISynthesisLib.errors import Failed, Refused, USMRIError, memory_shortage
from USMRISynthesisLib.io.header import damaged
from USMRISynthesisLib.io.voxels import free_memory, opened

log = logging.getLogger(__name__)

PIXELS = 0x7FE00010
_DEFLATED = "1.2.840.10008.1.2.1.99"
# The pixels beside the file's bytes, and what is made of them.
_WORK = 3


def pydicom() -> Any:
    """The package. Raises Failed where it is not installed."""
    try:
        import pydicom as package
        import pydicom.charset
        import pydicom.datadict
        import pydicom.encaps
        import pydicom.filereader
        import pydicom.uid
    except ImportError as error:
        raise Failed(
            "pydicom",
            "DICOM needs the Python package pydicom, which is not installed.",
            "Install it: pip install pydicom, or this program with its extra 'dicom' (Slicer brings it).",
        ) from error
    return package


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom's warnings and log to itself."""
    logger = logging.getLogger("pydicom")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


@contextmanager
def guarded(name: str) -> Iterator[None]:
    """Turn whatever pydicom raises at a damaged value into a refusal, without the value."""
    with quiet():
        try:
            yield
        except USMRIError:
            raise
        except Exception as error:
            log.debug("a DICOM file could not be read (%s)", type(error).__name__)
            raise memory_shortage(error) or damaged(name) from None


class _Bounded:
    """A file that never makes room for more bytes than it has, whatever length an element announces."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, 2)
        file.seek(0)

    def read(self, count: int | None = -1) -> bytes:
        left = max(0, self._size - self._file.tell())
        return self._file.read(left if count is None or count < 0 else min(count, left))

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()


def read_dataset(path: Path, *, name: str = "", keys: Sequence[str] = ()) -> Any:
    """The data set of a DICOM file without its pixels.

    Args:
        path: of a plain file in DICOM's file format (part 10).
        name: for the sentences, instead of the file's own.
        keys: only these elements, where only some are wanted.

    Raises:
        Refused: no DICOM file, a damaged one, or one that is packed as a whole.
    """
    return _read(path, name or path.name, stop_before_pixels=True, specific_tags=list(keys) or None)


def read_elements(path: Path, tags: Sequence[int]) -> Any:
    """A data set of these elements only, wherever they lie, after the pixels too. Raises Refused."""
    return _read(path, path.name, specific_tags=list(tags))


def pixel_bytes(path: Path) -> bytes:
    """The value of a file's pixel data as it is stored. Raises Refused: there is none, or it does not fit in memory."""
    size, free = path.stat().st_size, free_memory()
    if free is not None and size * _WORK > free:
        raise Refused(
            "memory",
            f"{path.name} needs about {size * _WORK / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free.",
            "Close other programs, or export fewer frames.",
        )
    data = _read(path, path.name, specific_tags=["PixelData"])
    with guarded(path.name):
        value = data.get_item(PIXELS).value if PIXELS in data else None
    if not isinstance(value, bytes) or not value:
        raise Refused("pixels", f"{path.name} holds no pixels that can be read here.", "Export or copy it again.")
    return value


def _read(path: Path, name: str, **options: Any) -> Any:
    package = pydicom()
    with opened(path, name) as file, guarded(name):
        bounded = _Bounded(file)
        try:
            package.filereader.read_preamble(bounded, False)
            meta = package.filereader._read_file_meta_info(bounded)  # what `dcmread` itself begins with
            if str(meta.get("TransferSyntaxUID", "")).strip("\0 ") == _DEFLATED:  # it unpacks without a limit
                raise Refused(
                    "encoding",
                    f"{name} is packed as a whole (Deflated), which is not read here.",
                    "Export it uncompressed, or open it in 3D Slicer and save it as NRRD.",
                )
            bounded.seek(0)
            return package.dcmread(bounded, **options)
        except package.errors.InvalidDicomError:
            raise Refused("format", f"{name} is not a DICOM file.", "Export or copy it again.") from None


def save_dataset(dataset: Any, path: Path) -> None:
    """Write a data set as a DICOM file, little endian; with pydicom 2 or 3. Raises OSError."""
    if int(pydicom().__version__.split(".")[0]) < 3:
        dataset.is_implicit_VR, dataset.is_little_endian = False, True
        dataset.save_as(path, write_like_original=False)
    else:
        dataset.save_as(path, enforce_file_format=True)


def text(header: Any, key: str) -> str:
    """An element as text; "" where it is missing or cannot be decoded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            value = header.get(key)
        except Exception:
            return ""
    return "" if value is None else str(value).strip("\0 ")


def whole(header: Any, key: str, default: int = 0) -> int:
    """An element as a whole number; the default where it is missing, empty or none."""
    try:
        return int(text(header, key) or default)
    except (ValueError, OverflowError):
        return default


def vector(header: Any, key: str, count: int) -> np.ndarray | None:
    """An element of so many finite numbers, float64, or None."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            value = header.get(key)
            found = np.array([value] if count == 1 else list(value), dtype=np.float64).ravel()
        except Exception:
            return None
    return found if found.size == count and np.isfinite(found).all() else None
