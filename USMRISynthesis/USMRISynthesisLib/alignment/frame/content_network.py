"""The network that says what a 2D frame shows: whether a fetal brain, and in which plane (torch).

A small residual network. It sees the frame's fan alone, so that burnt-in text and the picture's size say nothing, and
has no coordinates as input: where the brain lies in the picture says nothing either.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from USMRISynthesisLib.alignment.frame.content import PLANES

SIZE = 96
WIDTHS = (24, 40, 72, 96)


@dataclass(frozen=True)
class ContentConfig:
    """What fixes the network's shape: channels of each level. Plain values, written into the manifest."""

    widths: tuple[int, ...] = WIDTHS


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside the identity: (N, C, H, W) -> the same shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(F.relu(self.first(x))))


class ContentNetwork(nn.Module):
    """Frames (N, 1, 96, 96) in [-1, 1], -1 outside the fan -> (N, 5): logit of a brain, then one of each plane."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        levels: list[nn.Module] = []
        before = 4
        for number, width in enumerate(widths):
            pool = [nn.MaxPool2d(2)] if number else []
            entry = nn.Sequential(*pool, nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
            levels.append(nn.Sequential(entry, nn.ReLU(), *([ResidualBlock(width)] if number else [])))
            before = width
        self.levels = nn.Sequential(*levels)
        self.drop = nn.Dropout(0.2)
        self.last = nn.Linear(before, 1 + len(PLANES))

    def forward(self, x: Tensor) -> Tensor:
        y = self.levels(F.pixel_unshuffle(x, 2))
        logits: Tensor = self.last(self.drop(y.mean(dim=(2, 3))))
        return logits
