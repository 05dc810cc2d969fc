"""The U-Net of the alignment networks, in two or three dimensions (torch).

The input's 2x2(x2) cells become channels (no information is lost) and the trunk runs at half the resolution, which
saves most of the cost of the first level. Skips are added, not concatenated. The norm is batch norm: a norm over each
cube alone would erase, on the few cells of the deepest level, what distinguishes the cube as a whole.

The names of the layers are those of the stored models and do not change.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class UNet(nn.Module):
    """Trunk of a network that predicts in every cell; a subclass adds its output layers.

    Args:
        dims: 2 or 3.
        widths: channels of each level; the input's side must divide by 2 ** len(widths).
        size: the input's side in cells: a cell receives its own coordinates.
    """

    places: Tensor

    def __init__(self, dims: int, widths: tuple[int, ...], size: int) -> None:
        super().__init__()
        if size % 2 ** len(widths):
            raise ValueError(f"{size} cells do not halve {len(widths)} times")
        self.dims, self.width = dims, widths[0]
        convolution = nn.Conv3d if dims == 3 else nn.Conv2d
        self.down = nn.ModuleList()
        before = 2**dims + dims
        for width in widths:
            # One block more on the deepest level, whose cells then see the whole input.
            more = [conv_block(dims, width, width)] if width is widths[-1] else []
            self.down.append(nn.Sequential(conv_block(dims, before, width), conv_block(dims, width, width), *more))
            before = width
        self.up, self.narrow = nn.ModuleList(), nn.ModuleList()
        for width in reversed(widths[:-1]):
            self.narrow.append(convolution(before, width, 1))
            self.up.append(conv_block(dims, width, width))
            before = width
        self.register_buffer("places", cell_centres(size // 2, dims)[None], persistent=False)

    def trunk(self, x: Tensor) -> Tensor:
        """(N, 1, S, ...) in [-1, 1], -1 outside the fan -> features (N, widths[0], S/2, ...)."""
        pool = F.max_pool3d if self.dims == 3 else F.max_pool2d
        y = torch.cat((fold(x), self.places.expand(x.shape[0], *[-1] * (self.dims + 1))), dim=1)
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            if level:
                y = pool(y, 2)
            y = block(y)
            skips.append(y)
        for narrow, block, skip in zip(self.narrow, self.up, reversed(skips[:-1]), strict=True):
            y = block(F.interpolate(narrow(y), scale_factor=2.0, mode="nearest") + skip)
        return y


def conv_block(dims: int, before: int, after: int) -> nn.Module:
    """A convolution over 3 cells a side, batch norm and a leaky ReLU."""
    convolution, norm = (nn.Conv3d, nn.BatchNorm3d) if dims == 3 else (nn.Conv2d, nn.BatchNorm2d)
    return nn.Sequential(convolution(before, after, 3, padding=1, bias=False), norm(after), nn.LeakyReLU(0.1))


def fold(x: Tensor) -> Tensor:
    """(N, 1, S, ...) -> (N, 2 ** dims, s, ...): neighbouring cells become channels."""
    if x.dim() == 4:
        return F.pixel_unshuffle(x, 2)
    # The number of samples stays open (-1): a trace would make a constant of it.
    k, j, i = (int(size) // 2 for size in x.shape[2:])
    return x.reshape(-1, k, 2, j, 2, i, 2).permute(0, 2, 4, 6, 1, 3, 5).reshape(-1, 8, k, j, i)


def unfold(x: Tensor, channels: int) -> Tensor:
    """(N, channels * 8, s, s, s) -> (N, channels, S, S, S): the inverse of `fold` in three dimensions."""
    k, j, i = (int(size) for size in x.shape[2:])
    parts = x.reshape(-1, channels, 2, 2, 2, k, j, i).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return parts.reshape(-1, channels, 2 * k, 2 * j, 2 * i)


def cell_centres(size: int, dims: int) -> Tensor:
    """Coordinates (dims, size, ...) in (-1, 1) of the cells' centres, order x, y(, z); array axes are (k,) j, i."""
    axis = (torch.arange(size, dtype=torch.float32, device="cpu") + 0.5) * (2 / size) - 1
    return torch.stack(torch.meshgrid(*[axis] * dims, indexing="ij")[::-1])
