"""Finding the outer skull: an ellipse in a frame, an ellipsoid in a volume, by the same method.

The skull is a thick bright ring with a dark inside, broken by shadows and where it runs along the beam; maternal
tissue outside can be as bright. So an ellipse is scored on 16 copies of it, shrunk and grown about
its centre: the mean over all directions of the image, in two channels, times a template learnt from annotated
frames. Both channels saturate, so that no single echo decides, and directions without signal only count as
zero. The best ellipses of a coarse exhaustive correlation (in the Fourier domain) are refined by Nelder-Mead.

Everything here is in the cells of one isotropic working grid; axes are ordered x, y(, z), and the head's
semi-axes R, A(, S): in a frame (minor, major).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from scipy import ndimage
from scipy.linalg import polar
from scipy.spatial.transform import Rotation
from scipy.special import expit

from USMRISynthesisLib.alignment.common.confidence import MIN_CONFIDENCE
from USMRISynthesisLib.alignment.skull import search
from USMRISynthesisLib.alignment.skull.template import (
    RATIOS,
    contrast_and_brightness,
    prominence,
    rotation_of,
    template,
)
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.geometry.canonical import HC_PLANE_Z_MM, HEAD_LENGTH_MM, resample
from USMRISynthesisLib.geometry.ellipse import Ellipse
from USMRISynthesisLib.geometry.head import Alignment
from USMRISynthesisLib.io.volume import Volume

# The skull's prominence at which the score is one half, and the step over which it changes, in frames and volumes.
_PROMINENCE = {2: (0.50, 0.05), 3: (0.20, 0.03)}
# A whole skull reaches further down than the ellipsoid that fits its vault, and is a little longer: where the centre
# of the ellipsoid lies above the canonical origin, and its length, both measured on simulated heads.
ELLIPSOID_Z_MM = 2.8
ELLIPSOID_LENGTH_MM = 0.98 * HEAD_LENGTH_MM
# Cells of the working grid along the fan's largest side.
_CELLS = {2: 200, 3: 96}


@dataclass(frozen=True)
class Skull:
    """An ellipse or ellipsoid in cells.

    Attributes:
        centre: (n,).
        semi_axes: (n,), ordered R, A(, S).
        rotation: (n, n), whose columns are those axes.
        prominence: local contrast of the ring above what lies inside and outside it; 0.8 is a clear skull, 0.4 is
            what noise offers in a frame, 0.1 in a volume.
    """

    centre: np.ndarray
    semi_axes: np.ndarray
    rotation: np.ndarray
    prominence: float = 0.0


def fit_skull(image: np.ndarray, fan: np.ndarray, cell_mm: float, *, start: Skull | None = None) -> Skull | None:
    """Find the skull.

    Args:
        image: (j, i) or (k, j, i) on an isotropic grid, smoothed to its cells. In 3D the grid's axes are R, A, S
            of the fetus to within 25 degrees.
        fan: same shape, bool.
        cell_mm: size of a cell.
        start: search only near this one.

    Returns:
        The best ellipse or ellipsoid, or None where no candidate has a possible size.
    """
    channels = contrast_and_brightness(image.astype(np.float32), fan)
    n = image.ndim
    parameters = search.best(channels, cell_mm, template(n), None if start is None else _parameters(start))
    if parameters is None:
        return None
    centre, semi_axes, rotation = parameters[:n], np.exp(parameters[n : 2 * n]), rotation_of(parameters)
    if n == 2 and semi_axes[0] > semi_axes[1]:
        semi_axes, rotation = semi_axes[::-1], rotation[:, ::-1] * [1, -1]
    return Skull(centre, semi_axes, rotation, prominence(channels, parameters))


def _parameters(skull: Skull) -> np.ndarray:
    """(5,) or (8,): centre, logarithms of the semi-axes, angles."""
    n = len(skull.centre)
    if n == 2:
        angles = np.array([np.arctan2(skull.rotation[1, 0], skull.rotation[0, 0])])
    else:
        angles = Rotation.from_matrix(skull.rotation).as_rotvec()[[0, 2]]
    return np.concatenate([skull.centre, np.log(skull.semi_axes), angles])


def align_skull(volume: Volume, fan: np.ndarray, *, transform: np.ndarray | None = None) -> Alignment:
    """Find the head by its skull, or its outline only where the transform is given.

    Args:
        volume: an admitted ultrasound volume or frame.
        fan: (k, j, i) bool, from the gate.
        transform: (4, 4) RAS mm to canonical mm, kept exactly; its scale should bring the head to 88 mm.

    Raises:
        Refused: nothing in the image has a possible size for a head, or the transform is not invertible.
    """
    transform = None if transform is None else checked_transform(transform)
    grid_to_ras, cell_mm, image, inside = _working_grid(volume, fan, transform)
    n = image.ndim
    start = None if transform is None else _expected(transform @ grid_to_ras, n)
    skull = fit_skull(image, inside, cell_mm, start=start)
    if skull is None:
        raise Refused(
            "head",
            "Nothing in the image has a possible size for a fetal head.",
            "Check the voxel size, or give the transform to canonical space.",
        )
    half, step = _PROMINENCE[n]
    score = float(expit((skull.prominence - half) / step))
    if transform is None:
        matrix = _similarity(skull, grid_to_ras)
        method = "ellipse" if n == 2 else "ellipsoid"
    else:
        matrix, method = transform, "given"
        if start is not None and not score >= MIN_CONFIDENCE:
            skull = start  # no skull is visible: the usual proportions are used
    centre, semi_axes, rotation = _in_canonical(skull, matrix @ grid_to_ras)
    return Alignment(matrix, centre, semi_axes, rotation, score, method)


def checked_transform(transform: np.ndarray) -> np.ndarray:
    """A given transform as float64. Raises Refused where it is no invertible 4x4 matrix of finite numbers."""
    transform = np.array(transform, dtype=np.float64)
    if transform.shape != (4, 4) or not np.isfinite(transform).all() or np.linalg.det(transform) == 0:
        raise Refused(
            "transform",
            "The transform given is not an invertible 4x4 matrix.",
            "Give the matrix from RAS millimetres to canonical space.",
        )
    return transform


def _working_grid(
    volume: Volume, fan: np.ndarray, transform: np.ndarray | None
) -> tuple[np.ndarray, float, np.ndarray, np.ndarray]:
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
        basis = np.eye(3) if transform is None else polar(transform[:3, :3])[0].T
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
    """(3, m) i, j, k of the first and the last fan voxel of each row: the extreme voxels in any direction are among
    them."""
    k, j = np.nonzero(fan.any(axis=2))
    rows = fan[k, j]
    ends = np.concatenate([rows.argmax(axis=1), fan.shape[2] - 1 - rows[:, ::-1].argmax(axis=1)])
    return np.stack([ends, np.tile(j, 2), np.tile(k, 2)])


def _expected(cells_to_canonical: np.ndarray, n: int) -> Skull:
    """The skull of usual proportions that a given transform implies, in cells."""
    if n == 2:
        linear, offset = cells_to_canonical[:2, :2], cells_to_canonical[:2, 3]
    else:
        linear, offset = cells_to_canonical[:3, :3], cells_to_canonical[:3, 3] - (0, 0, ELLIPSOID_Z_MM)
    back = np.linalg.inv(linear)
    scale = abs(np.linalg.det(back)) ** (1 / n)
    length = HEAD_LENGTH_MM if n == 2 else ELLIPSOID_LENGTH_MM
    return Skull(-back @ offset, length / 2 * scale * np.insert(RATIOS[n], 1, 1.0), polar(back)[0])


def from_outline(skull: Skull, plane_to_ras: np.ndarray, score: float, *, front: np.ndarray | None = None) -> Alignment:
    """The alignment of a frame whose head's ellipse a network found.

    Args:
        skull: in the frame's plane, semi-axes (minor, major) mm. plane_to_ras: (4, 4), orthonormal.
        score: 0-1. front: (3,) RAS direction towards the face; None leaves open which end that is.
    """
    matrix = _similarity(skull, plane_to_ras, front)
    return Alignment(matrix, *_in_canonical(skull, matrix @ plane_to_ras), score, "network")


def given_ellipse(transform: np.ndarray, ellipse: Ellipse, plane_to_ras: np.ndarray, score: float) -> Alignment:
    """The alignment of a frame whose transform is given and whose head's ellipse a network found.

    Args:
        transform: (4, 4) RAS mm to canonical mm. ellipse: in the frame's plane, mm. plane_to_ras: (4, 4), orthonormal.
        score: 0-1.
    """
    major, minor = ellipse.directions.T
    skull = Skull(ellipse.centre, ellipse.semi_axes[::-1], np.column_stack([minor, major]))
    return Alignment(transform, *_in_canonical(skull, transform @ plane_to_ras), score, "given")


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
