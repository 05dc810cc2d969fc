"""EdgeNet (section 2.1, structural consistency): an image's edges by four frozen 3x3 convolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FLOOR = 1e-4  # keeps the square root's gradient finite where the image is flat


class EdgeNet(nn.Module):
    """Image (N, 1, H, W) in [-1, 1] -> edge magnitude (N, 1, H, W); a step over the full range gives about 1.

    The paper fixes "four 3x3 convolutional layers with parameters fixed" and no more. Ours: binomial
    smoothing; Sobel kernels in four directions; their energies pooled in each direction; the directions
    summed. The kernels are buffers, not parameters: no optimiser can move them, while the gradient reaches
    the image.
    """

    smooth: Tensor
    sobel: Tensor
    pool: Tensor
    combine: Tensor

    def __init__(self) -> None:
        super().__init__()
        binomial = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16
        across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
        diagonal = torch.tensor([[-2.0, -1.0, 0.0], [-1.0, 0.0, 1.0], [0.0, 1.0, 2.0]]) / 8
        directions = torch.stack([across, across.t(), diagonal, diagonal.flip(1)])
        centre = torch.zeros(3, 3)
        centre[1, 1] = 1.0
        self.register_buffer("smooth", binomial.view(1, 1, 3, 3))
        self.register_buffer("sobel", directions.view(4, 1, 3, 3))
        self.register_buffer("pool", (0.5 * centre + 0.5 * binomial).expand(4, 1, 3, 3).contiguous())
        self.register_buffer("combine", (centre / 2).expand(1, 4, 3, 3).contiguous())

    def forward(self, image: Tensor) -> Tensor:
        with torch.autocast(image.device.type, enabled=False):  # differences of close values need the digits
            x = F.conv2d(_replicate(image), self.smooth)
            x = F.conv2d(_replicate(x), self.sobel).square()
            x = F.conv2d(_replicate(x), self.pool, groups=4)
            return (F.conv2d(_replicate(x), self.combine) + FLOOR).sqrt()


def _replicate(x: Tensor) -> Tensor:
    """One pixel of border, repeated: zeros would draw an edge around every image."""
    return F.pad(x, (1, 1, 1, 1), mode="replicate")
