"""The alignment network at work on a 2D frame: the head's ellipse, its midline, and which end is the face (torch).

    found = align_frame(load_networks("alignment"), frame, fan)      # None where no head can be made out

Directions are those of the frame's plane (``sampling.plane_of``): x along its rows, y along its columns, mm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from USMRISynthesisLib.normalisation.canonical import HC_PLANE_Z_MM, HEAD_LENGTH_MM
from USMRISynthesisLib.normalisation.coordinates import cube_to_world, fit_similarity, rotation_of
from USMRISynthesisLib.normalisation.network import HEAD, SKULL, Prediction, grid
from USMRISynthesisLib.normalisation.network_align import Networks
from USMRISynthesisLib.normalisation.readings import skull_points
from USMRISynthesisLib.normalisation.sampling import Pyramid, plane_of
from USMRISynthesisLib.normalisation.stages import STAGES
from USMRISynthesisLib.volume import Volume

_HEAD_CELLS = 60.0
# An ellipse's skull may lie this far from what the network drew, as a share of its length, before half the trust goes.
_LOOSE = 0.035
_TURN_DEG = 12.0


@dataclass(frozen=True, eq=False)
class Ellipse:
    """centre (2,), semi_axes (2,) minor and major, mm; major (2,): direction of the major axis; residual: rms, mm."""

    centre: np.ndarray
    semi_axes: np.ndarray
    major: np.ndarray
    residual: float


@dataclass(frozen=True, eq=False)
class LocatedFrame:
    """A head in a frame.

    ellipse: outer skull, plane mm, its major axis towards the face. matrix: (4, 4) RAS mm to canonical mm.
    face: logit that the face is where the major axis points; near 0 it is a guess. score: 0-1.
    """

    ellipse: Ellipse
    matrix: np.ndarray
    face: float
    score: float


def align_frame(networks: Networks, frame: Volume, fan: np.ndarray) -> LocatedFrame | None:
    """Where a frame's head lies and which way it looks.

    Args:
        frame: (1, h, w), an admitted frame.
        fan: (1, h, w) bool.
    """
    pyramid = Pyramid(frame, fan)
    ellipse = _outline(networks, pyramid)
    if ellipse is None:
        return None
    form = STAGES["plane"]
    side = form.side_mm * 2 * ellipse.semi_axes[1] / HEAD_LENGTH_MM
    logits, turns = [], []
    for sign in (1.0, -1.0):
        anterior = sign * ellipse.major
        axes = np.column_stack([[anterior[1], -anterior[0]], anterior])
        unit = cube_to_world(side, ellipse.centre, axes)
        said = networks("plane", pyramid.cut(unit, form.size))
        logits.append(float(said.upright[0]))
        turns.append(_turn(said))
    best = int(np.argmax(logits))
    if best:
        ellipse = Ellipse(ellipse.centre, ellipse.semi_axes, -ellipse.major, ellipse.residual)
    loose = ellipse.residual / (_LOOSE * 2 * ellipse.semi_axes[1])
    ratio = ellipse.semi_axes[0] / ellipse.semi_axes[1]
    evidence = 2.5 - 2.5 * loose - 2.0 * min(abs(turns[best]) / _TURN_DEG, 3.0) - 4.0 * max(0.0, 0.62 - ratio) / 0.1
    evidence += float(np.clip(max(logits), -3, 1))
    return LocatedFrame(ellipse, to_canonical(frame, ellipse), logits[best] - logits[1 - best],
                        float(1 / (1 + np.exp(-evidence))))


def to_canonical(frame: Volume, ellipse: Ellipse) -> np.ndarray:
    """RAS mm to canonical mm (4, 4): the ellipse's centre to the origin, its major axis to A, 88 mm long.

    The plane's normal that points more to the assumed superior becomes S.
    """
    plane_to_ras, _ = plane_of(frame)
    anterior = plane_to_ras[:3, :2] @ ellipse.major
    superior = plane_to_ras[:3, 2]
    along = superior[2] if abs(superior[2]) > 1e-6 else superior[np.argmax(np.abs(superior) > 1e-6)]
    superior = -superior if along < 0 else superior
    axes = np.stack([np.cross(anterior, superior), anterior, superior])
    centre = plane_to_ras[:3, :2] @ ellipse.centre + plane_to_ras[:3, 3]
    matrix = np.eye(4)
    matrix[:3, :3] = HEAD_LENGTH_MM / (2 * ellipse.semi_axes[1]) * axes
    matrix[:3, 3] = (0, 0, HC_PLANE_Z_MM) - matrix[:3, :3] @ centre
    return matrix


def _outline(networks: Networks, pyramid: Pyramid) -> Ellipse | None:
    """The skull's ellipse: first in the whole fan, then with the head filling the square."""
    centre, side = pyramid.centre, 1.02 * pyramid.extent
    found = None
    size = STAGES["frame"].size
    for _ in range(3):
        unit = cube_to_world(side, centre, np.eye(2))
        said = networks("frame", pyramid.cut(unit, size))
        if float(torch.sigmoid(said.maps[0, HEAD]).sum()) < _HEAD_CELLS:
            return found
        points, weights = skull_points(said.maps[0, SKULL].numpy(), unit)
        ellipse = fit_ellipse(points, weights)
        if ellipse is None:
            return found
        found = ellipse
        centre, side = ellipse.centre, 1.5 * 2 * ellipse.semi_axes[1]
    return found


