"""Alignment of a volume by the networks: detection of the head, its coarse orientation, and refinement.

    networks = load_networks("alignment")
    found = align_volume(networks, volume, fan)          # None where no head can be made out

torch is imported with this module: nothing that Slicer loads at its start imports it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from USMRISynthesisLib.alignment.common.confidence import CONFIDENT
from USMRISynthesisLib.alignment.common.pyramid import Pyramid
from USMRISynthesisLib.alignment.volume.model import Networks
from USMRISynthesisLib.alignment.volume.network import STAGES, Prediction
from USMRISynthesisLib.alignment.volume.readout import dense_fit, gradient_of, head_position, midplane_of
from USMRISynthesisLib.alignment.volume.refine import Located as Located
from USMRISynthesisLib.alignment.volume.refine import Refinement, refine_once, refine_until_converged
from USMRISynthesisLib.alignment.volume.votes import RotationVotes, cube_axes, other_normals
from USMRISynthesisLib.geometry.canonical import HEAD_LENGTH_MM
from USMRISynthesisLib.geometry.similarity import cube_rotations, cube_to_world, random_rotation, turn_about_x
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.models.parallel import map_in_order, threads_on

_CANDIDATES = 2  # modes of the votes that are refined
_CERTAIN = 0.9  # a score that ends the search: the other orientations mostly lead to the same pose
# A wrong pose with a high score mostly has the right midplane: the head is rotated within it, or reversed through it.
# If these rotations do not help, the cube's 24 rotations are tried in steps of 45 degrees.
_TURNS_IN_MIDPLANE = [turn_about_x(angle) @ through for through in (np.eye(3), np.diag([-1.0, -1.0, 1.0]))
                for angle in range(0, 360, 45)][1:]  # fmt: skip
_TURNS_ANYWHERE = [turn @ step for turn in cube_rotations()
             for step in (np.eye(3), *(np.roll(turn_about_x(45.0), n, (0, 1)) for n in range(3)))]  # fmt: skip
# (score, rotations): the rotations are tried if the best score is not above this one.
_ALTERNATIVE_TURNS = ((_CERTAIN, _TURNS_IN_MIDPLANE), (CONFIDENT, _TURNS_ANYWHERE))
# Cube orientations for the detection: an error in one of them is outvoted by the others.
_DETECTION_AXES = [np.eye(3), *(random_rotation(np.random.default_rng(seed)) for seed in range(3))]


@dataclass(frozen=True, eq=False)
class _Detection:
    """centre (3,) and length of the head in RAS mm, and the normal (3,) of its midplane."""

    centre: np.ndarray
    length: float
    normal: np.ndarray


def find_head(
    networks: Networks, volume: Volume, fan: np.ndarray, *, gestational_age: float | None = None
) -> Located | None:
    """Where a volume's head lies, in any orientation.

    Args:
        volume: an admitted 3D volume.
        fan: (k, j, i) bool.
        gestational_age: weeks; a prior for the head's size.

    Returns:
        None where the networks see no head at all.
    """
    pyramid = Pyramid(volume, fan)
    detection = _detect(networks, pyramid)
    if detection is None:
        return None
    best: Located | None = None
    best_votes: RotationVotes | None = None
    for n, normal in enumerate(other_normals(detection.normal)):  # the detected normal is the first
        votes = _vote_orientation(networks, pyramid, detection, normal)
        if votes is None:
            continue
        for refinement in _refine_candidates(networks, pyramid, detection, votes.modes()[: 1 if n else _CANDIDATES]):
            found = refine_until_converged(networks, pyramid, votes, refinement, gestational_age)
            if found is not None and (best is None or found.score > best.score):
                best, best_votes = found, votes
            if best is not None and best.score > _CERTAIN:
                return best
    if best is None or best_votes is None:
        return None
    for enough, turns in _ALTERNATIVE_TURNS:
        for refinement in _refine_rotated(networks, pyramid, best.matrix, turns) if best.score <= enough else ():
            found = refine_until_converged(networks, pyramid, best_votes, refinement, gestational_age)
            if found is not None and found.score > best.score:
                best = found
    return best


def find_head_from(networks: Networks, volume: Volume, fan: np.ndarray, start: np.ndarray) -> Located | None:
    """Refinement from an approximate similarity (4, 4), scored against all rotation votes; None without a head."""
    pyramid = Pyramid(volume, fan)
    detection = _detect(networks, pyramid)
    votes = None if detection is None else _vote_orientation(networks, pyramid, detection, detection.normal)
    refinement = refine_once(networks, pyramid, start)
    if votes is None or refinement is None:
        return None
    return refine_until_converged(networks, pyramid, votes, refinement, None)


def _detect(networks: Networks, pyramid: Pyramid) -> _Detection | None:
    """Position, length and midplane: first in the whole fan, then with the head filling the cube, then in several
    cube orientations."""
    form = STAGES["locate"]
    centre, side = pyramid.centre, 1.02 * pyramid.extent
    length, midplane = 0.0, None
    for orientations in (_DETECTION_AXES[:1], _DETECTION_AXES[:1], _DETECTION_AXES):
        units = [cube_to_world(side, centre, axes) for axes in orientations]
        predictions = _predict_cubes(networks, "locate", pyramid, units)
        found = [head_position(one, 0, unit) for one, unit in zip(predictions, units, strict=True)]
        positions = [position for position in found if position is not None]
        if not positions:
            return None
        centre = np.mean([position[0] for position in positions], axis=0)
        length = float(np.mean([position[1] for position in positions]))
        side = form.side_mm * length / HEAD_LENGTH_MM
        midplane = midplane_of(predictions, units, length) if len(orientations) > 1 else None
    if midplane is None:
        return None
    centre = centre - (midplane.normal @ centre - midplane.offset) * midplane.normal
    return _Detection(centre, length, midplane.normal)


def _predict_cubes(networks: Networks, stage: str, pyramid: Pyramid, units: Sequence[np.ndarray]) -> list[Prediction]:
    """A stage's predictions for these cubes (4, 4), several at a time."""
    size = STAGES[stage].size
    return list(
        map_in_order(lambda unit: networks(stage, pyramid.cut(unit, size)), units, min(len(units), threads_on("cpu")))
    )


