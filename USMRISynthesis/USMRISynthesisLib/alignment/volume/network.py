"""The multi-task alignment network: one trunk, dense answers about the head and its structures (torch).

After Namburete et al. 2018 (doi 10.1016/j.media.2018.02.006): a fully convolutional trunk with branches for head
localisation, structures and alignment. What is ours, and what made it learn in an hour on a CPU:

- **Dense canonical coordinates carry the pose.** Every cell says where in canonical space it lies, and how sure it
  is; a closed form through all of them is the pose, and what is left over says how much to trust it. "What part of the
  head is this" is a question that convolutions answer, and one volume gives thousands of answers instead of seven.
- **One symmetry at a time.** A head's midplane shows in any orientation; regressing the rest with it takes ten times
  as long. So `locate` learns head and distance to the midline, `orient` meets heads whose midplane is known and has
  one angle to tell, and `refine` meets heads that nearly stand as they should.
- **Mirroring is free.** A mirrored head is a head: left and right are told apart by where A and S point, so training
  flips half of the heads and the network sees twice as many. No left-right confusion can arise from it.
- **Batch norm.** Norms over each cube alone erase, on the few cells of the deepest level, what the cube as a whole has
  to say; nothing learnt there could reach the cells.
- **Half resolution inside.** The input's 2x2x2 cells become channels (no information is lost), the trunk runs at
  half the resolution, masks are shuffled back to the full one: an eighth of the cost of the first level.

Nothing here reads files or knows millimetres.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BRAIN, HEAD_FINE, SKULL, EYE_LEFT, EYE_RIGHT = range(5)  # maps
HEAD, X, Y, Z, LOG_SIGMA, UPRIGHT = range(6)  # fields
FIELDS = 6
# Logits are large numbers and Adam's steps small ones: without this factor the masks alone took 40 steps longer.
MAP_GAIN = 8.0


@dataclass(frozen=True)
class Stage:
    """One pass, with a network of its own.

    size: cells along the cube's side. side_mm: that side in canonical mm, the unit of the coordinates being its half;
    nominal in `locate`, which looks at the whole fan first. widths: channels of each level. maps: how many maps of the
    input's own resolution there are. upright: the head stands nearly as it should, so that its coordinates are nearly
    the cube's own.
    """

    size: int
    side_mm: float
    widths: tuple[int, ...]
    maps: int = 0
    upright: bool = False


STAGES = {
    "locate": Stage(32, 150.0, (16, 32, 96)),
    "orient": Stage(32, 130.0, (16, 32, 96)),
    "refine": Stage(48, 116.0, (16, 32, 96), maps=5, upright=True),
}


class Prediction(NamedTuple):
    """What one pass says. S cells along the input's side, s half of it.

    maps: (N, 5 or 0, S, S, S): logit of the brain and of the head, skull distance (half-sides of the cube, negative
        inside), logits of left and right eye socket.
    fields: (N, 6, s, s, s): logit of the head; canonical x, y, z in half-sides of the stage's cube (`locate`: x without
        its sign, y and z void; `orient`: x along the cube's own first axis, whichever side that is); logarithm of the
        coordinates' expected error; logit, to be averaged over the cube, of a head that stands as the stage wants it.
    """

    maps: Tensor
    fields: Tensor


class AlignmentNetwork(nn.Module):
    """U-Net with added skips on the folded input.

    Args:
        widths: channels of each level; the input's side must divide by 2 ** len(widths).
        size: the input's side in cells: a cell knows its place.
        maps: how many maps of the input's resolution to give.
        upright: coordinates start from the cube's own.
    """

    places: Tensor

    def __init__(
        self, widths: tuple[int, ...] = (16, 32, 96), size: int = 32, maps: int = 0, upright: bool = False
    ) -> None:
        super().__init__()
        if size % 2 ** len(widths):
            raise ValueError(f"{size} cells do not halve {len(widths)} times")
        self.full, self.upright = maps, upright
        self.down = nn.ModuleList()
        before = 8 + 3
        for width in widths:
            # The deepest level sees the cube as a whole: with one block more its cells reach each other.
            more = [_block(width, width)] if width is widths[-1] else []
            self.down.append(nn.Sequential(_block(before, width), _block(width, width), *more))
            before = width
        self.up, self.narrow = nn.ModuleList(), nn.ModuleList()
        for width in reversed(widths[:-1]):
            self.narrow.append(nn.Conv3d(before, width, 1))
            self.up.append(_block(width, width))
            before = width
        self.maps = nn.Conv3d(before, max(maps, 1) * 8, 1)
        self.fields = nn.Conv3d(before, FIELDS, 1)
        self.register_buffer("places", grid(size // 2)[None], persistent=False)
        with torch.no_grad():
            for layer in (self.maps, self.fields):
                for parameter in layer.parameters():
                    parameter.div_(MAP_GAIN)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 1, S, S, S) in [-1, 1], -1 outside the fan -> the fields of `Prediction`."""
        y = torch.cat((fold(x), self.places.expand(x.shape[0], -1, -1, -1, -1)), dim=1)
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            if level:
                y = F.max_pool3d(y, 2)
            y = block(y)
            skips.append(y)
        for narrow, block, skip in zip(self.narrow, self.up, reversed(skips[:-1]), strict=True):
            y = block(F.interpolate(narrow(y), scale_factor=2.0, mode="nearest") + skip)
        fields = self.fields(y)
        if self.upright:
            fields = fields + F.pad(self.places, (0, 0, 0, 0, 0, 0, 1, FIELDS - 4))
        maps = unfold(MAP_GAIN * self.maps(y), max(self.full, 1))[:, : self.full]
        return Prediction(maps, fields)


def _block(before: int, after: int) -> nn.Module:
    return nn.Sequential(nn.Conv3d(before, after, 3, padding=1, bias=False), nn.BatchNorm3d(after), nn.LeakyReLU(0.1))


def fold(x: Tensor) -> Tensor:
    """(N, 1, S, S, S) -> (N, 8, s, s, s): neighbouring cells become channels."""
    # The number of samples stays open (-1): a trace would make a constant of it.
    k, j, i = (int(size) // 2 for size in x.shape[2:])
    return x.reshape(-1, k, 2, j, 2, i, 2).permute(0, 2, 4, 6, 1, 3, 5).reshape(-1, 8, k, j, i)


def unfold(x: Tensor, channels: int) -> Tensor:
    """(N, channels * 8, s, s, s) -> (N, channels, S, S, S): the inverse of `fold`."""
    k, j, i = (int(size) for size in x.shape[2:])
    parts = x.reshape(-1, channels, 2, 2, 2, k, j, i).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return parts.reshape(-1, channels, 2 * k, 2 * j, 2 * i)


def grid(size: int) -> Tensor:
    """Coordinates (3, size, ...) in (-1, 1) of the cells' centres, order x, y, z; axes as arrays are: (k, j, i)."""
    axis = (torch.arange(size, dtype=torch.float32) + 0.5) * (2 / size) - 1
    parts = torch.meshgrid(axis, axis, axis, indexing="ij")
    return torch.stack(parts[::-1])
