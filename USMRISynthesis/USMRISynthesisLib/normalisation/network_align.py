"""The alignment network at work on a volume: locate, orient among hypotheses, refine, and what to make of it.

    networks = load_networks("alignment")
    found = align_volume(networks, volume, fan)          # None where no head can be made out

torch is imported with this module: nothing that Slicer loads at its start imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from USMRISynthesisLib import weights
from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.normalisation import pose as poses
from USMRISynthesisLib.normalisation.canonical import HEAD_LENGTH_MM
from USMRISynthesisLib.normalisation.coordinates import (
    Fit,
    angle_deg,
    cube_rotations,
    cube_to_world,
    rotation_of,
    scale_of,
)
from USMRISynthesisLib.normalisation.network import (
    BRAIN,
    HEAD,
    SKULL,
    Prediction,
    grid,
)
from USMRISynthesisLib.normalisation.readings import (
    HEAD_CELLS,
    dense_fit,
    eyes_of,
    mask_agreement,
    midplane_of,
    size_misfit,
    skull_points,
    structures_of,
    symmetric_frame_of,
)
from USMRISynthesisLib.normalisation.sampling import Pyramid
from USMRISynthesisLib.normalisation.stages import NETWORKS, STAGES
from USMRISynthesisLib.normalisation.trust import DEFAULT, Calibration, Evidence, score
from USMRISynthesisLib.volume import Volume

TASK = "alignment"
_CANDIDATES = 4  # hypotheses that are followed up
_HYPOTHESES_AT_ONCE = 8
_NOD_DEG = 25.0
_STRUCTURE_LOGIT = 4.0
_APART_DEG = 45.0
_REFINEMENTS = 2
# Of the error that a cell expects of its coordinates, how much is common to all cells: it does not average out.
_DENSE_SPREAD = 1.0


@dataclass(eq=False)
class Networks:
    """The networks by name, in evaluation mode on the CPU, and the trust calibration that belongs to them."""

    parts: Mapping[str, Callable[[Tensor], tuple[Tensor, ...]]]
    calibration: Calibration = DEFAULT
    name: str = TASK

    def __call__(self, stage: str, x: Tensor) -> Prediction:
        with torch.inference_mode():
            return Prediction(*(value.float() for value in self.parts[STAGES[stage].network](x)))


@dataclass(frozen=True, eq=False)
class Located:
    """A head as the network sees it.

    matrix: (4, 4) RAS mm to canonical mm, a similarity. ellipsoid: of the outer skull, canonical mm.
    eyes: (2, 3) left and right, canonical mm, with eye_weights (2,) 0-1. brain: (s, s, s) probability on the
    cube brain_to_canonical (4, 4) of its unit coordinates. coarse: (4, 4), the pose before refinement.
    """

    matrix: np.ndarray
    ellipsoid: poses.Ellipsoid
    eyes: np.ndarray
    eye_weights: np.ndarray
    brain: np.ndarray
    brain_to_canonical: np.ndarray
    coarse: np.ndarray
    evidence: Evidence
    score: float


@dataclass(frozen=True, eq=False)
class _Pose:
    """One hypothesis: the cube it was judged in, its logit, and the pose that its dense coordinates give."""

    logit: float
    fit: Fit


@dataclass(frozen=True, eq=False)
class _Place:
    """centre (3,) and length of the head in RAS mm; axes (3, 3): R, A, S as columns, up to half turns.

    structures, eyes (3,) between both, eye_weight 0-1: what tells the half turns apart, RAS mm.
    """

    centre: np.ndarray
    length: float
    axes: np.ndarray
    structures: poses.Structures
    eyes: np.ndarray
    eye_weight: float


_loaded: dict[str, Networks] = {}


def load_networks(model: str = TASK, *, consent: weights.Consent | None = None) -> Networks:
    """The networks of a model folder; the hash is checked every time, the preparation is done once.

    Raises Failed (no such model, hash, another task) and ConsentNeeded.
    """
    manifest, content = weights.verified_bytes(weights.find_model(model), consent=consent)
    if manifest.task != TASK:
        raise Failed("task", f"The model {manifest.name!r} is made for {manifest.task!r}, not for alignment.",
                     "Choose an alignment model.")
    if manifest.sha256 not in _loaded:
        module = weights.from_bytes(content, manifest.name, "cpu").float()
        try:
            calibration = Calibration.from_json(manifest.extra["trust"]) if "trust" in manifest.extra else DEFAULT
            parts = {name: torch.jit.freeze(getattr(module, name).eval()) for name in NETWORKS if hasattr(module, name)}
        except (ValueError, RuntimeError) as error:
            raise Failed("model", f"The model {manifest.name!r} is no alignment model of this version.",
                         "Export it again, or choose another model.") from error
        _loaded.clear()
        _loaded[manifest.sha256] = Networks(parts, calibration, manifest.name)
    return _loaded[manifest.sha256]


def align_volume(networks: Networks, volume: Volume, fan: np.ndarray, *,
                 gestational_age: float | None = None) -> Located | None:
    """Where a volume's head lies, in any orientation.

    Args:
        volume: an admitted 3D volume.
        fan: (k, j, i) bool.
        gestational_age: weeks; a prior for the head's size.

    Returns:
        None where the network sees no head at all.
    """
    pyramid = Pyramid(volume, fan)
    place = _locate(networks, pyramid)
    if place is None:
        return None
    hypotheses = _orient(networks, pyramid, place)
    if not hypotheses:
        return None
    best, margin = hypotheses[0], _margin(hypotheses)
    return _refine(networks, pyramid, best, margin, gestational_age)


def align_from(networks: Networks, volume: Volume, fan: np.ndarray, start: np.ndarray, *,
               margin: float = 0.0) -> Located | None:
    """The refinement alone, from a similarity (4, 4) that is roughly right; None where no head is seen there."""
    return _refine(networks, Pyramid(volume, fan), _Pose(0.0, Fit(start, scale_of(start), 0.0, 1.0, 0.0)), margin, None)


def _locate(networks: Networks, pyramid: Pyramid) -> _Place | None:
    """Where the head is, first in the whole fan, then with the head filling the cube."""
    centre, side = pyramid.centre, 1.02 * pyramid.extent
    found: _Place | None = None
    for _ in range(2):
        unit = cube_to_world(side, centre, np.eye(3))
        said = networks("locate", pyramid.cut(unit, STAGES["locate"].size))
        share = torch.sigmoid(said.maps[0, HEAD]).numpy()
        share = np.where(share > 0.3, share, 0)
        size = share.shape[0]
        if share.sum() < HEAD_CELLS:
            return found
        places = grid(size).numpy().reshape(3, -1)
        middle = places @ share.ravel() / share.sum()
        centre = unit[:3, :3] @ middle + unit[:3, 3]
        length = HEAD_LENGTH_MM / poses.SKULL_CUBE_ROOT_MM * float(np.cbrt(share.sum())) * side / size
        unit = cube_to_world(side, unit[:3, 3], np.eye(3))
        midplane = midplane_of(said, share, unit, length)
        eyes, eye_weights = eyes_of(said, unit)
        found = _Place(centre, length, symmetric_frame_of(share, unit, midplane), structures_of(said, unit, midplane),
                       eyes[0], float(eye_weights[0]))
        side = 1.7 * length
    return found


def _orient(networks: Networks, pyramid: Pyramid, place: _Place) -> list[_Pose]:
    """Hypotheses of the head's pose, the best first.

    First looks: the head's frame as the midline gives it, under all of the cube's rotations (half turns are what it
    leaves open; quarter turns are there for a long axis that was mistaken), and nodding forwards and backwards,
    because a skull is nearly round in the midplane. Then a second look at the best of them.
    """
    form = STAGES["orient"]
    side = form.side_mm * place.length / HEAD_LENGTH_MM
    axes = [place.axes @ turn for turn in cube_rotations()]
    axes += [place.axes @ turn @ _nod(angle) for turn in cube_rotations() if np.trace(np.abs(turn)) == 3
             for angle in (-_NOD_DEG, _NOD_DEG)]
    looks = []
    for first in range(0, len(axes), _HYPOTHESES_AT_ONCE):
        units = [cube_to_world(side, place.centre, some) for some in axes[first:first + _HYPOTHESES_AT_ONCE]]
        said = networks("orient", torch.cat([pyramid.cut(unit, form.size) for unit in units]))
        looks += [(float(said.upright[n]) + _prior(place, unit), said, n, unit) for n, unit in enumerate(units)]
    looks.sort(key=lambda look: -look[0])
    followed: list[_Pose] = []
    for _, said, n, unit in looks:
        fit = dense_fit(said, n, unit, "orient")
        if fit is None or any(_near(fit, pose.fit) for pose in followed):
            continue
        unit = _cube_of(fit.matrix, form.side_mm)
        again = networks("orient", pyramid.cut(unit, form.size))
        second = dense_fit(again, 0, unit, "orient")
        if second is not None and not any(_near(second, pose.fit) for pose in followed):
            followed.append(_Pose(float(again.upright[0]) + _prior(place, unit), second))
        if len(followed) == _CANDIDATES:
            break
    return sorted(followed, key=lambda pose: -pose.logit)


def _prior(place: _Place, unit: np.ndarray) -> float:
    """What the structures' directions say of a cube's orientation, as a logit."""
    axes = unit[:3, :3] / scale_of(unit)
    seen = min(1.0, float(place.structures.weights.sum()) + place.eye_weight)
    return _STRUCTURE_LOGIT * seen * poses.agreement(axes, place.centre, place.structures, place.eyes, place.eye_weight)


def _nod(angle_deg_: float) -> np.ndarray:
    """A rotation about the head's left-right axis."""
    c, s = np.cos(np.deg2rad(angle_deg_)), np.sin(np.deg2rad(angle_deg_))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def _near(first: Fit, second: Fit) -> bool:
    return angle_deg(rotation_of(first.matrix), rotation_of(second.matrix)) < _APART_DEG / 2