def _vote_orientation(
    networks: Networks, pyramid: Pyramid, detection: _Detection, normal: np.ndarray
) -> RotationVotes | None:
    """Rotation votes of the cubes about the head, given its midplane's normal; None without votes."""
    form = STAGES["orient"]
    side = form.side_mm * detection.length / HEAD_LENGTH_MM
    units = [cube_to_world(side, detection.centre, axes) for axes in cube_axes(normal)]
    predictions = _predict_cubes(networks, "orient", pyramid, units)
    gradients = [gradient_of(one, 0, unit) for one, unit in zip(predictions, units, strict=True)]
    return RotationVotes.from_gradients([gradient for gradient in gradients if gradient is not None], detection.length)


def _refine_candidates(
    networks: Networks, pyramid: Pyramid, detection: _Detection, rotations: Sequence[np.ndarray]
) -> list[Refinement]:
    """The first refinement of each rotation, sorted by the logit of the head standing upright, highest first. On
    simulated heads with one right orientation of two, the right one came first in all cases but one."""

    def first(rotation: np.ndarray) -> Refinement | None:
        start = _coarse_pose(networks, pyramid, detection, rotation)
        return None if start is None else refine_once(networks, pyramid, start)

    refinements = list(map_in_order(first, rotations, min(len(rotations), threads_on("cpu"))))
    return sorted((one for one in refinements if one is not None), key=lambda one: -one.upright)


def _refine_rotated(
    networks: Networks, pyramid: Pyramid, matrix: np.ndarray, turns: Sequence[np.ndarray]
) -> list[Refinement]:
    """Refinements that start from the pose composed with each of the rotations (3, 3): at most two, those with the
    highest positive logit of standing upright. If the pose is right there is usually none."""

    def refine(turn: np.ndarray) -> Refinement | None:
        return refine_once(networks, pyramid, np.vstack([turn @ matrix[:3], matrix[3:]]))

    refinements = map_in_order(refine, turns, threads_on("cpu"))
    upright = [one for one in refinements if one is not None and one.upright > 0]
    return sorted(upright, key=lambda one: -one.upright)[:_CANDIDATES]


def _coarse_pose(
    networks: Networks, pyramid: Pyramid, detection: _Detection, rotation: np.ndarray
) -> np.ndarray | None:
    """The pose (4, 4) that the coarse orientation gives in a cube turned by `rotation`; None without a head."""
    form = STAGES["orient"]
    unit = cube_to_world(form.side_mm * detection.length / HEAD_LENGTH_MM, detection.centre, rotation.T)
    fit = dense_fit(networks("orient", pyramid.cut(unit, form.size)), 0, unit, "orient")
    return None if fit is None else fit.matrix
