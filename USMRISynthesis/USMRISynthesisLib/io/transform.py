"""The transform between an image and canonical space as a file that ITK, elastix and Slicer read.

ITK files hold the transform that *resampling* needs: it maps a point of the output, canonical space, to the
input, in LPS mm. So `sitk.Resample(ultrasound, canonical_grid, transform)` gives the canonical image, and
Slicer, which inverts on reading, gets a node that carries the ultrasound into canonical space. In memory
there is `ras_to_canonical`: input to canonical, RAS mm. It is converted here and nowhere else.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from USMRISynthesisLib.errors import Failed, Refused
from USMRISynthesisLib.geometry.canonical import LPS_RAS
from USMRISynthesisLib.io import transform_text
from USMRISynthesisLib.io.voxels import opened

FORMATS = (".tfm", ".txt", ".h5")
# A linear transform has a few hundred bytes, in HDF5 some thousands.
_MAX_FILE = 1 << 20
_HDF5 = b"\x89HDF\r\n\x1a\n"
# Heads of 10 weeks to term are brought to 88 mm; a transform in other units than mm is beyond this, too.
_MAX_SCALE, _MAX_SHIFT_MM = 20.0, 1e5


def write_transform(ras_to_canonical: np.ndarray, path: str | os.PathLike[str]) -> None:
    """Write a `(4, 4)` ras_to_canonical as an ITK affine transform; all or nothing. Raises Failed."""
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise Failed(
            "format",
            f"Transforms cannot be written as {path.name}.",
            f"Use one of these endings: {', '.join(FORMATS)}.",
        )
    if not path.parent.is_dir():
        raise Failed("folder", f"The folder for {path.name} does not exist.", "Create it or choose another one.")
    matrix = LPS_RAS @ np.linalg.inv(ras_to_canonical) @ LPS_RAS
    transform = sitk.AffineTransform(matrix[:3, :3].ravel().tolist(), matrix[:3, 3].tolist())
    try:
        with tempfile.TemporaryDirectory(prefix=".writing-", dir=path.parent) as folder:
            staged = Path(folder) / path.name
            if path.suffix.lower() == ".h5":
                with tempfile.TemporaryDirectory() as plain:  # a name that ITK opens on every system
                    sitk.WriteTransform(transform, str(Path(plain) / "transform.h5"))
                    shutil.copyfile(Path(plain) / "transform.h5", staged)
            else:
                staged.write_bytes(transform_text.compose(matrix))
            os.replace(staged, path)
    except (OSError, RuntimeError) as error:
        raise Failed(
            "write", f"Writing {path.name} failed.", "Check free space and permissions of the folder."
        ) from error


def read_transform(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an ITK transform file as `(4, 4)` ras_to_canonical.

    Raises:
        Refused: kind "transform": no transform file; no linear 3D transform by its own kind, however little it bends;
            or one that no head can have.
    """
    path = Path(path)
    with _sentences():
        with opened(path, path.name) as file:
            data = file.read(_MAX_FILE + 1)
    if len(data) > _MAX_FILE:
        raise _not_linear(path.name)
    if data.startswith(_HDF5):
        matrix = _from_hdf5(path)
    elif data.startswith(b"#Insight Transform File"):
        matrix = transform_text.parse(data, path.name)
    else:
        matrix = transform_text.parse_matlab(data, path.name)
    return _usable(matrix, path.name)


@contextmanager
def _sentences() -> Iterator[None]:
    """Refusals of a file are refusals of a transform here."""
    try:
        yield
    except Refused as error:
        raise Refused("transform", error.message.replace("file ", "transform file ", 1), error.remedy) from error


def _not_linear(name: str) -> Refused:
    return Refused("transform", f"{name} is not a linear transform.", "Give a rigid, similarity or affine transform.")


def _from_hdf5(path: Path) -> np.ndarray:
    """(4, 4) LPS mm of a file that ITK alone reads, under a name that it opens on every system."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / "transform.h5"
            shutil.copyfile(path, plain)
            transform = sitk.ReadTransform(str(plain))
    except (OSError, RuntimeError, KeyError) as error:  # KeyError: a kind that SimpleITK has no class for
        raise transform_text.no_transform(path.name) from error
    if transform.GetDimension() != 3:
        raise Refused("transform", f"{path.name} is not a 3D transform.", "Give a 3D linear transform.")
    if not transform.IsLinear():
        raise _not_linear(path.name)
    return transform_text.matrix_of(transform)


def _usable(matrix: np.ndarray, name: str) -> np.ndarray:
    """ras_to_canonical of an LPS matrix from canonical space to the image. Raises Refused for an impossible one."""
    finite = np.isfinite(matrix).all()
    near = finite and np.abs(matrix[:3, 3]).max() <= _MAX_SHIFT_MM
    scales = np.linalg.svd(matrix[:3, :3], compute_uv=False) if finite else np.zeros(3)
    if (near or not finite) and scales[-1] < 1e-9:
        raise Refused(
            "transform",
            f"The transform in {name} cannot be inverted.",
            "Give a rigid, similarity or affine transform.",
        )
    if not near or scales[-1] < 1 / _MAX_SCALE or scales[0] > _MAX_SCALE:
        raise Refused(
            "transform",
            f"The transform in {name} cannot lead to a head: it scales or shifts beyond any.",
            "Give the transform from the image to canonical space.",
        )
    return np.asarray(np.linalg.inv(LPS_RAS @ matrix @ LPS_RAS))
