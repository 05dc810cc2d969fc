"""Refinement of a pose: one pass of the network `refine` and the pose that follows, repeated until it converges."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from USMRISynthesisLib.alignment.common.confidence import Features, predict_proba
from USMRISynthesisLib.alignment.common.pyramid import Pyramid
from USMRISynthesisLib.alignment.common.unet import cell_centres
from USMRISynthesisLib.alignment.volume import pose as poses
from USMRISynthesisLib.alignment.volume.model import Networks
from USMRISynthesisLib.alignment.volume.network import BRAIN, HEAD_FINE, LOG_SIGMA, SKULL, STAGES, UPRIGHT, Prediction
from USMRISynthesisLib.alignment.volume.readout import (
    dense_fit,
    eyes_of,
    head_probability,
    mask_agreement,
    size_misfit,
    skull_points,
)
from USMRISynthesisLib.alignment.volume.votes import RotationVotes
from USMRISynthesisLib.geometry.similarity import Fit, angle_deg, rotation_of, scale_of
from USMRISynthesisLib.io.volume import Volume

# Refinements of one orientation: the usual number, the most while the pose still turns (`Refinement.turning`), and
# the rotation in degrees below which the pose has converged.
_REFINEMENTS, _MOST_REFINEMENTS, _CONVERGED_DEG = 5, 16, 0.5
# A pose that still turns by more than this at the end has not converged: its score is limited.
_UNSETTLED_DEG, UNSETTLED_SCORE = 2.0, 0.4
# Share of the brain's cells that the outline in a given pose holds, and by how much it grows at most to hold them.
_BRAIN_INSIDE, _MOST_GROWTH = 0.998, 1.08


@dataclass(frozen=True, eq=False)
class Located:
    """An aligned head.

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
    features: Features
    score: float


@dataclass(frozen=True, eq=False)
class Refinement:
    """One refinement: the prediction in the cube `unit` (4, 4), the fit to it, and the pose `matrix` (4, 4) that
    follows.

    start: (4, 4), the pose before the first refinement. turn_deg, move_mm: from the pose before this one.
    """

    prediction: Prediction
    unit: np.ndarray
    fit: Fit
    matrix: np.ndarray
    start: np.ndarray
    turn_deg: float
    move_mm: float

    @property
    def upright(self) -> float:
        """Logit of the head standing upright in the cube: of two opposite directions the right one has the higher."""
        return float(self.prediction.fields[0, UPRIGHT].mean())

    @property
    def turning(self) -> bool:
        """Whether further refinements are likely to reach the right pose: it turns by much, or the head begins to stand
        upright. A pose that is stuck in a wrong orientation does neither: it varies by a few degrees."""
        return self.turn_deg > 5.0 or self.upright > 1.0


def refine_once(
    networks: Networks, pyramid: Pyramid, matrix: np.ndarray, start: np.ndarray | None = None
) -> Refinement | None:
    """One refinement of the pose `matrix` (4, 4); None without a head."""
    form = STAGES["refine"]
    back = np.linalg.inv(matrix)
    unit = back @ np.diag([form.side_mm / 2] * 3 + [1.0])
    prediction = networks("refine", pyramid.cut(unit, form.size))
    fit = dense_fit(prediction, 0, unit, "refine")
    if fit is None:
        return None
    following = _fused(prediction, fit, unit)
    turn = angle_deg(rotation_of(following), rotation_of(matrix))
    move = float(np.linalg.norm(following[:3, :3] @ back[:3, 3] + following[:3, 3]))
    return Refinement(prediction, unit, fit, following, matrix if start is None else start, turn, move)


