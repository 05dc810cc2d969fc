"""The alignment networks at work on a volume: locate the head, orient it, refine, and what to make of it.

    networks = load_networks("alignment")       # alignment_networks.py
    found = align_volume(networks, volume, fan)          # None where no head can be made out

torch is imported with this module: nothing that Slicer loads at its start imports it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from USMRISynthesisLib.normalisation import pose as poses
from USMRISynthesisLib.normalisation.alignment_networks import Networks
from USMRISynthesisLib.normalisation.canonical import HEAD_LENGTH_MM
from USMRISynthesisLib.normalisation.coordinates import (
    Fit,
    angle_deg,
    cube_rotations,
    cube_to_world,
    random_rotation,
    rotation_of,
    scale_of,
    turn_about_x,
)
from USMRISynthesisLib.normalisation.network import BRAIN, HEAD_FINE, LOG_SIGMA, SKULL, UPRIGHT, Prediction
from USMRISynthesisLib.normalisation.orient import Ballot, counted, cube_axes, other_normals
from USMRISynthesisLib.normalisation.readings import (
    dense_fit,
    eyes_of,
    gradient_of,
    head_place,
    head_share,
    mask_agreement,
    midplane_of,
    size_misfit,
    skull_points,
)
from USMRISynthesisLib.normalisation.sampling import Pyramid
from USMRISynthesisLib.normalisation.stages import STAGES
from USMRISynthesisLib.normalisation.trust import Evidence, score
from USMRISynthesisLib.synthesis.threads import each, threads_on
from USMRISynthesisLib.volume import Volume

_FOLLOWED = 2  # directions that got votes
_CERTAIN = 0.9  # a score that ends the search: what else got votes mostly leads to the same pose
# A wrong pose that looks good mostly has the right midplane, and the head turned in it or the wrong way round through
# it. Where that does not help either, any direction: steps of 45 degrees from the cube's.
_IN_MIDPLANE = [turn_about_x(angle) @ through for through in (np.eye(3), np.diag([-1.0, -1.0, 1.0]))
                for angle in range(0, 360, 45)][1:]  # fmt: skip
_ANYWHERE = [turn @ step for turn in cube_rotations()
             for step in (np.eye(3), *(np.roll(turn_about_x(45.0), n, (0, 1)) for n in range(3)))]  # fmt: skip
_OTHER_TURNS = ((_CERTAIN, _IN_MIDPLANE), (0.8, _ANYWHERE))  # each where the score is no better
# Looks at one direction: so many as a rule, more where the head is on its way (`_Look.turning`), fewer once it settles.
_REFINEMENTS, _MOST_REFINEMENTS, _SETTLED_DEG = 5, 16, 0.5
# A pose that still turns by more than this after its last look is not one: its score is no more than that.
_UNSETTLED_DEG, _UNSETTLED_SCORE = 2.0, 0.4
# Directions in which the midline is looked for: what one of them misjudges the others do not.
_LOOKS = [np.eye(3), *(random_rotation(np.random.default_rng(seed)) for seed in range(3))]


@dataclass(frozen=True, eq=False)
class Located:
    """A head as the networks see it.

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
class _Place:
    """centre (3,) and length of the head in RAS mm, and the normal (3,) of its midplane."""

    centre: np.ndarray
    length: float
    normal: np.ndarray


@dataclass(frozen=True, eq=False)
class _Look:
    """One look of `refine`: what it said of the cube `unit` (4, 4), the fit to that, and the pose (4, 4) that follows.

    start: (4, 4), the pose before the first look. turn_deg, move_mm: from the pose before this one.
    """

    said: Prediction
    unit: np.ndarray
    fit: Fit
    matrix: np.ndarray
    start: np.ndarray
    turn_deg: float
    move_mm: float

    @property
    def upright(self) -> float:
        """Logit of the head standing upright in the cube: of two opposite directions the right one has the higher."""
        return float(self.said.fields[0, UPRIGHT].mean())

    @property
    def turning(self) -> bool:
        """Whether further looks are likely to bring the head home: it turns by much, or begins to stand upright. What
        is stuck in a wrong direction does neither: it sways by a few degrees."""
        return self.turn_deg > 5.0 or self.upright > 1.0


