"""What the losses of the alignment and of the head outline share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def weighted(terms: dict[str, Tensor], weights: Any) -> Tensor:
    """The sum of the terms, each times its weight, an attribute of `weights` under the term's name."""
    return torch.stack([getattr(weights, name) * value for name, value in terms.items()]).sum()


def masked_mean(values: Tensor, wanted: Tensor) -> Tensor:
    """The mean over what is wanted; 0 where nothing is."""
    return (values * wanted).sum() / wanted.sum().clamp_min(1.0)
