"""What ITK does not do with NIfTI files: descriptions, sheared matrices, and noticing that a file is cut short.

Part of ``volume.py``, which everything else uses.
"""

from __future__ import annotations

import gzip
import math
import struct
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk


def header(path: Path) -> tuple[str, np.ndarray | None]:
    """Description, and the sform where the file has no qform: ITK would force it to be orthogonal."""
    data = _bytes(path, 348)
    if not _is_single_file(data):
        return "", None
    order = _byte_order(data)
    text = data[148:228].split(b"\0")[0].decode("utf-8", "replace").strip()
    qform, sform = struct.unpack(order + "2h", data[252:256])
    matrix = None
    if qform == 0 and sform > 0:
        matrix = np.vstack([np.reshape(struct.unpack(order + "12f", data[280:328]), (3, 4)), [0, 0, 0, 1]])
    return text, matrix


def read(path: Path) -> sitk.Image:
    """Read the voxels. The matrix may have to come from :func:`header`.

    Raises:
        RuntimeError, OSError, EOFError, struct.error, zlib.error: damaged or truncated.
    """
    data = _bytes(path)
    if not _is_single_file(data):
        return sitk.ReadImage(str(path))  # NIfTI-2 or Analyze: left to ITK
    _check_complete(data)
    # Two traps of ITK: it refuses a sheared sform, and of a.nii.gz beside a.nii it reads the voxels of the latter.
    sheared = header(path)[1] is not None
    if not sheared and not (path.name.lower().endswith(".gz") and path.with_suffix("").exists()):
        return sitk.ReadImage(str(path))
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "voxels.nii"
        plain.write_bytes(data[:252] + bytes(4) + data[256:] if sheared else data)
        return sitk.ReadImage(str(plain))


def _is_single_file(data: bytes) -> bool:
    return len(data) >= 348 and data[344:347] == b"n+1"


def _check_complete(data: bytes) -> None:
    """ITK fills the missing part of a truncated file with zeros, without a word."""
    order = _byte_order(data)
    dimensions = struct.unpack(order + "8h", data[40:56])
    bits = struct.unpack(order + "h", data[72:74])[0]
    offset = struct.unpack(order + "f", data[108:112])[0]
    voxels = math.prod(max(1, size) for size in dimensions[1 : 1 + dimensions[0]])
    if len(data) < offset + voxels * bits // 8:
        raise EOFError("fewer voxels than the header announces")


def _bytes(path: Path, count: int = -1) -> bytes:
    with gzip.open(path, "rb") if path.name.lower().endswith(".gz") else open(path, "rb") as file:
        return file.read(count)


def _byte_order(data: bytes) -> str:
    return "<" if struct.unpack("<i", data[:4])[0] == 348 else ">"


def write(image: sitk.Image, path: Path, ijk_to_ras: np.ndarray, comment: str) -> None:
    """SimpleITK writes neither ``descrip`` nor a sheared matrix: set both in the header afterwards."""
    plain = path.with_name("voxels.nii")
    direction = np.reshape(image.GetDirection(), (3, 3))
    sheared = not np.allclose(direction.T @ direction, np.eye(3), atol=1e-6)
    if sheared:
        image = sitk.Image(image)
        image.SetDirection(np.eye(3).ravel().tolist())
    sitk.WriteImage(image, str(plain))
    data = bytearray(plain.read_bytes())
    plain.unlink()
    data[148:228] = comment.encode("utf-8")[:79].ljust(80, b"\0")
    if sheared:
        data[252:256] = struct.pack("<2h", 0, 1)
        data[280:328] = struct.pack("<12f", *ijk_to_ras[:3].ravel())
    zipped = path.name.lower().endswith(".gz")
    path.write_bytes(gzip.compress(bytes(data), compresslevel=6, mtime=0) if zipped else data)