def align_volume(networks: Networks, volume: Volume, fan: np.ndarray, *,
                 gestational_age: float | None = None) -> Located | None:
    """Where a volume's head lies, in any orientation.

    Args:
        volume: an admitted 3D volume.
        fan: (k, j, i) bool.
        gestational_age: weeks; a prior for the head's size.

    Returns:
        None where the networks see no head at all.
    """
    pyramid = Pyramid(volume, fan)
    place = _locate(networks, pyramid)
    if place is None:
        return None
    best: Located | None = None
    of_best: Ballot | None = None
    for n, normal in enumerate(other_normals(place.normal)):  # the first is the one that was found
        ballot = _asked(networks, pyramid, place, normal)
        if ballot is None:
            continue
        for look in _first_looks(networks, pyramid, place, ballot.winners()[: 1 if n else _FOLLOWED]):
            found = _refined(networks, pyramid, ballot, look, gestational_age)
            if found is not None and (best is None or found.score > best.score):
                best, of_best = found, ballot
            if best is not None and best.score > _CERTAIN:
                return best
    if best is None or of_best is None:
        return None
    for enough, turns in _OTHER_TURNS:
        for look in _other_looks(networks, pyramid, best.matrix, turns) if best.score <= enough else ():
            found = _refined(networks, pyramid, of_best, look, gestational_age)
            if found is not None and found.score > best.score:
                best = found
    return best


def align_from(networks: Networks, volume: Volume, fan: np.ndarray, start: np.ndarray) -> Located | None:
    """The refinement from a similarity (4, 4) that is roughly right, judged by all the votes; None without a head."""
    pyramid = Pyramid(volume, fan)
    place = _locate(networks, pyramid)
    ballot = None if place is None else _asked(networks, pyramid, place, place.normal)
    look = _look(networks, pyramid, start)
    return None if ballot is None or look is None else _refined(networks, pyramid, ballot, look, None)


def _locate(networks: Networks, pyramid: Pyramid) -> _Place | None:
    """Where the head is: first in the whole fan, then filling the cube, then from several sides."""
    form = STAGES["locate"]
    centre, side = pyramid.centre, 1.02 * pyramid.extent
    length, midplane = 0.0, None
    for looks in (_LOOKS[:1], _LOOKS[:1], _LOOKS):
        units = [cube_to_world(side, centre, axes) for axes in looks]
        said = _of_cubes(networks, "locate", pyramid, units)
        found = [head_place(one, 0, unit) for one, unit in zip(said, units, strict=True)]
        places = [place for place in found if place is not None]
        if not places:
            return None
        centre = np.mean([place[0] for place in places], axis=0)
        length = float(np.mean([place[1] for place in places]))
        side = form.side_mm * length / HEAD_LENGTH_MM
        midplane = midplane_of(said, units, length) if len(looks) > 1 else None
    if midplane is None:
        return None
    centre = centre - (midplane.normal @ centre - midplane.offset) * midplane.normal
    return _Place(centre, length, midplane.normal)


def _of_cubes(networks: Networks, stage: str, pyramid: Pyramid, units: Sequence[np.ndarray]) -> list[Prediction]:
    """What a stage says of each of these cubes (4, 4), several at a time."""
    size = STAGES[stage].size
    return list(each(lambda unit: networks(stage, pyramid.cut(unit, size)), units, min(len(units), threads_on("cpu"))))


def _asked(networks: Networks, pyramid: Pyramid, place: _Place, normal: np.ndarray) -> Ballot | None:
    """What the cubes about the head say of its direction, if its midplane has this normal; None without votes."""
    form = STAGES["orient"]
    side = form.side_mm * place.length / HEAD_LENGTH_MM
    units = [cube_to_world(side, place.centre, axes) for axes in cube_axes(normal)]
    said = _of_cubes(networks, "orient", pyramid, units)
    gradients = [gradient_of(one, 0, unit) for one, unit in zip(said, units, strict=True)]
    return counted([gradient for gradient in gradients if gradient is not None], place.length)


def _first_looks(networks: Networks, pyramid: Pyramid, place: _Place, rotations: Sequence[np.ndarray]) -> list[_Look]:
    """The first look of `refine` in each direction, the one in which the head stands most upright first: where one of
    two was right (simulated, version 1 of the weights) that was the right one but once."""

    def first(rotation: np.ndarray) -> _Look | None:
        start = _second_look(networks, pyramid, place, rotation)
        return None if start is None else _look(networks, pyramid, start)

    looks = list(each(first, rotations, min(len(rotations), threads_on("cpu"))))
    return sorted((look for look in looks if look is not None), key=lambda look: -look.upright)


def _other_looks(networks: Networks, pyramid: Pyramid, matrix: np.ndarray, turns: Sequence[np.ndarray]) -> list[_Look]:
    """Looks at the head as if the pose were one of the turns (3, 3) off, the two in which it stands most upright if it
    does so in any: in none as a rule, where the pose is right."""

    def look(turn: np.ndarray) -> _Look | None:
        return _look(networks, pyramid, np.vstack([turn @ matrix[:3], matrix[3:]]))

    looks = each(look, turns, threads_on("cpu"))
    upright = [look for look in looks if look is not None and look.upright > 0]
    return sorted(upright, key=lambda look: -look.upright)[:_FOLLOWED]


