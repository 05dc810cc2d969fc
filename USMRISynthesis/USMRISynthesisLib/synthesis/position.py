"""Positional encoding of canonical space for decoder C: norms remove a constant location channel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN = 64
_FREQUENCIES = (1.0, 2.0, 4.0)


class PositionalEncoding(nn.Module):
    """A learnt encoding of (x, y, z), added to a feature (N, channels, h, w) of canonical slices.

    Columns and rows run from -1 to 1 across the slice, the third coordinate is the input's location channel. It is
    a small network on sines and cosines of x, y and z, the same for every image. It starts at zero, so that weights
    trained without it remain valid. With `planes` the plane's code (`planes.py`) is an input too: it decides which of
    the three coordinates is which axis, and adds a term of its own.
    """

    corners: Tensor

    def __init__(self, channels: int, *, planes: bool = False) -> None:
        super().__init__()
        # linear interpolation between the corners is the coordinate, at any size and on any device
        corners = torch.tensor([[[-1.0, 1.0], [-1.0, 1.0]], [[-1.0, -1.0], [1.0, 1.0]]])
        self.register_buffer("corners", corners[None], persistent=False)
        self.hidden = nn.Conv2d(3 * (1 + 2 * len(_FREQUENCIES)), HIDDEN, 1)
        self.out = nn.Conv2d(HIDDEN, channels, 1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)
        self.encodes_plane = planes
        if planes:
            self.plane = nn.Conv2d(3, HIDDEN, 1, bias=False)
            nn.init.zeros_(self.plane.weight)

    def forward(self, feature: Tensor, z: Tensor, plane: Tensor) -> Tensor:
        """feature (N, channels, h, w), z and plane (N, 1, 1, 1) -> feature plus its encoding."""
        height, width = feature.shape[-2], feature.shape[-1]
        across = F.interpolate(self.corners, size=(height, width), mode="bilinear", align_corners=True)
        place = torch.cat([across.expand(feature.shape[0], -1, -1, -1), z.expand(-1, -1, height, width)], dim=1)
        if self.encodes_plane:
            axial, coronal, sagittal = F.relu(-plane), 1 - plane.abs(), F.relu(plane)
            column, row, through = place[:, :1], place[:, 1:2], place[:, 2:]
            place = torch.cat([
                (axial + coronal) * column + sagittal * through,
                axial * row + coronal * through + sagittal * column,
                axial * through + (coronal + sagittal) * row,
            ], dim=1)  # fmt: skip
        waves = [place]
        for frequency in _FREQUENCIES:
            waves += [torch.sin(3.14159265 * frequency * place), torch.cos(3.14159265 * frequency * place)]
        hidden = self.hidden(torch.cat(waves, dim=1))
        if self.encodes_plane:
            hidden = hidden + self.plane(torch.cat([axial, coronal, sagittal], dim=1))
        return feature + self.out(F.relu(hidden))
