"""Where in canonical space a feature lies, told to decoder C: norms take a constant location channel away again."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN = 64
_FREQUENCIES = (1.0, 2.0, 4.0)


class PlaceCode(nn.Module):
    """A learnt code of (x, y, z) added to a feature (N, channels, h, w) of canonical slices.

    x and y run from -1 to 1 across the slice, z is the input's location channel. The code is a small network on
    sines and cosines of them, the same at every place and image. It starts at zero: weights from before it can go on.
    """

    corners: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        # linear interpolation between the corners is the coordinate, at any size and on any device
        corners = torch.tensor([[[-1.0, 1.0], [-1.0, 1.0]], [[-1.0, -1.0], [1.0, 1.0]]])
        self.register_buffer("corners", corners[None], persistent=False)
        self.hidden = nn.Conv2d(3 * (1 + 2 * len(_FREQUENCIES)), HIDDEN, 1)
        self.out = nn.Conv2d(HIDDEN, channels, 1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, feature: Tensor, z: Tensor) -> Tensor:
        """feature (N, channels, h, w), z (N, 1, 1, 1) -> feature plus its code."""
        height, width = feature.shape[-2], feature.shape[-1]
        plane = F.interpolate(self.corners, size=(height, width), mode="bilinear", align_corners=True)
        place = torch.cat(
            [plane.expand(feature.shape[0], -1, -1, -1), z.expand(-1, -1, height, width)], dim=1
        )
        waves = [place]
        for frequency in _FREQUENCIES:
            waves += [torch.sin(3.14159265 * frequency * place), torch.cos(3.14159265 * frequency * place)]
        return feature + self.out(F.relu(self.hidden(torch.cat(waves, dim=1))))
