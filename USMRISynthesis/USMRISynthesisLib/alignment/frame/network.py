"""The networks of a 2D frame: one that outlines the head, and one that tells which end is the face (torch).

The trunk is that of the volumes' networks (network.py) with one axis less. Every cell says whether it lies in the
head, how far the outline is and how sure that is, and which way the midline lies; all cells that lie near the
outline then decide about five numbers. Asked for the face's end as well it learnt nothing in 6000 steps; once the head
stands upright there are two ways left, and a few hundred steps tell them (one symmetry at a time, as in network.py).
Nothing here reads files or knows millimetres.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
# Logits are large numbers and Adam's steps small ones (as in network.py).
GAIN = 8.0


class FrameNetwork(nn.Module):
    """U-Net with added skips on the folded input; `size` cells a side must halve len(widths) times."""

    places: Tensor

    def __init__(self, widths: tuple[int, ...] = WIDTHS, size: int = SIZE) -> None:
        super().__init__()
        if size % 2 ** len(widths):
            raise ValueError(f"{size} cells do not halve {len(widths)} times")
        self.down = nn.ModuleList()
        before = 4 + 2
        for width in widths:
            # The deepest level sees the square as a whole: with one block more its cells reach each other.
            more = [_block(width, width)] if width is widths[-1] else []
            self.down.append(nn.Sequential(_block(before, width), _block(width, width), *more))
            before = width
        self.up, self.narrow = nn.ModuleList(), nn.ModuleList()
        for width in reversed(widths[:-1]):
            self.narrow.append(nn.Conv2d(before, width, 1))
            self.up.append(_block(width, width))
            before = width
        self.fields = nn.Conv2d(before, FIELDS, 1)
        self.register_buffer("places", grid(size // 2)[None], persistent=False)
        gains = torch.full((1, FIELDS, 1, 1), GAIN)
        gains[:, [DISTANCE, LOG_SIGMA]] = 1.0
        self.register_buffer("gains", gains, persistent=False)
        with torch.no_grad():
            for parameter in self.fields.parameters():
                parameter.div_(GAIN)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, S, S) in [-1, 1], -1 outside the fan -> fields (N, 6, S/2, S/2)."""
        y = torch.cat((F.pixel_unshuffle(x, 2), self.places.expand(x.shape[0], -1, -1, -1)), dim=1)
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            if level:
                y = F.max_pool2d(y, 2)
            y = block(y)
            skips.append(y)
        for narrow, block, skip in zip(self.narrow, self.up, reversed(skips[:-1]), strict=True):
            y = block(F.interpolate(narrow(y), scale_factor=2.0, mode="nearest") + skip)
        fields: Tensor = self.fields(y) * self.gains
        return fields


class FaceNetwork(nn.Module):
    """Upright squares (N, 1, 80, 80) in [-1, 1] -> (N,): logit of the face lying where y grows."""

    def __init__(self, widths: tuple[int, ...] = FACE_WIDTHS) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 4
        for width in widths:
            layers += [_block(before, width), _block(width, width), nn.MaxPool2d(2)]
            before = width
        self.features = nn.Sequential(*layers)
        self.drop = nn.Dropout(0.3)
        self.last = nn.Linear(before * _FACE_CELLS**2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.drop(self.features(F.pixel_unshuffle(x, 2)).flatten(1)))
        return y[:, 0]


def _block(before: int, after: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.LeakyReLU(0.1))


def grid(size: int) -> Tensor:
    """Coordinates (2, size, size) in (-1, 1) of the cells' centres, x then y; axes as arrays are: (j, i)."""
    axis = (torch.arange(size, dtype=torch.float32) + 0.5) * (2 / size) - 1
    return torch.stack(torch.meshgrid(axis, axis, indexing="ij")[::-1])
