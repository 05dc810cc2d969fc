"""The transform between an image and canonical space as a file that ITK, elastix and Slicer read.

ITK files hold the transform that *resampling* needs: it maps a point of the output, canonical space, to the
input, in LPS mm. So `sitk.Resample(ultrasound, canonical_grid, transform)` gives the canonical image, and
Slicer, which inverts on reading, gets a node that carries the ultrasound into canonical space. In memory
there is `ras_to_canonical`: input to canonical, RAS mm. It is converted here and nowhere else.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from USMRISynthesisLib.errors import Failed, Refused
from USMRISynthesisLib.geometry.canonical import LPS_RAS

FORMATS = (".tfm", ".txt", ".h5")


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
            sitk.WriteTransform(transform, str(staged))
            os.replace(staged, path)
    except (OSError, RuntimeError) as error:
        raise Failed(
            "write", f"Writing {path.name} failed.", "Check free space and permissions of the folder."
        ) from error


def read_transform(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an ITK transform file as `(4, 4)` ras_to_canonical. Raises Refused when it is no linear one."""
    path = Path(path)
    if not path.is_file():
        raise Refused("transform", f"There is no transform file {path.name}.", "Check the path.")
    try:
        transform = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        raise Refused(
            "transform",
            f"{path.name} is not a transform file.",
            "Give an ITK transform, as Slicer saves it (.tfm, .txt, .h5).",
        ) from error
    if transform.GetDimension() != 3:
        raise Refused("transform", f"{path.name} is not a 3D transform.", "Give a 3D linear transform.")
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    columns = [np.array(transform.TransformPoint(point)) - origin for point in np.eye(3).tolist()]
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = np.stack(columns, axis=1), origin
    probe = np.array([37.0, -53.0, 61.0])
    if not np.allclose(transform.TransformPoint(probe.tolist()), matrix[:3, :3] @ probe + origin, atol=1e-3):
        raise Refused(
            "transform", f"{path.name} is not a linear transform.", "Give a rigid, similarity or affine transform."
        )
    if abs(np.linalg.det(matrix[:3, :3])) < 1e-9:
        raise Refused(
            "transform",
            f"The transform in {path.name} cannot be inverted.",
            "Give a rigid, similarity or affine transform.",
        )
    return np.linalg.inv(LPS_RAS @ matrix @ LPS_RAS)
