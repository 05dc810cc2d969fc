"""The alignment networks at work on a volume: locate the head, orient it, refine, and what to make of it.

    networks = load_networks("alignment")       # alignment_networks.py
    found = align_volume(networks, volume, fan)          # None where no head can be made out

torch is imported with this module: nothing that Slicer loads at its start imports it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from USMRISynthesisLib.alignment.common.confidence import SURE_SCORE
from USMRISynthesisLib.alignment.common.pyramid import Pyramid
from USMRISynthesisLib.alignment.volume.model import Networks
from USMRISynthesisLib.alignment.volume.network import Prediction
from USMRISynthesisLib.alignment.volume.readout import dense_fit, gradient_of, head_place, midplane_of
from USMRISynthesisLib.alignment.volume.refine import Located as Located
from USMRISynthesisLib.alignment.volume.refine import Look, followed, look_at
from USMRISynthesisLib.alignment.volume.stages import STAGES
from USMRISynthesisLib.alignment.volume.votes import Ballot, counted, cube_axes, other_normals
from USMRISynthesisLib.geometry.canonical import HEAD_LENGTH_MM
from USMRISynthesisLib.geometry.similarity import cube_rotations, cube_to_world, random_rotation, turn_about_x
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.models.parallel import each, threads_on

_FOLLOWED = 2  # directions that got votes
_CERTAIN = 0.9  # a score that ends the search: what else got votes mostly leads to the same pose
# A wrong pose that looks good mostly has the right midplane, and the head turned in it or the wrong way round through
# it. Where that does not help either, any direction: steps of 45 degrees from the cube's.
_IN_MIDPLANE = [turn_about_x(angle) @ through for through in (np.eye(3), np.diag([-1.0, -1.0, 1.0]))
                for angle in range(0, 360, 45)][1:]  # fmt: skip
_ANYWHERE = [turn @ step for turn in cube_rotations()
             for step in (np.eye(3), *(np.roll(turn_about_x(45.0), n, (0, 1)) for n in range(3)))]  # fmt: skip
_OTHER_TURNS = ((_CERTAIN, _IN_MIDPLANE), (SURE_SCORE, _ANYWHERE))  # each where the score is no better
# Directions in which the midline is looked for: what one of them misjudges the others do not.
_LOOKS = [np.eye(3), *(random_rotation(np.random.default_rng(seed)) for seed in range(3))]


@dataclass(frozen=True, eq=False)
class _Place:
    """centre (3,) and length of the head in RAS mm, and the normal (3,) of its midplane."""

    centre: np.ndarray
    length: float
    normal: np.ndarray


def align_volume(
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
            found = followed(networks, pyramid, ballot, look, gestational_age)
            if found is not None and (best is None or found.score > best.score):
                best, of_best = found, ballot
            if best is not None and best.score > _CERTAIN:
                return best
    if best is None or of_best is None:
        return None
    for enough, turns in _OTHER_TURNS:
        for look in _other_looks(networks, pyramid, best.matrix, turns) if best.score <= enough else ():
            found = followed(networks, pyramid, of_best, look, gestational_age)
            if found is not None and found.score > best.score:
                best = found
    return best


def align_from(networks: Networks, volume: Volume, fan: np.ndarray, start: np.ndarray) -> Located | None:
    """The refinement from a similarity (4, 4) that is roughly right, judged by all the votes; None without a head."""
    pyramid = Pyramid(volume, fan)
    place = _locate(networks, pyramid)
    ballot = None if place is None else _asked(networks, pyramid, place, place.normal)
    look = look_at(networks, pyramid, start)
    return None if ballot is None or look is None else followed(networks, pyramid, ballot, look, None)


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


def _first_looks(networks: Networks, pyramid: Pyramid, place: _Place, rotations: Sequence[np.ndarray]) -> list[Look]:
    """The first look of `refine` in each direction, the one in which the head stands most upright first: where one of
    two was right (simulated, version 1 of the weights) that was the right one but once."""

    def first(rotation: np.ndarray) -> Look | None:
        start = _second_look(networks, pyramid, place, rotation)
        return None if start is None else look_at(networks, pyramid, start)

    looks = list(each(first, rotations, min(len(rotations), threads_on("cpu"))))
    return sorted((look for look in looks if look is not None), key=lambda look: -look.upright)


def _other_looks(networks: Networks, pyramid: Pyramid, matrix: np.ndarray, turns: Sequence[np.ndarray]) -> list[Look]:
    """Looks at the head as if the pose were one of the turns (3, 3) off, the two in which it stands most upright if it
    does so in any: in none as a rule, where the pose is right."""

    def look(turn: np.ndarray) -> Look | None:
        return look_at(networks, pyramid, np.vstack([turn @ matrix[:3], matrix[3:]]))

    looks = each(look, turns, threads_on("cpu"))
    upright = [look for look in looks if look is not None and look.upright > 0]
    return sorted(upright, key=lambda look: -look.upright)[:_FOLLOWED]


def _second_look(networks: Networks, pyramid: Pyramid, place: _Place, rotation: np.ndarray) -> np.ndarray | None:
    """The pose (4, 4) that `orient` says of the head once it stands about upright; None where it sees none."""
    form = STAGES["orient"]
    unit = cube_to_world(form.side_mm * place.length / HEAD_LENGTH_MM, place.centre, rotation.T)
    fit = dense_fit(networks("orient", pyramid.cut(unit, form.size)), 0, unit, "orient")
    return None if fit is None else fit.matrix
