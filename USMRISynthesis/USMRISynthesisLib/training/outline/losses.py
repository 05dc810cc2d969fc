"""The losses of the head outline in 2D: one number for each output, and their weighted sum."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from USMRISynthesisLib.alignment.frame.network import COS, DISTANCE, HEAD, HEADED, LOG_SIGMA, SIN
from USMRISynthesisLib.alignment.frame.outline import REACH
from USMRISynthesisLib.training.common.losses import masked_mean
from USMRISynthesisLib.training.outline.samples import FrameBatch


@dataclass(frozen=True)
class OutlineLossWeights:
    """Weights of the terms. distance: its mean error near the outline; spread: its predicted error; face: the
    second network's."""

    head: float = 1.0
    distance: float = 20.0
    spread: float = 0.1
    midline: float = 0.5
    headed: float = 0.3
    face: float = 1.0


def losses(fields: Tensor, true: FrameBatch) -> dict[str, Tensor]:
    """Each term, averaged over the samples it applies to. fields: (N, 6, s, s)."""
    fields = fields.float()
    near = torch.exp(-((true.distance / REACH) ** 2)) * true.there[:, None, None]
    near = near / near.sum().clamp_min(1.0)
    error = (fields[:, DISTANCE].clamp(-2, 2) - true.distance.clamp(-1, 1)).abs()
    log_sigma = fields[:, LOG_SIGMA].clamp(-7, 1)
    share = true.head / true.head.sum(dim=(1, 2), keepdim=True).clamp_min(1.0)
    midline = (fields[:, COS : SIN + 1] * share[:, None]).sum(dim=(2, 3))
    headed = F.binary_cross_entropy_with_logits(fields[:, HEADED].mean(dim=(1, 2)), true.headed, reduction="none")
    # Where part of a head is seen, neither yes nor no is right.
    outlined = torch.maximum(true.there, 1 - true.head.amax(dim=(1, 2)))
    return {
        "head": _mask(fields[:, HEAD], true.head, outlined),
        "distance": (error * near).sum(),
        "spread": ((error.detach() * torch.exp(-log_sigma) + log_sigma) * near).sum(),
        "midline": masked_mean(((midline - true.midline) ** 2).sum(dim=1), true.there),
        "headed": masked_mean(headed, true.clear),
    }


def _mask(logits: Tensor, truth: Tensor, wanted: Tensor) -> Tensor:
    """Cross-entropy plus one minus the soft Dice."""
    share = torch.sigmoid(logits)
    axes = (1, 2)
    dice = (2 * (share * truth).sum(dim=axes) + 1) / (share.sum(dim=axes) + truth.sum(dim=axes) + 1)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(dim=axes)
    return masked_mean(entropy + 1 - dice, wanted)
