"""EdgeNet (section 2.1, structural consistency): an image's edges by four frozen 3x3 convolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FLOOR = 1e-4  # keeps the square root's gradient finite where the image is flat


class EdgeNet(nn.Module):
    """Image (N, 1, H, W) in [-1, 1] -> edge magnitude (N, 1, H, W); a step over the full range gives about 1.

    The paper fixes "four 3x3 convolutional layers with parameters fixed" and no more. Ours: binomial
    smoothing; Sobel kernels along both axes; their energies summed over a small neighbourhood; binomial
    smoothing of the magnitude, so that an edge half a pixel off is not another edge. The kernels are buffers,
    not parameters: no optimiser can move them, while the gradient reaches the image.
    """

    smooth: Tensor
    sobel: Tensor
    energy: Tensor

    def __init__(self) -> None:
        super().__init__()
        binomial = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16
        across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 4
        self.register_buffer("smooth", binomial.view(1, 1, 3, 3))
        self.register_buffer("sobel", torch.stack([across, across.t()]).view(2, 1, 3, 3))
        self.register_buffer("energy", binomial.expand(1, 2, 3, 3).contiguous())

    def forward(self, image: Tensor) -> Tensor:
        with torch.autocast(image.device.type, enabled=False):  # differences of close values need the digits
            x = F.conv2d(_replicate(image), self.smooth)
            x = F.conv2d(_replicate(x), self.sobel).square()
            x = (F.conv2d(_replicate(x), self.energy) + FLOOR).sqrt()
            return F.conv2d(_replicate(x), self.smooth)


def _replicate(x: Tensor) -> Tensor:
    """One pixel of border, repeated: zeros would draw an edge around every image."""
    return F.pad(x, (1, 1, 1, 1), mode="replicate")