def _margin(hypotheses: list[_Pose]) -> float:
    """How much better the best is than the best that stands otherwise; none found otherwise is a clear win."""
    best = hypotheses[0]
    rotation = rotation_of(best.fit.matrix)
    others = [pose.logit for pose in hypotheses[1:]
              if angle_deg(rotation, rotation_of(pose.fit.matrix)) > _APART_DEG]
    return best.logit - max(others, default=best.logit - 6.0)


def _cube_of(matrix: np.ndarray, side_mm: float) -> np.ndarray:
    """`unit_to_world` of the cube of this canonical side about the canonical origin, under a pose."""
    return np.asarray(np.linalg.inv(matrix) @ np.diag([side_mm / 2] * 3 + [1.0]))


def _refine(networks: Networks, pyramid: Pyramid, best: _Pose, margin: float,
            gestational_age: float | None) -> Located | None:
    form = STAGES["refine"]
    coarse = fit = best.fit
    turn = move = 0.0
    said, unit = None, np.eye(4)
    for _ in range(_REFINEMENTS):
        unit = _cube_of(fit.matrix, form.side_mm)
        said = networks("refine", pyramid.cut(unit, form.size))
        dense = dense_fit(said, 0, unit, "refine")
        if dense is None:
            return None
        following = _fused(said, dense, unit)
        turn = angle_deg(rotation_of(following.matrix), rotation_of(fit.matrix))
        back = np.linalg.inv(fit.matrix)[:3, 3]
        move = float(np.linalg.norm(following.matrix[:3, :3] @ back + following.matrix[:3, 3]))
        fit = following
    assert said is not None
    to_canonical = fit.matrix @ unit
    points, boundary_weights = skull_points(said.maps[0, SKULL].numpy(), to_canonical)
    try:
        skull = poses.fit_ellipsoid(points, np.eye(3), boundary_weights, prior=200.0)
    except ValueError:
        skull = poses.Ellipsoid(poses.SKULL_CENTRE_MM, poses.SKULL_SEMI_AXES_MM, np.eye(3), 20.0)
    eyes, eye_weights = eyes_of(said, to_canonical)
    head = torch.sigmoid(said.maps[0, HEAD]).numpy()
    evidence = Evidence(
        upright=float(said.upright[0]), margin=margin, residual_mm=fit.residual, inliers=fit.inliers, turn_deg=turn,
        move_mm=move, skull_mm=skull.residual, size=size_misfit(head, to_canonical),
        mask=mask_agreement(head, skull, to_canonical))
    matrix = fit.matrix
    if gestational_age is not None:
        spread = 0.02 + 0.01 * fit.residual
        aged = poses.with_age(matrix, gestational_age, spread=spread, centre=skull.centre)
        change = aged @ np.linalg.inv(matrix)
        factor = scale_of(change)
        skull = replace(skull, semi_axes=skull.semi_axes * factor)
        eyes = eyes @ change[:3, :3].T + change[:3, 3]
        matrix, to_canonical = aged, change @ to_canonical
    return Located(matrix, skull, eyes, eye_weights, torch.sigmoid(said.maps[0, BRAIN]).numpy(), to_canonical,
                   coarse.matrix, evidence, score(evidence, networks.calibration))