def fit_ellipse(points: np.ndarray, weights: np.ndarray) -> Ellipse | None:
    """The ellipse through boundary points (m, 2), robustly; None where there is none.

    Direct least squares with the constraint that makes it an ellipse: Fitzgibbon, Pilu and Fisher, IEEE PAMI 1999,
    21(5):476-480; in the block form of Halir and Flusser 1998, which is stable.
    """
    if len(points) < 8:
        return None
    middle, spread = points.mean(axis=0), max(float(points.std()), 1e-9)
    x, y = ((points - middle) / spread).T
    kept = np.asarray(weights, dtype=np.float64)
    ellipse = None
    for _ in range(5):
        quadratic = np.column_stack([x * x, x * y, y * y])
        linear = np.column_stack([x, y, np.ones(len(x))])
        s1, s2, s3 = (a.T @ (kept[:, None] * b) for a, b in
                      ((quadratic, quadratic), (quadratic, linear), (linear, linear)))
        try:
            back = -np.linalg.solve(s3, s2.T)
            reduced = s1 + s2 @ back
            _, vectors = np.linalg.eig(np.array([reduced[2] / 2, -reduced[1], reduced[0] / 2]))
        except np.linalg.LinAlgError:
            return ellipse
        vectors = np.real(vectors)
        good = np.flatnonzero(4 * vectors[0] * vectors[2] - vectors[1] ** 2 > 0)
        if not len(good):
            return ellipse
        conic = np.concatenate([vectors[:, good[0]], back @ vectors[:, good[0]]])
        ellipse, distance = _from_conic(conic, x, y, middle, spread)
        if ellipse is None:
            return None
        sigma = max(float(np.median(np.abs(distance))) * 1.48, 1e-3)
        kept = np.asarray(weights) / (1 + (distance / (2.5 * sigma)) ** 2) ** 2
    return ellipse


def _from_conic(conic: np.ndarray, x: np.ndarray, y: np.ndarray, middle: np.ndarray,
                spread: float) -> tuple[Ellipse | None, np.ndarray]:
    a, b, c, d, e, f = conic
    form = np.array([[a, b / 2], [b / 2, c]])
    centre = -np.linalg.solve(form, [d / 2, e / 2])
    level = float(centre @ form @ centre) - f
    values, axes = np.linalg.eigh(form / level)
    if not (values > 0).all():
        return None, np.zeros(0)
    semi = 1 / np.sqrt(values)  # ascending eigenvalues: the major axis first
    local = (np.stack([x, y], axis=1) - centre) @ axes
    radius = np.linalg.norm(local / semi, axis=1)
    distance = np.linalg.norm(local, axis=1) * (1 - 1 / np.maximum(radius, 1e-6))
    robust = float(np.sqrt(np.mean(np.sort(distance**2)[: max(1, int(0.9 * len(distance)))])))
    return Ellipse(middle + spread * centre, spread * semi[::-1], axes[:, 0], robust * spread), distance


def _turn(said: Prediction) -> float:
    """Degrees by which the dense coordinates would turn the head further; 0 where the ellipse stands as they say."""
    cells = grid(said.coordinates.shape[-1], 2).numpy().reshape(2, -1)
    inside = torch.sigmoid(torch.nn.functional.avg_pool2d(said.maps[:, HEAD:HEAD + 1], 2))[0, 0].numpy().ravel()
    weight = np.where(inside > 0.5, inside, 0) * np.exp(-2 * said.log_sigma[0, 0].numpy().ravel().clip(-6, 1))
    kept = weight > 0
    if kept.sum() < 20:
        return 180.0
    target = cells + said.coordinates[0].numpy().reshape(2, -1)
    try:
        fit = fit_similarity(cells[:, kept].T.astype(np.float64), target[:, kept].T.astype(np.float64),
                             weight[kept].astype(np.float64))
    except ValueError:
        return 180.0
    rotation = rotation_of(fit.matrix)
    return float(np.rad2deg(np.arctan2(rotation[1, 0], rotation[0, 0])))
