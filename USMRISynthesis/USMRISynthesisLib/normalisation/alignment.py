"""From an ultrasound image to canonical space: where the head lies, how large it is, and how sure that is.

The networks (``learned.py``) find a volume's head in any orientation, and a frame's outline. Where their weights or
torch are not there, the skull alone is fitted (``skull.py``), and orientation is assumed, never claimed: a volume's
RAS axes are taken to be the fetal anatomy's to within about 25 degrees. The ellipsoid may tilt a little to outline the
head, but the assumed axes stay: on simulated heads its tilt explained a third of the true pitch and a seventh of the
yaw, and following it made the orientation worse. A frame is taken to show the head-circumference plane, its ellipse's
major axis along +-A. Which end is the face the network says where it is sure, which no real frame could verify;
elsewhere the end nearer to the assumed anterior becomes anterior, and the face is left open.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
from scipy import ndimage

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.normalisation.canonical import (
    HC_PLANE_Z_MM,
    HEAD_LENGTH_MM,
    resample,
)
from USMRISynthesisLib.normalisation.head import Alignment
from USMRISynthesisLib.normalisation.skull import Skull, fit_skull
from USMRISynthesisLib.normalisation.skull_template import RATIOS
from USMRISynthesisLib.volume import Volume

# Gestational ages that are taken as a prior, weeks: the growth standard's.
AGE_WEEKS = (14.0, 42.0)
# Below this an alignment is not to be trusted; the user should look, or give a transform.
LOW_SCORE = 0.5
# Volumes that the network aligned with less than this were turned around now and then (docs/normalisation.md).
SURE_SCORE = 0.8
# The most that a skull is worth in which the network saw no head.
UNSEEN_SCORE = 0.2
# The skull's prominence at which the score is one half, and the step over which it changes, in frames and volumes.
_PROMINENCE = {2: (0.50, 0.05), 3: (0.20, 0.03)}
# A whole skull reaches further down than the ellipsoid that fits its vault, and is a little longer: where the centre
# of the ellipsoid lies above the canonical origin, and its length, both measured on simulated heads.
ELLIPSOID_Z_MM = 2.8
ELLIPSOID_LENGTH_MM = 0.98 * HEAD_LENGTH_MM
# Cells of the working grid along the fan's largest side.
_CELLS = {2: 200, 3: 96}


def possible_age(weeks: float | None) -> float | None:
    """A gestational age in weeks that can be a prior, or None. Raises Refused for any other."""
    if weeks is None or AGE_WEEKS[0] <= weeks <= AGE_WEEKS[1]:
        return weeks
    raise Refused("gestational-age", f"A gestational age of {weeks:g} weeks is outside {AGE_WEEKS[0]:g} to "
                  f"{AGE_WEEKS[1]:g}.", "Give it in weeks, or leave it out.")


def align(volume: Volume, fan: np.ndarray, *, transform: np.ndarray | None = None,
          gestational_age: float | None = None) -> Alignment:
    """Find the head: by the networks where they are installed, else by its skull; the outline alone with a transform.

    Args:
        volume: an admitted ultrasound volume or frame.
        fan: (k, j, i) bool, from the gate.
        transform: (4, 4) RAS mm to canonical mm, kept exactly; its scale should bring the head to 88 mm.
        gestational_age: weeks, where it is known: a prior for the size of a volume's head; a frame shows its own.

    Raises:
        Refused: nothing in the image has a possible size for a head, the transform is not invertible, or no head has
            that age.
        Failed: the network's weights are damaged.
    """
    from USMRISynthesisLib.normalisation import learned

    gestational_age = possible_age(gestational_age)
    model = learned.FRAMES_MODEL if volume.is_frame else learned.MODEL
    if transform is not None or not learned.is_installed(model):
        return align_skull(volume, fan, transform=transform)
    try:
        if volume.is_frame:
            found = learned.outline_by_network(volume, fan)
        else:
            found = learned.align_by_network(volume, fan, gestational_age=gestational_age)
    except (ImportError, OSError):  # no torch, or an installation that broke half-way
        return align_skull(volume, fan)
    if found is not None:
        return found
    outline = align_skull(volume, fan)  # something to show; the network says that it is no head
    return replace(outline, score=min(outline.score, UNSEEN_SCORE))


def align_skull(volume: Volume, fan: np.ndarray, *, transform: np.ndarray | None = None) -> Alignment:
    """Find the head by its skull, or its outline only where the transform is given.

    Args:
        volume: an admitted ultrasound volume or frame.
        fan: (k, j, i) bool, from the gate.
        transform: (4, 4) RAS mm to canonical mm, kept exactly; its scale should bring the head to 88 mm.

    Raises:
        Refused: nothing in the image has a possible size for a head, or the transform is not invertible.
    """
    if transform is not None:
        transform = np.array(transform, dtype=np.float64)
        if transform.shape != (4, 4) or not np.isfinite(transform).all() or np.linalg.det(transform) == 0:
            raise Refused("transform", "The transform given is not an invertible 4x4 matrix.",
                          "Give the matrix from RAS millimetres to canonical space.")
    grid_to_ras, cell_mm, image, inside = _working_grid(volume, fan, transform)
    n = image.ndim
    start = None if transform is None else _expected(transform @ grid_to_ras, n)
    skull = fit_skull(image, inside, cell_mm, start=start)
    if skull is None:
        raise Refused("head", "Nothing in the image has a possible size for a fetal head.",
                      "Check the voxel size, or give the transform to canonical space.")
    half, step = _PROMINENCE[n]
    score = float(1 / (1 + np.exp(-(skull.prominence - half) / step)))
    if transform is None:
        matrix = _similarity(skull, grid_to_ras)
        method = "ellipse" if n == 2 else "ellipsoid"
    else:
        matrix, method = transform, "given"
        if start is not None and score < LOW_SCORE:
            skull = start  # no skull is seen there: a head of the usual proportions stands for it
    centre, semi_axes, rotation = _in_canonical(skull, matrix @ grid_to_ras)
    return Alignment(matrix, centre, semi_axes, rotation, score, method)


def _working_grid(volume: Volume, fan: np.ndarray,
                  transform: np.ndarray | None) -> tuple[np.ndarray, float, np.ndarray, np.ndarray]:
    """The fan's surroundings on an isotropic grid along the head's axes as assumed or given; for a frame, along
    its own rows and columns. It depends on what lies where, not on the grid the image was saved on.

    Returns:
        grid_to_ras (4, 4) from cells x, y, z; a cell's size in mm; image and fan, (j, i) or (k, j, i).
    """
    to_ras = volume.ijk_to_ras
    if volume.is_frame:
        n = 2
        rows = to_ras[:3, 0] / np.linalg.norm(to_ras[:3, 0])
        normal = np.cross(rows, to_ras[:3, 1])
        normal /= np.linalg.norm(normal)
        basis = np.column_stack([rows, np.cross(normal, rows), normal])
    else:
        n = 3
        basis = np.eye(3) if transform is None else _nearest_rotation(transform[:3, :3]).T
    along = basis.T @ (to_ras[:3, :3] @ _row_ends(fan) + to_ras[:3, 3:])
    extent = np.ptp(along, axis=1)
    cell = float(extent.max()) / _CELLS[n]
    first = along.min(axis=1)
    grid_to_ras = np.eye(4)
    grid_to_ras[:3, :3] = basis * cell
    grid_to_ras[:3, 3] = basis @ first
    shape = tuple(max(8, int(np.ceil(e / cell - 1e-6)) + 1) for e in extent[:n][::-1])
    to_input = np.linalg.inv(to_ras) @ grid_to_ras
    array, mask = volume.array, fan
    if n == 2:
        array, mask, to_input = array[0], mask[0], to_input[np.ix_([0, 1, 3], [0, 1, 3])]
    darkest = float(array.min())
    image = resample(array, to_input, shape, 1, darkest) - np.float32(darkest)
    inside = resample(mask, to_input, shape, 1, 0.0) > 0.5
    return grid_to_ras, cell, ndimage.gaussian_filter(image, 0.4 if n == 2 else 0.8), inside


def _row_ends(fan: np.ndarray) -> np.ndarray:
    """(3, m) i, j, k of the first and the last fan voxel of each row: whichever way one looks, the outermost is one."""
    k, j = np.nonzero(fan.any(axis=2))
    rows = fan[k, j]
    ends = np.concatenate([rows.argmax(axis=1), fan.shape[2] - 1 - rows[:, ::-1].argmax(axis=1)])
    return np.stack([ends, np.tile(j, 2), np.tile(k, 2)])


def _nearest_rotation(matrix: np.ndarray) -> np.ndarray:
    """The orthogonal factor (3, 3) of a 3x3 matrix."""
    u, _, v = np.linalg.svd(matrix)
    return u @ v


def _expected(cells_to_canonical: np.ndarray, n: int) -> Skull:
    """The skull of usual proportions that a given transform implies, in cells."""
    if n == 2:
        linear, offset = cells_to_canonical[:2, :2], cells_to_canonical[:2, 3]
    else:
        linear, offset = cells_to_canonical[:3, :3], cells_to_canonical[:3, 3] - (0, 0, ELLIPSOID_Z_MM)
    back = np.linalg.inv(linear)
    scale = abs(np.linalg.det(back)) ** (1 / n)
    u, _, v = np.linalg.svd(back)
    length = HEAD_LENGTH_MM if n == 2 else ELLIPSOID_LENGTH_MM
    return Skull(-back @ offset, length / 2 * scale * np.insert(RATIOS[n], 1, 1.0), u @ v)


def from_outline(skull: Skull, plane_to_ras: np.ndarray, score: float, *,
                 front: np.ndarray | None = None) -> Alignment:
    """The alignment of a frame whose head's ellipse a network found.

    Args:
        skull: in the frame's plane, semi-axes (minor, major) mm. plane_to_ras: (4, 4), orthonormal.
        score: 0-1. front: (3,) RAS direction towards the face; None leaves open which end that is.
    """
    matrix = _similarity(skull, plane_to_ras, front)
    return Alignment(matrix, *_in_canonical(skull, matrix @ plane_to_ras), score, "network")


def _similarity(skull: Skull, grid_to_ras: np.ndarray, front: np.ndarray | None = None) -> np.ndarray:
    """RAS mm to canonical mm: the skull's centre to the origin and its length to 88 mm.

    A frame's major axis goes to A, towards `front` where it is given; a volume keeps the axes assumed.
    """
    n = len(skull.centre)
    cell = np.linalg.norm(grid_to_ras[:3, 0])
    basis = grid_to_ras[:3, :3] / cell
    if n == 2:
        anterior = basis[:, :2] @ skull.rotation[:, 1]
        superior = basis[:, 2]
        backwards = _points_backwards(anterior, 1) if front is None else anterior @ front < 0
        anterior = -anterior if backwards else anterior
        superior = -superior if _points_backwards(superior, 2) else superior
        axes = np.stack([np.cross(anterior, superior), anterior, superior])
    else:
        axes = basis.T
    centre = grid_to_ras[:3, :n] @ skull.centre + grid_to_ras[:3, 3]
    matrix = np.eye(4)
    length, z = (HEAD_LENGTH_MM, HC_PLANE_Z_MM) if n == 2 else (ELLIPSOID_LENGTH_MM, ELLIPSOID_Z_MM)
    matrix[:3, :3] = length / (2 * skull.semi_axes[1] * cell) * axes
    matrix[:3, 3] = (0, 0, z) - matrix[:3, :3] @ centre
    return matrix


def _points_backwards(direction: np.ndarray, axis: int) -> bool:
    """Whether a direction is more than 90 degrees off a RAS axis; exactly across, its first component decides."""
    along = direction[axis] if abs(direction[axis]) > 1e-6 else direction[np.argmax(np.abs(direction) > 1e-6)]
    return bool(along < 0)


def _in_canonical(skull: Skull, cells_to_canonical: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre (3,), semi-axes (3,) and rotation (3, 3) of the skull in canonical mm."""
    n = len(skull.centre)
    centre = cells_to_canonical[:3, :n] @ skull.centre + cells_to_canonical[:3, 3]
    # A transform that was given may shear; the image of an ellipsoid is one all the same.
    u, semi, _ = np.linalg.svd(cells_to_canonical[:n, :n] @ skull.rotation * skull.semi_axes)
    order = _order_along(u)
    semi_axes, rotation = np.zeros(3), np.eye(3)
    u = u[:, order]
    semi_axes[:n], rotation[:n, :n] = semi[order], u * np.where(np.diag(u) < 0, -1, 1)
    return centre, semi_axes, rotation


def _order_along(directions: np.ndarray) -> list[int]:
    """Which column lies nearest to x, y(, z), each used once."""
    orders = list(permutations(range(len(directions))))
    return list(max(orders, key=lambda order: float(np.abs(np.diag(directions[:, list(order)])).sum())))
