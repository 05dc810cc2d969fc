"""The alignment networks at work on a volume: locate the head, orient it, refine, and what to make of it.

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
    cube_to_world,
    random_rotation,
    rotation_of,
    scale_of,
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
from USMRISynthesisLib.normalisation.trust import DEFAULT, Calibration, Evidence, score
from USMRISynthesisLib.synthesis.device import native_half
from USMRISynthesisLib.volume import Volume

TASK = "alignment"
_FOLLOWED = 2  # directions that got votes
_CERTAIN = 0.9  # a score that ends the search: what else got votes mostly leads to the same pose
_REFINEMENTS, _SETTLED_DEG = 4, 0.5
# Directions in which the midline is looked for: what one of them misjudges the others do not.
_LOOKS = [np.eye(3), *(random_rotation(np.random.default_rng(seed)) for seed in range(3))]


Passes = Callable[[Tensor], tuple[Tensor, ...]]


@dataclass(eq=False)
class Networks:
    """The networks by stage, in evaluation mode on the CPU, and the trust calibration that belongs to them.

    quick: the same in bfloat16, where the CPU computes in it (a fifth of the time): good enough for every look but the
    last, whose pose and trust are the result's.
    """

    parts: Mapping[str, Passes]
    calibration: Calibration = DEFAULT
    name: str = TASK
    quick: Mapping[str, Passes] | None = None

    def __call__(self, stage: str, x: Tensor, *, last: bool = False) -> Prediction:
        with torch.inference_mode():
            if last or self.quick is None:
                return Prediction(*(value.float() for value in self.parts[stage](x)))
            x = x.to(torch.bfloat16).contiguous(memory_format=torch.channels_last_3d)
            return Prediction(*(value.float() for value in self.quick[stage](x)))


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
        try:
            calibration = Calibration.from_json(manifest.extra["trust"]) if "trust" in manifest.extra else DEFAULT
            parts = _frozen(weights.from_bytes(content, manifest.name, "cpu").float())
        except (ValueError, RuntimeError, AttributeError) as error:
            raise Failed("model", f"The model {manifest.name!r} is no alignment model of this version.",
                         "Export it again, or choose another model.") from error
        _loaded.clear()
        _loaded[manifest.sha256] = Networks(parts, calibration, manifest.name, _quick(content, manifest.name))
    return _loaded[manifest.sha256]


def _frozen(module: torch.nn.Module) -> dict[str, Passes]:
    return {name: torch.jit.freeze(getattr(module, name).eval()) for name in STAGES}


def _quick(content: bytes, name: str) -> dict[str, Passes] | None:
    """The networks in bfloat16 where the CPU computes in it, tried once; None where it or this torch does not."""
    if native_half(torch.device("cpu"))[0] is not torch.bfloat16:
        return None
    module = weights.from_bytes(content, name, "cpu").to(torch.bfloat16)
    try:
        quick = _frozen(module.to(memory_format=torch.channels_last_3d))  # type: ignore[call-overload]
        networks = Networks({}, quick=quick)
        for stage, form in STAGES.items():
            networks(stage, torch.zeros(1, 1, form.size, form.size, form.size))
    except RuntimeError:
        return None
    return quick


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
    for n, normal in enumerate(other_normals(place.normal)):  # the first is the one that was found
        ballot = _asked(networks, pyramid, place, normal)
        for rotation in ballot.winners()[:1 if n else _FOLLOWED] if ballot is not None else ():
            start = _second_look(networks, pyramid, place, rotation)
            assert ballot is not None
            found = None if start is None else _refine(networks, pyramid, ballot, start, gestational_age)
            if found is not None and (best is None or found.score > best.score):
                best = found
            if best is not None and best.score > _CERTAIN:
                return best
    return best


def align_from(networks: Networks, volume: Volume, fan: np.ndarray, start: np.ndarray) -> Located | None:
    """The refinement from a similarity (4, 4) that is roughly right, judged by all the votes; None without a head."""
    pyramid = Pyramid(volume, fan)
    place = _locate(networks, pyramid)
    ballot = None if place is None else _asked(networks, pyramid, place, place.normal)
    return None if ballot is None else _refine(networks, pyramid, ballot, start, None)


def _locate(networks: Networks, pyramid: Pyramid) -> _Place | None:
    """Where the head is: first in the whole fan, then filling the cube, then from several sides."""
    form = STAGES["locate"]
    centre, side = pyramid.centre, 1.02 * pyramid.extent
    length, midplane = 0.0, None
    for looks in (_LOOKS[:1], _LOOKS[:1], _LOOKS):
        units = [cube_to_world(side, centre, axes) for axes in looks]
        said = networks("locate", torch.cat([pyramid.cut(unit, form.size) for unit in units]))
        places = [place for n, unit in enumerate(units) if (place := head_place(said, n, unit)) is not None]
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


def _asked(networks: Networks, pyramid: Pyramid, place: _Place, normal: np.ndarray) -> Ballot | None:
    """What the cubes about the head say of its direction, if its midplane has this normal; None without votes."""
    form = STAGES["orient"]
    side = form.side_mm * place.length / HEAD_LENGTH_MM
    units = [cube_to_world(side, place.centre, axes) for axes in cube_axes(normal)]
    said = networks("orient", torch.cat([pyramid.cut(unit, form.size) for unit in units]))
    gradients = [gradient_of(said, n, unit) for n, unit in enumerate(units)]
    return counted([gradient for gradient in gradients if gradient is not None], place.length)


def _second_look(networks: Networks, pyramid: Pyramid, place: _Place, rotation: np.ndarray) -> np.ndarray | None:
    """The pose (4, 4) that `orient` says of the head once it stands about upright; None where it sees none."""
    form = STAGES["orient"]
    unit = cube_to_world(form.side_mm * place.length / HEAD_LENGTH_MM, place.centre, rotation.T)
    fit = dense_fit(networks("orient", pyramid.cut(unit, form.size)), 0, unit, "orient")
    return None if fit is None else fit.matrix


def _refine(networks: Networks, pyramid: Pyramid, ballot: Ballot, start: np.ndarray,
            gestational_age: float | None) -> Located | None:
    form = STAGES["refine"]
    matrix, fit = start, None
    turn = move = 0.0
    said, unit = None, np.eye(4)
    for number in range(_REFINEMENTS + 1):
        last = number == _REFINEMENTS or (number > 0 and turn < _SETTLED_DEG)
        if last and networks.quick is None:
            break  # the last look was as good as any
        unit = np.linalg.inv(matrix) @ np.diag([form.side_mm / 2] * 3 + [1.0])
        said = networks("refine", pyramid.cut(unit, form.size), last=last)
        fit = dense_fit(said, 0, unit, "refine")
        if fit is None:
            return None
        following = _fused(said, fit, unit)
        turn = angle_deg(rotation_of(following), rotation_of(matrix))
        back = np.linalg.inv(matrix)[:3, 3]
        move = float(np.linalg.norm(following[:3, :3] @ back + following[:3, 3]))
        matrix = following
        if last:
            break
    assert said is not None and fit is not None
    to_canonical = matrix @ unit
    skull = _skull(said, to_canonical, np.eye(3)) or poses.Ellipsoid(
        poses.SKULL_CENTRE_MM, poses.SKULL_SEMI_AXES_MM, np.eye(3), 20.0)
    eyes, eye_weights = eyes_of(said, to_canonical)
    head = torch.sigmoid(said.maps[0, HEAD_FINE]).numpy()
    rotation = rotation_of(matrix)
    evidence = Evidence(
        agreement=ballot.agreement(rotation), clear=ballot.clearness(rotation),
        upright=float(said.fields[0, UPRIGHT].mean()), residual_mm=fit.residual, inliers=fit.inliers, turn_deg=turn,
        move_mm=move, skull_mm=skull.residual, size=size_misfit(head, to_canonical),
        mask=mask_agreement(head, skull, to_canonical))
    if gestational_age is not None:
        spread = 0.02 + 0.01 * fit.residual
        aged = poses.with_age(matrix, gestational_age, spread=spread, centre=skull.centre)
        change = aged @ np.linalg.inv(matrix)
        skull = replace(skull, semi_axes=skull.semi_axes * scale_of(change))
        eyes = eyes @ change[:3, :3].T + change[:3, 3]
        matrix, to_canonical = aged, change @ to_canonical
    return Located(matrix, skull, eyes, eye_weights, torch.sigmoid(said.maps[0, BRAIN]).numpy(), to_canonical, start,
                   evidence, score(evidence, networks.calibration))


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
