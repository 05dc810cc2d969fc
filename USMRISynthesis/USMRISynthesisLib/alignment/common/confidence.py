"""Confidence of an alignment: one number, from the agreement of the network's predictions with each other.

A logistic regression on standardised features, fitted on held-out simulated heads in random poses and on images without
a head (``calibrate``). It is stored in the model's manifest, because it belongs to the weights; a built-in one is the
default. The score is the probability that the pose is right to within GOOD_DEG and GOOD_MM. Callers do not rely on an
alignment below one half.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

import numpy as np
from scipy.special import expit

GOOD_DEG, GOOD_MM = 15.0, 8.0
# Below this an alignment is not reliable: the user checks it, or gives a transform.
MIN_CONFIDENCE = 0.5
# Volumes aligned with a lower score were sometimes reversed (docs/normalisation.md).
CONFIDENT = 0.8
# Highest score of a skull fit in an image in which the network found no head.
NO_HEAD = 0.2
# Standardised features are clipped to this: on unusual input a network's output may be arbitrarily large.
_LIMIT = 6.0


@dataclass(frozen=True)
class Features:
    """Features of one alignment, computed without its truth.

    Attributes:
        agreement: share of the votes for about this rotation, 0-1; margin: how clearly these votes separate front from
            back and top from bottom, 0 to about 1.
        upright: logit of the head standing upright in the final cube.
        residual_mm: of the dense coordinates after the fit of one similarity.
        inliers: share of their weight that agrees, 0-1.
        turn_deg, move_mm: between the last two passes, about the head's centre.
        skull_mm: distance of the skull's boundary from its ellipsoid.
        size: cube root of the head mask's volume over that of a usual head, as its absolute logarithm.
        mask: mean of the head's probability inside the ellipsoid less that outside it.
    """

    agreement: float
    margin: float
    upright: float
    residual_mm: float
    inliers: float
    turn_deg: float
    move_mm: float
    skull_mm: float
    size: float
    mask: float


@dataclass(frozen=True)
class FrameFeatures:
    """Features of an ellipse in a frame, computed without its truth.

    Attributes:
        headed: logit of a head filling the square.
        spread: mean distance of the views' ellipses, residual: of the cells' distances after the fit of the ellipse,
            error: as the cells predict it; all as shares of the head's length, in percent.
        mask: mean of the head's probability inside the ellipse less that outside it.
        fan: share of the outline that lies in the fan.
    """

    headed: float
    spread: float
    residual: float
    error: float
    mask: float
    fan: float


# The names under which a calibration is stored in a manifest; they do not change, since stored models have them.
NAMES = tuple({"margin": "clear"}.get(field.name, field.name) for field in fields(Features))
FRAME_NAMES = tuple(field.name for field in fields(FrameFeatures))


@dataclass(frozen=True)
class Calibration:
    """mean, spread: of each feature; weights: of the standardised features; bias: of the logit."""

    mean: tuple[float, ...]
    spread: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float

    def to_json(self, names: Sequence[str] = NAMES) -> dict[str, Any]:
        return {
            "names": list(names),
            "mean": list(self.mean),
            "spread": list(self.spread),
            "weights": list(self.weights),
            "bias": self.bias,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any], names: Sequence[str] = NAMES) -> Calibration:
        """Raises ValueError for anything else, or for features under other names."""
        try:
            if tuple(content["names"]) != tuple(names):
                raise ValueError("the features have other names")
            rows = [tuple(float(v) for v in content[key]) for key in ("mean", "spread", "weights")]
            found = cls(rows[0], rows[1], rows[2], float(content["bias"]))
        except (KeyError, TypeError) as error:
            raise ValueError("this is no calibration") from error
        if any(len(row) != len(names) for row in rows) or not np.isfinite(np.concatenate([*rows, [found.bias]])).all():
            raise ValueError("this is no calibration")
        return found


DEFAULT = Calibration(
    mean=(1.0, 0.7, 0.0, 1.0, 0.52, 4.0, 0.5, 1.0, 0.02, 0.94),
    spread=(0.45, 0.4, 3.0, 0.4, 0.02, 9.0, 0.6, 0.5, 0.02, 0.03),
    weights=(0.4, 0.5, 1.5, -1.0, 0.1, -0.3, -0.6, -0.2, -0.4, 0.2),
    bias=-2.0,
)


DEFAULT_FRAME = Calibration(
    mean=(3.0, 1.0, 0.6, 0.8, 0.95, 0.95),
    spread=(3.0, 1.0, 0.4, 0.5, 0.05, 0.1),
    weights=(1.5, -1.0, -0.5, -0.5, 0.5, 0.3),
    bias=2.0,
)


def predict_proba(features: Features | FrameFeatures, calibration: Calibration = DEFAULT) -> float:
    """0-1: the probability that the pose is right."""
    values = _standardised(np.array([astuple(features)]), calibration)
    return float(expit(values @ np.array(calibration.weights) + calibration.bias)[0])


def calibrate(
    features: Sequence[Features] | Sequence[FrameFeatures],
    good: Sequence[bool],
    *,
    penalty: float = 1.0,
    like: Calibration = DEFAULT,
) -> Calibration:
    """Fit the logistic regression by Newton steps, with a ridge that keeps separable samples finite.

    No weight may have the opposite sign of that in `like`: such a feature is left out, and the rest is fitted again.

    Raises:
        ValueError: fewer than four samples, or only one kind.
    """
    rows, labels = np.array([astuple(e) for e in features], dtype=np.float64), np.asarray(good, dtype=np.float64)
    if len(rows) < 4 or labels.min() == labels.max():
        raise ValueError("a calibration needs alignments that are right and some that are wrong")
    middle, spread = np.median(rows, axis=0), np.maximum(rows.std(axis=0), 1e-3)
    size = rows.shape[1]
    frame = Calibration(tuple(middle.tolist()), tuple(spread.tolist()), (0.0,) * size, 0.0)
    x = _standardised(rows, frame)
    expected = np.sign(like.weights)
    used = np.ones(size, dtype=bool)
    while True:
        weights, bias = _fit_logistic(x[:, used], labels, penalty)
        whole = np.zeros(size)
        whole[used] = weights
        against = whole * expected < 0
        if not against.any():
            return Calibration(frame.mean, frame.spread, tuple(whole.tolist()), bias)
        used &= ~against


def _standardised(rows: np.ndarray, calibration: Calibration) -> np.ndarray:
    rows = np.nan_to_num(rows, nan=0.0, posinf=1e6, neginf=-1e6)
    limited = np.clip((rows - np.array(calibration.mean)) / np.array(calibration.spread), -_LIMIT, _LIMIT)
    return np.asarray(limited)


def _fit_logistic(x: np.ndarray, labels: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    """Weights (n,) and bias of the logistic regression on x (m, n); both kinds of labels have the same total weight."""
    from scipy import optimize  # only for a calibration: it takes long to import

    sample = np.where(labels > 0.5, 0.5 / labels.mean(), 0.5 / (1 - labels.mean()))
    ridge = np.append(np.full(x.shape[1], penalty), 1e-3)
    design = np.column_stack([x, np.ones(len(x))])

    def loss(solution: np.ndarray) -> tuple[float, np.ndarray]:
        logit = design @ solution
        value = sample @ (np.logaddexp(0, logit) - labels * logit) + 0.5 * float(ridge @ solution**2)
        return float(value), design.T @ (sample * (expit(logit) - labels)) + ridge * solution

    found = optimize.minimize(
        loss, np.zeros(design.shape[1]), jac=True, method="L-BFGS-B", options={"gtol": 1e-9, "ftol": 1e-14}
    )
    return found.x[:-1], float(found.x[-1])
