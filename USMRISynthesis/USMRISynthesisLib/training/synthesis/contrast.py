"""The patch contrast of CUT (Park et al., ECCV 2020): a patch of the output resembles its own place in the input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TEMPERATURE = 0.07  # theirs
PATCHES = 128  # places an image and level; theirs are 256 on images of 256 x 256
WIDTH = 64


class PatchContrast(nn.Module):
    """Encoder features of output and input, finest first, each (N, C, h, w) -> InfoNCE over places of one image.

    `channels`: of every level of the encoder. The finest level is left out, for it would tie the output's texture to
    speckle. Each level has a two-layer head; the input's side is detached, as theirs is.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(count, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)) for count in channels[1:]
        )

    def forward(self, output: Sequence[Tensor], given: Sequence[Tensor]) -> Tensor:
        """Mean cross-entropy over levels, images and places; log(places) where nothing is recognised."""
        losses = []
        for head, made, source in zip(self.heads, output[1:], given[1:], strict=True):
            places = torch.randperm(made[0, 0].numel(), device=made.device)[:PATCHES]
            query = F.normalize(head(_patches(made, places)), dim=-1)
            key = F.normalize(head(_patches(source, places)), dim=-1).detach()
            likeness = (query @ key.transpose(1, 2)).float() / TEMPERATURE  # (N, places, places)
            target = torch.arange(len(places), device=made.device).expand(len(likeness), -1)
            losses.append(F.cross_entropy(likeness.flatten(0, 1), target.flatten()))
        return torch.stack(losses).mean()


def _patches(feature: Tensor, places: Tensor) -> Tensor:
    """(N, C, h, w) -> (N, places, C)."""
    return feature.flatten(2)[:, :, places].transpose(1, 2)
