"""Slices along other axes of canonical space than the axial, and all three planes.

A stack (k, j, i) of canonical space read in a plane has that plane's slices along its first axis; rows and columns run
towards the front or the top, and to the right or the front:

    axial      (k, j, i)   slices along z, rows y, columns x
    coronal    (j, k, i)   slices along y, rows z, columns x
    sagittal   (i, k, j)   slices along x, rows z, columns y

numpy only: the choices are needed where torch is not installed.
"""

from __future__ import annotations

import numpy as np

from USMRISynthesisLib.errors import Refused

PLANES = ("axial", "coronal", "sagittal")
ALL = "all"
CHOICES = (*PLANES, ALL)
_AXES = {"axial": (0, 1, 2), "coronal": (1, 0, 2), "sagittal": (2, 0, 1)}
_CODES = {"axial": -1.0, "coronal": 0.0, "sagittal": 1.0}


def to_plane(stack: np.ndarray, plane: str) -> np.ndarray:
    """A view of (k, j, i) with the plane's slices along the first axis."""
    return stack.transpose(_AXES[plane])


def from_plane(stack: np.ndarray, plane: str) -> np.ndarray:
    """The inverse of `to_plane`: a view (k, j, i)."""
    return stack.transpose(np.argsort(_AXES[plane]))


def plane_code(plane: str, planes: tuple[str, ...]) -> float | None:
    """The value of the input's constant channel that names the plane; None for a model of one plane."""
    return _CODES[plane] if len(planes) > 1 else None


def chosen_planes(planes: str | None, known: tuple[str, ...]) -> str:
    """One of CHOICES: what was chosen, or where nothing was, all planes if the model was trained on them, else its
    first."""
    if planes is not None:
        return planes
    return ALL if supported_planes(ALL, known) is not None else known[0]


def resolve_planes(planes: str, known: tuple[str, ...], model: str) -> tuple[str, ...]:
    """The planes behind a choice, for a model trained on the planes `known`. Raises Refused if it lacks one of them."""
    wanted = supported_planes(planes, known)
    if wanted is None:
        raise Refused("planes", f"The model {model!r} takes {' and '.join(known)} slices, not {planes!r}.",
                      f"Choose {' or '.join(known)}, or another model.")  # fmt: skip
    return wanted


def supported_planes(planes: str, known: tuple[str, ...]) -> tuple[str, ...] | None:
    """The planes behind a choice; None if a model trained on the planes `known` lacks one of them."""
    wanted = PLANES if planes == ALL else (planes,)
    return wanted if set(wanted) <= set(known) else None