def _second_look(networks: Networks, pyramid: Pyramid, place: _Place, rotation: np.ndarray) -> np.ndarray | None:
    """The pose (4, 4) that `orient` says of the head once it stands about upright; None where it sees none."""
    form = STAGES["orient"]
    unit = cube_to_world(form.side_mm * place.length / HEAD_LENGTH_MM, place.centre, rotation.T)
    fit = dense_fit(networks("orient", pyramid.cut(unit, form.size)), 0, unit, "orient")
    return None if fit is None else fit.matrix


def _look(networks: Networks, pyramid: Pyramid, matrix: np.ndarray, start: np.ndarray | None = None) -> _Look | None:
    """One look of `refine` at the head as it stands in the pose `matrix` (4, 4); None where it sees none."""
    form = STAGES["refine"]
    back = np.linalg.inv(matrix)
    unit = back @ np.diag([form.side_mm / 2] * 3 + [1.0])
    said = networks("refine", pyramid.cut(unit, form.size))
    fit = dense_fit(said, 0, unit, "refine")
    if fit is None:
        return None
    following = _fused(said, fit, unit)
    turn = angle_deg(rotation_of(following), rotation_of(matrix))
    move = float(np.linalg.norm(following[:3, :3] @ back[:3, 3] + following[:3, 3]))
    return _Look(said, unit, fit, following, matrix if start is None else start, turn, move)


def _refined(networks: Networks, pyramid: Pyramid, ballot: Ballot, look: _Look,
             gestational_age: float | None) -> Located | None:
    """Looks until the pose settles, and what to make of the last one."""
    for done in range(1, _MOST_REFINEMENTS):
        if look.turn_deg < _SETTLED_DEG or (done >= _REFINEMENTS and not look.turning):
            break
        after = _look(networks, pyramid, look.matrix, look.start)
        if after is None:
            return None
        look = after
    said, matrix = look.said, look.matrix
    to_canonical = matrix @ look.unit
    skull = _skull(said, to_canonical, np.eye(3)) or poses.Ellipsoid(
        poses.SKULL_CENTRE_MM, poses.SKULL_SEMI_AXES_MM, np.eye(3), 20.0)
    eyes, eye_weights = eyes_of(said, to_canonical)
    head = torch.sigmoid(said.maps[0, HEAD_FINE]).numpy()
    rotation = rotation_of(matrix)
    evidence = Evidence(
        agreement=ballot.agreement(rotation), clear=ballot.clearness(rotation), upright=look.upright,
        residual_mm=look.fit.residual, inliers=look.fit.inliers, turn_deg=look.turn_deg, move_mm=look.move_mm,
        skull_mm=skull.residual, size=size_misfit(head, to_canonical), mask=mask_agreement(head, skull, to_canonical))
    if gestational_age is not None:
        spread = 0.02 + 0.01 * look.fit.residual
        aged = poses.with_age(matrix, gestational_age, spread=spread, centre=skull.centre)
        change = aged @ np.linalg.inv(matrix)
        skull = replace(skull, semi_axes=skull.semi_axes * scale_of(change))
        eyes = eyes @ change[:3, :3].T + change[:3, 3]
        matrix, to_canonical = aged, change @ to_canonical
    brain, trust = torch.sigmoid(said.maps[0, BRAIN]).numpy(), score(evidence, networks.calibration)
    return Located(matrix, skull, eyes, eye_weights, brain, to_canonical, look.start, evidence,
                   min(trust, _UNSETTLED_SCORE) if look.turn_deg > _UNSETTLED_DEG else trust)


def _fused(said: Prediction, dense: Fit, unit: np.ndarray) -> np.ndarray:
    """(4, 4): the dense coordinates' pose with skull and eyes, each by how sure it is."""
    sigma = np.exp(said.fields[0, LOG_SIGMA].numpy().clip(-6, 1))[head_share(said, 0) > 0]
    # What a cell expects to be wrong by is common to many cells: it does not average out.
    spread = max(1.0, float(sigma.mean()) * STAGES["refine"].side_mm / 2) if len(sigma) else 10.0
    eyes, eye_weights = eyes_of(said, unit)
    return poses.parametric(_skull(said, unit, poses.head_axes(dense.matrix)), eyes,
                            np.where(eye_weights > 0.5, eye_weights, 0), dense.matrix, pose_spread_mm=spread)


def _skull(said: Prediction, unit: np.ndarray, axes: np.ndarray) -> poses.Ellipsoid | None:
    """The ellipsoid through the skull's boundary, in the space that `unit` leads to; None where there is none."""
    points, point_weights = skull_points(said.maps[0, SKULL].numpy(), unit)
    try:
        return poses.fit_ellipsoid(points, axes, point_weights, prior=200.0)
    except ValueError:
        return None
