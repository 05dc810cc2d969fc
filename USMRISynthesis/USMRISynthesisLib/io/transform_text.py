"""ITK's transform files as text (.tfm, .txt) and in MATLAB's format (.mat), read in Python, whatever the locale."""

from __future__ import annotations

import re
import struct

import numpy as np
import SimpleITK as sitk

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.header import numbers

# Kinds that are linear: ITK's name, and what SimpleITK makes of its parameters.
_LINEAR = {
    "AffineTransform": lambda: sitk.AffineTransform(3),
    "MatrixOffsetTransformBase": lambda: sitk.AffineTransform(3),
    "IdentityTransform": lambda: sitk.Transform(3, sitk.sitkIdentity),
    "TranslationTransform": lambda: sitk.TranslationTransform(3),
    "ScaleTransform": lambda: sitk.ScaleTransform(3),
    "Euler3DTransform": sitk.Euler3DTransform,
    "VersorTransform": sitk.VersorTransform,
    "VersorRigid3DTransform": sitk.VersorRigid3DTransform,
    "Similarity3DTransform": sitk.Similarity3DTransform,
    "ScaleVersor3DTransform": sitk.ScaleVersor3DTransform,
    "ScaleSkewVersor3DTransform": sitk.ScaleSkewVersor3DTransform,
    "ComposeScaleSkewVersor3DTransform": sitk.ComposeScaleSkewVersor3DTransform,
}
_COMPOSITE = "CompositeTransform"
_MAX_TRANSFORMS = 64
_KIND = re.compile(r"(\w+?)_(double|float)_(\d)_(\d)")


def no_transform(name: str) -> Refused:
    """The refusal of another file."""
    return Refused(
        "transform",
        f"{name} is not a transform file.",
        "Give an ITK transform, as Slicer saves it (.tfm, .txt, .h5).",
    )


def parse(data: bytes, name: str) -> np.ndarray:
    """(4, 4), LPS mm, of a text file; several linear transforms in a composite are put together.

    Raises:
        Refused: kind "transform".
    """
    found: list[tuple[str, dict[str, str]]] = []
    for line in data.decode("utf-8", "replace").splitlines():
        key, colon, value = line.partition(":")
        if line.startswith("#") or not colon:
            continue
        if key.strip() == "Transform":
            found.append((value.strip(), {}))
        elif found:
            found[-1][1][key.strip()] = value.strip()
    if not found or len(found) > _MAX_TRANSFORMS:
        raise no_transform(name)
    kinds = [_kind(kind, name) for kind, _ in found]
    if kinds[0] == _COMPOSITE:
        found, kinds = found[1:], kinds[1:]
    elif len(found) > 1:
        raise Refused("transform", f"{name} holds several transforms.", "Save the one that is meant.")
    matrix = np.eye(4)
    for kind, (_, fields) in zip(kinds, found, strict=True):  # of a composite the last is applied first
        matrix = matrix @ _linear(kind, fields.get("Parameters", ""), fields.get("FixedParameters", ""), name)
    return matrix


def _kind(text: str, name: str) -> str:
    match = _KIND.fullmatch(text)
    if match is None:
        raise no_transform(name)
    if (match[3], match[4]) != ("3", "3"):
        raise Refused("transform", f"{name} is not a 3D transform.", "Give a 3D linear transform.")
    if match[1] != _COMPOSITE and match[1] not in _LINEAR:
        raise Refused(
            "transform",
            f"{name} is not a linear transform ({match[1][:60]}).",
            "Give a rigid, similarity or affine transform.",
        )
    return match[1]


def _linear(kind: str, parameters: str, fixed: str, name: str) -> np.ndarray:
    if kind == _COMPOSITE:
        raise no_transform(name)
    try:
        values, centre = numbers(parameters, name), numbers(fixed, name)
    except Refused as error:
        raise no_transform(name) from error
    return _made(kind, values, centre, name)


def _made(kind: str, values: list[float], centre: list[float], name: str) -> np.ndarray:
    transform = _LINEAR[kind]()
    if kind == "IdentityTransform":
        return np.eye(4)
    if len(values) != len(transform.GetParameters()) or not np.isfinite(values + centre).all():
        raise no_transform(name)
    if len(transform.GetFixedParameters()) > len(centre) > 0:
        raise no_transform(name)
    try:
        if centre and transform.GetFixedParameters():  # some kinds have more, which say nothing of where points go
            transform.SetFixedParameters(centre[: len(transform.GetFixedParameters())])
        transform.SetParameters(values)
    except RuntimeError as error:
        raise no_transform(name) from error
    return matrix_of(transform)


def matrix_of(transform: sitk.Transform) -> np.ndarray:
    """(4, 4) of a linear 3D transform."""
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    columns = [np.array(transform.TransformPoint(point)) - origin for point in np.eye(3).tolist()]
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = np.stack(columns, axis=1), origin
    return matrix


def parse_matlab(data: bytes, name: str) -> np.ndarray:
    """(4, 4), LPS mm, of a MATLAB 4 file, as ANTs writes affine transforms. Raises Refused."""
    at = 0
    found: dict[str, list[float]] = {}
    while at + 20 <= len(data) and len(found) < 3:
        kind, rows, columns, imaginary, length = struct.unpack_from("<5i", data, at)
        width = {0: 8, 10: 4}.get(kind)
        if width is None or imaginary or not (0 < length < 256 and 0 <= rows < 4096 and 0 <= columns <= 1):
            break
        start, size = at + 20 + length, rows * columns * width
        if start + size > len(data):
            break
        title = data[at + 20 : start].split(b"\0")[0].decode("ascii", "replace")
        values = np.frombuffer(data, "<f8" if width == 8 else "<f4", rows * columns, start)
        found[title] = [float(value) for value in values]
        at = start + size
    titles = [title for title in found if title != "fixed"]
    if len(titles) != 1 or "fixed" not in found:
        raise no_transform(name)
    kind_name = _kind(titles[0], name)
    if kind_name == _COMPOSITE:
        raise no_transform(name)
    return _made(kind_name, found[titles[0]], found["fixed"], name)


def compose(matrix: np.ndarray) -> bytes:
    """A text file of an affine transform, (4, 4) LPS mm."""
    values = [*matrix[:3, :3].ravel().tolist(), *matrix[:3, 3].tolist()]
    lines = (
        "#Insight Transform File V1.0",
        "#Transform 0",
        "Transform: AffineTransform_double_3_3",
        "Parameters: " + " ".join(repr(float(value)) for value in values),
        "FixedParameters: 0 0 0",
    )
    return ("\n".join(lines) + "\n").encode("ascii")
