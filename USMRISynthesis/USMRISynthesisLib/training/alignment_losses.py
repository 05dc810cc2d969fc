"""The alignment's losses: one number a head of the network, and their weighted sum."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..normalisation.network import (
    BRAIN,
    EYE_LEFT,
    EYE_RIGHT,
    FACE,
    FOSSA,
    HEAD,
    MIDLINE,
    SKULL,
    Prediction,
    geodesic,
    rotation_from_6d,
)
from .alignment_samples import Batch

_DISTANCE_REACH = 0.35  # half-sides: beyond, the distance saturates in the data


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms. coordinates: likelihood of the dense coordinates; plain: their mean error."""

    masks: float = 2.0
    structures: float = 1.0
    skull: float = 3.0
    midline: float = 5.0
    coordinates: float = 0.05
    plain: float = 3.0
    eyes: float = 0.1
    upright: float = 2.0
    pose: float = 0.5


def losses(said: Prediction, true: Batch) -> dict[str, Tensor]:
    """Each term, averaged over the samples it applies to; a stage's missing truths leave zeros."""
    n = said.coordinates.shape[1]
    maps = said.maps.float()
    head, headed, posed = true.head, true.headed, true.posed
    n_structures = 0.0 if n == 2 else 1.0  # a frame's are not marked
    terms = {
        "masks": _mask(maps[:, HEAD], head) + _mask(maps[:, BRAIN], true.brain),
        "structures": n_structures * (_mask(maps[:, FACE], true.face) + _mask(maps[:, FOSSA], true.fossa)),
        "skull": _mean(_skull(maps[:, SKULL], true.distance), headed),
        "midline": _mean(_midline(maps[:, MIDLINE], true.midline, head), headed),
        "upright": F.binary_cross_entropy_with_logits(said.upright.float(), true.upright, reduction="none"),
    }
    terms["upright"] = _mean(terms["upright"], (true.signed if n == 2 else torch.ones_like(headed)))
    inside = F.max_pool3d(head[:, None], 2) if n == 3 else F.max_pool2d(head[:, None], 2)
    terms |= _dense(said, true, inside[:, 0])
    terms["eyes"] = _eyes(maps[:, EYE_LEFT:EYE_RIGHT + 1], true.eyes, headed)
    pose = said.pose.float()
    where = (pose[:, 6:6 + n] - true.centre).abs().sum(dim=1) + (pose[:, 9] - true.log_scale).abs()
    terms["pose"] = _mean(where, headed)
    if n == 3:
        terms["pose"] = terms["pose"] + _mean(geodesic(rotation_from_6d(pose), true.rotation), posed)
    return terms


def weighted(terms: dict[str, Tensor], weights: LossWeights) -> Tensor:
    return torch.stack([getattr(weights, name) * value for name, value in terms.items()]).sum()


def _mean(values: Tensor, wanted: Tensor) -> Tensor:
    return (values * wanted).sum() / wanted.sum().clamp_min(1.0)


def _mask(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy plus one minus the soft Dice."""
    axes = tuple(range(1, logits.ndim))
    share = torch.sigmoid(logits)
    dice = (2 * (share * truth).sum(dim=axes) + 1) / (share.sum(dim=axes) + truth.sum(dim=axes) + 1)
    return F.binary_cross_entropy_with_logits(logits, truth) + (1 - dice).mean()


def _skull(said: Tensor, distance: Tensor) -> Tensor:
    """Mean error of the distance, most of it near the skull; (N,)."""
    truth = distance.clamp(-_DISTANCE_REACH, _DISTANCE_REACH)
    weight = 0.1 + torch.exp(-((truth / 0.12) ** 2))
    error = (said.clamp(-2, 2) - truth).abs() * weight
    axes = tuple(range(1, said.ndim))
    return error.sum(dim=axes) / weight.sum(dim=axes)


def _midline(said: Tensor, truth: Tensor, head: Tensor) -> Tensor:
    """Mean error of the distance inside the head, (N,)."""
    axes = tuple(range(1, said.ndim))
    return ((said - truth).abs() * head).sum(dim=axes) / head.sum(dim=axes).clamp_min(1.0)


def _dense(said: Prediction, true: Batch, inside: Tensor) -> dict[str, Tensor]:
    """Likelihood under an isotropic Laplace density with the said spread, and the plain mean error.

    Where a real frame's face is not known, the truth is whichever of its two directions is nearer.
    """
    n = said.coordinates.shape[1]
    axes = tuple(range(1, inside.ndim))
    count = inside.sum(dim=axes).clamp_min(1.0)
    log_sigma = said.log_sigma.float()[:, 0].clamp(-6, 1)

    def terms(truth: Tensor) -> tuple[Tensor, Tensor]:
        error = ((said.coordinates.float() - truth) ** 2).sum(dim=1).add(1e-6).sqrt()
        likelihood = error * torch.exp(-log_sigma) + n * log_sigma
        return (likelihood * inside).sum(dim=axes) / count, (error * inside).sum(dim=axes) / count

    likelihood, plain = terms(true.coordinates)
    if n == 2 and bool((true.signed < 0.5).any()):
        from ..normalisation.network import grid

        cells = grid(inside.shape[-1], 2).to(true.coordinates)
        turned = terms(-(true.coordinates + cells) - cells)
        other = (true.signed < 0.5) & (turned[1] < plain)
        likelihood = torch.where(other, turned[0], likelihood)
        plain = torch.where(other, turned[1], plain)
    return {"coordinates": _mean(likelihood, true.posed), "plain": _mean(plain, true.posed)}


def _eyes(logits: Tensor, truth: Tensor, headed: Tensor) -> Tensor:
    """Where: cross-entropy of the map as a distribution. Whether: the highest logit is that of its presence."""
    flat, aim = logits.flatten(2), truth.flatten(2)
    present = (aim.sum(dim=2) > 0.5).float()
    where = -(aim * F.log_softmax(flat, dim=2)).sum(dim=2)
    whether = F.binary_cross_entropy_with_logits(flat.amax(dim=2), present, reduction="none")
    wanted = headed[:, None].expand_as(present)
    return _mean(where, wanted * present) + _mean(whether, wanted)
