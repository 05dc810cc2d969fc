"""The alignment's losses: one number for each output of the network, and their weighted sum."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from USMRISynthesisLib.alignment.volume.network import (
    BRAIN,
    EYE_LEFT,
    EYE_RIGHT,
    HEAD,
    HEAD_FINE,
    LOG_SIGMA,
    SKULL,
    UPRIGHT,
    Prediction,
    X,
    Z,
)
from USMRISynthesisLib.training.alignment.samples import Batch
from USMRISynthesisLib.training.common.losses import masked_mean

_DISTANCE_REACH = 0.35  # half-sides: beyond, the distance saturates in the data


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms. coordinates: mean error of the dense coordinates; spread: of their predicted error."""

    head: float = 1.0
    coordinates: float = 8.0
    spread: float = 0.1
    upright: float = 0.5
    masks: float = 1.0
    skull: float = 3.0
    eyes: float = 0.1


def losses(stage: str, predicted: Prediction, true: Batch) -> dict[str, Tensor]:
    """Each term, averaged over the samples it applies to."""
    fields = predicted.fields.float()
    axes = [0] if stage == "locate" else [0, 1, 2]  # of the coordinates that carry a loss
    error = (fields[:, X : Z + 1] - true.coordinates)[:, axes]
    share = true.head / true.head.sum(dim=(1, 2, 3), keepdim=True).clamp_min(1.0)
    length = (error.detach() ** 2).sum(dim=1).add(1e-6).sqrt()
    # Likelihood of a Laplace density about coordinates that are taken as they are.
    log_sigma = fields[:, LOG_SIGMA].clamp(-6, 1)
    spread = length * torch.exp(-log_sigma) + len(axes) * log_sigma
    terms = {
        "head": F.binary_cross_entropy_with_logits(fields[:, HEAD], true.head),
        "coordinates": masked_mean((error.abs().sum(dim=1) * share).sum(dim=(1, 2, 3)), true.posed),
        "spread": masked_mean((spread * share).sum(dim=(1, 2, 3)), true.posed),
        "upright": F.binary_cross_entropy_with_logits(fields[:, UPRIGHT].mean(dim=(1, 2, 3)), true.upright),
    }
    if true.brain.ndim > 2:
        maps = predicted.maps.float()
        terms["masks"] = _mask(maps[:, HEAD_FINE], true.head_fine) + _mask(maps[:, BRAIN], true.brain)
        terms["skull"] = masked_mean(_skull(maps[:, SKULL], true.distance), true.headed)
        terms["eyes"] = _eyes(maps[:, EYE_LEFT : EYE_RIGHT + 1], true.eyes, true.posed)
    return terms


def _mask(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy plus one minus the soft Dice."""
    share = torch.sigmoid(logits)
    axes = (1, 2, 3)
    dice = (2 * (share * truth).sum(dim=axes) + 1) / (share.sum(dim=axes) + truth.sum(dim=axes) + 1)
    return F.binary_cross_entropy_with_logits(logits, truth) + (1 - dice).mean()


def _skull(predicted: Tensor, distance: Tensor) -> Tensor:
    """Mean error of the distance, most of it near the skull; (N,)."""
    truth = distance.clamp(-_DISTANCE_REACH, _DISTANCE_REACH)
    weight = 0.1 + torch.exp(-((truth / 0.12) ** 2))
    error = (predicted.clamp(-2, 2) - truth).abs() * weight
    return error.sum(dim=(1, 2, 3)) / weight.sum(dim=(1, 2, 3))


def _eyes(logits: Tensor, truth: Tensor, wanted: Tensor) -> Tensor:
    """Where: cross-entropy of the map as a distribution. Whether: the highest logit is that of its presence."""
    flat, aim = logits.flatten(2), truth.flatten(2)
    present = (aim.sum(dim=2) > 0.5).float()
    where = -(aim * F.log_softmax(flat, dim=2)).sum(dim=2)
    whether = F.binary_cross_entropy_with_logits(flat.amax(dim=2), present, reduction="none")
    counted = wanted[:, None].expand_as(present)
    return masked_mean(where, counted * present) + masked_mean(whether, counted)
