"""The networks of a 2D frame: one outlines the head, one finds the end at which the face lies (torch).

The outline network is the volumes' U-Net in two dimensions. Every cell predicts whether it lies in the head, its
distance to the outline with the expected error, and the direction of the midline; all cells near the outline then
determine the five numbers of an ellipse. The face has a network of its own: predicted in the same pass it was not
learnt within 6,000 steps, but in squares with the head upright, where two directions remain, a few hundred are enough.
Nothing here reads files; coordinates are those of the square.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from USMRISynthesisLib.alignment.common.unet import UNet, conv_block

# HEAD: logit of the head. DISTANCE: to the outline, half-sides of the square, negative inside. LOG_SIGMA: logarithm
# of the distance's expected error. COS, SIN: of twice the midline's angle. HEADED: to be averaged over the square;
# logit of there being a head.
HEAD, DISTANCE, LOG_SIGMA, COS, SIN, HEADED = range(6)
FIELDS = 6
SIZE = 128
WIDTHS = (24, 48, 96, 112)
FACE_SIZE = 80
FACE_WIDTHS = (12, 24, 36)
_FACE_CELLS = 5
# Logits are large and Adam's steps small (as in the volumes' network).
GAIN = 8.0


@dataclass(frozen=True)
class FrameConfig:
    """What fixes the two networks' shapes: channels of each level. Plain values, written into the manifest."""

    widths: tuple[int, ...] = WIDTHS
    face_widths: tuple[int, ...] = FACE_WIDTHS


class FrameNetwork(UNet):
    """Predicts `FIELDS` in every cell; `size` cells a side must halve len(widths) times."""

    gains: Tensor

    def __init__(self, widths: tuple[int, ...] = WIDTHS, size: int = SIZE) -> None:
        super().__init__(2, widths, size)
        self.fields = nn.Conv2d(self.width, FIELDS, 1)
        gains = torch.full((1, FIELDS, 1, 1), GAIN)
        gains[:, [DISTANCE, LOG_SIGMA]] = 1.0
        self.register_buffer("gains", gains, persistent=False)
        with torch.no_grad():
            for parameter in self.fields.parameters():
                parameter.div_(GAIN)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, S, S) in [-1, 1], -1 outside the fan -> fields (N, 6, S/2, S/2)."""
        fields: Tensor = self.fields(self.trunk(x)) * self.gains
        return fields


class FaceNetwork(nn.Module):
    """Upright squares (N, 1, 80, 80) in [-1, 1] -> (N,): logit of the face lying where y grows."""

    def __init__(self, widths: tuple[int, ...] = FACE_WIDTHS) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 4
        for width in widths:
            layers += [conv_block(2, before, width), conv_block(2, width, width), nn.MaxPool2d(2)]
            before = width
        self.features = nn.Sequential(*layers)
        self.drop = nn.Dropout(0.3)
        self.last = nn.Linear(before * _FACE_CELLS**2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.drop(self.features(F.pixel_unshuffle(x, 2)).flatten(1)))
        return y[:, 0]