def refine_until_converged(
    networks: Networks, pyramid: Pyramid, votes: RotationVotes, refinement: Refinement, gestational_age: float | None
) -> Located | None:
    """Refinements until the pose converges; the last one gives the result. None without a head."""
    for done in range(1, _MOST_REFINEMENTS):
        if refinement.turn_deg < _CONVERGED_DEG or (done >= _REFINEMENTS and not refinement.turning):
            break
        after = refine_once(networks, pyramid, refinement.matrix, refinement.start)
        if after is None:
            return None
        refinement = after
    prediction, matrix = refinement.prediction, refinement.matrix
    to_canonical = matrix @ refinement.unit
    skull = _skull(prediction, to_canonical, np.eye(3)) or poses.Ellipsoid(
        poses.SKULL_CENTRE_MM, poses.SKULL_SEMI_AXES_MM, np.eye(3), 20.0
    )
    eyes, eye_weights = eyes_of(prediction, to_canonical)
    head = torch.sigmoid(prediction.maps[0, HEAD_FINE]).numpy()
    rotation = rotation_of(matrix)
    features = Features(
        agreement=votes.agreement(rotation),
        margin=votes.margin(rotation),
        upright=refinement.upright,
        residual_mm=refinement.fit.residual,
        inliers=refinement.fit.inliers,
        turn_deg=refinement.turn_deg,
        move_mm=refinement.move_mm,
        skull_mm=skull.residual,
        size=size_misfit(head, to_canonical),
        mask=mask_agreement(head, skull, to_canonical),
    )
    if gestational_age is not None:
        spread = 0.02 + 0.01 * refinement.fit.residual
        aged = poses.with_age(matrix, gestational_age, spread=spread, centre=skull.centre)
        change = aged @ np.linalg.inv(matrix)
        skull = replace(skull, semi_axes=skull.semi_axes * scale_of(change))
        eyes = eyes @ change[:3, :3].T + change[:3, 3]
        matrix, to_canonical = aged, change @ to_canonical
    brain, confidence = torch.sigmoid(prediction.maps[0, BRAIN]).numpy(), predict_proba(features, networks.calibration)
    return Located(
        matrix,
        skull,
        eyes,
        eye_weights,
        brain,
        to_canonical,
        refinement.start,
        features,
        min(confidence, UNSETTLED_SCORE) if refinement.turn_deg > _UNSETTLED_DEG else confidence,
    )


def outline_at(
    networks: Networks, volume: Volume, fan: np.ndarray, ras_to_canonical: np.ndarray
) -> tuple[poses.Ellipsoid, float] | None:
    """The outer skull's ellipsoid as the network sees it in a given pose, which stays as it is.

    The ellipsoid's axes are those of the head that the network sees, and it holds the network's brain.

    Args:
        volume: an admitted 3D volume. fan: (k, j, i) bool. ras_to_canonical: (4, 4), any invertible affine map.

    Returns:
        The ellipsoid, canonical mm, and the mean probability of the head inside it less that outside; None without a
        head.
    """
    form = STAGES["refine"]
    unit = np.diag([form.side_mm / 2] * 3 + [1.0])  # of the cube, to canonical mm
    prediction = networks("refine", Pyramid(volume, fan).cut(np.linalg.inv(ras_to_canonical) @ unit, form.size))
    fit = dense_fit(prediction, 0, unit, "refine")
    skull = None if fit is None else _skull(prediction, unit, poses.head_axes(fit.matrix))
    if skull is None:
        return None
    head, brain = (torch.sigmoid(prediction.maps[0, channel]).numpy() for channel in (HEAD_FINE, BRAIN))
    skull = replace(skull, semi_axes=skull.semi_axes * np.clip(_reach(brain, skull, unit), 1, _MOST_GROWTH))
    return skull, mask_agreement(head, skull, unit)


def _reach(brain: np.ndarray, skull: poses.Ellipsoid, unit: np.ndarray) -> float:
    """The factor of the ellipsoid's size at which it holds nearly all of the brain's cells."""
    cells = cell_centres(len(brain), 3).numpy().reshape(3, -1)[:, brain.ravel() > 0.5]
    if not cells.size:
        return 1.0
    places = unit[:3, :3] @ cells + unit[:3, 3:]
    levels = np.linalg.norm(skull.axes.T @ (places - skull.centre[:, None]) / skull.semi_axes[:, None], axis=0)
    return float(np.quantile(levels, _BRAIN_INSIDE))


def _fused(prediction: Prediction, dense: Fit, unit: np.ndarray) -> np.ndarray:
    """(4, 4): the pose from dense coordinates, skull and eyes, weighted by their uncertainties."""
    sigma = np.exp(prediction.fields[0, LOG_SIGMA].numpy().clip(-6, 1))[head_probability(prediction, 0) > 0]
    # The expected error is common to many cells: it does not average out.
    spread = max(1.0, float(sigma.mean()) * STAGES["refine"].side_mm / 2) if len(sigma) else 10.0
    eyes, eye_weights = eyes_of(prediction, unit)
    return poses.parametric(
        _skull(prediction, unit, poses.head_axes(dense.matrix)),
        eyes,
        np.where(eye_weights > 0.5, eye_weights, 0),
        dense.matrix,
        pose_spread_mm=spread,
    )


def _skull(prediction: Prediction, unit: np.ndarray, axes: np.ndarray) -> poses.Ellipsoid | None:
    """The ellipsoid through the skull's boundary, in the space that `unit` leads to; None where there is none."""
    points, point_weights = skull_points(prediction.maps[0, SKULL].numpy(), unit)
    try:
        return poses.fit_ellipsoid(points, axes, point_weights, prior=200.0)
    except ValueError:
        return None