def _fused(said: Prediction, dense: Fit, unit: np.ndarray) -> Fit:
    """The dense coordinates' pose with skull, eyes, face, posterior fossa and midplane, each by how sure it is."""
    back = np.linalg.inv(dense.matrix)
    length = HEAD_LENGTH_MM / dense.scale
    share = torch.sigmoid(said.maps[0, HEAD]).numpy()
    share = np.where(share > 0.3, share, 0)
    structures = structures_of(said, unit, midplane_of(said, share, unit, length))
    points, weights = skull_points(said.maps[0, SKULL].numpy(), unit)
    try:
        skull = poses.fit_ellipsoid(points, poses.head_axes(dense.matrix), weights, prior=200.0)
    except ValueError:
        skull = None
    inside = torch.nn.functional.max_pool3d(said.maps[:, HEAD:HEAD + 1], 2)[0, 0] > 0
    sigma = torch.exp(said.log_sigma[0, 0].clamp(-6, 1))[inside]
    spread = max(1.0, _DENSE_SPREAD * float(sigma.mean()) * STAGES["refine"].side_mm / 2) if len(sigma) else 10.0
    eyes, eye_weights = eyes_of(said, unit)
    matrix = poses.parametric(skull, eyes, np.where(eye_weights > 0.5, eye_weights, 0), dense.matrix,
                              pose_spread_mm=spread, structures=structures)
    off = matrix @ back
    return replace(dense, matrix=matrix, scale=scale_of(matrix),
                   residual=float(np.hypot(dense.residual, np.linalg.norm(off[:3, 3]) / 4)))
