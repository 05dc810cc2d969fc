"""The two networks: a variational auto-encoder of slices, and the super-resolution network of through-plane views.

Xuan et al. 2021 fix the scheme (a VAE synthesises, a super-resolution network learns from what it synthesised); layers
and widths are our own. Both take any size: they pad to multiples of 4, their coarsest step, and cut off again. No
training code here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

CONDITIONS = 4  # rows of `engine.conditions`
RESIDUAL = 0.1  # what a linear estimate lacks is small: without it, a step of training is larger than that


@dataclass(frozen=True)
class SpacingNetworkConfig:
    """What fixes the two networks' shapes. Plain values, written into the manifest.

    width: of the super-resolution network's first level; vae_width: of the VAE's; latent: channels of its latent.
    """

    width: int = 16
    vae_width: int = 24
    latent: int = 16


def _conv(inside: int, outside: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, 3, stride, 1)


class Residual(nn.Module):
    """x + conv(relu(conv(x))), two 3x3 convolutions of one width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = _conv(width, width), _conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(functional.relu(self.first(x)))


class SliceVAE(nn.Module):
    """A VAE of slices (N, 1, h, w) around 0-1, with a latent that keeps the places: (N, channels, h/4, w/4)."""

    def __init__(self, width: int = 24, channels: int = 16) -> None:
        super().__init__()
        self.channels = channels
        self.encoder = nn.Sequential(
            _conv(1, width),
            nn.ReLU(),
            _conv(width, 2 * width, 2),
            nn.ReLU(),
            Residual(2 * width),
            _conv(2 * width, 2 * width, 2),
            nn.ReLU(),
            Residual(2 * width),
            _conv(2 * width, 2 * channels),
        )
        self.decoder = nn.Sequential(
            _conv(channels, 2 * width),
            Residual(2 * width),
            Residual(2 * width),
            nn.Upsample(scale_factor=2.0),
            _conv(2 * width, 2 * width),
            nn.ReLU(),
            Residual(2 * width),
            nn.Upsample(scale_factor=2.0),
            _conv(2 * width, width),
            nn.ReLU(),
            _conv(width, 1),
        )

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latent of slices whose sides are multiples of 4."""
        mean, logarithm = self.encoder(x).chunk(2, 1)
        return mean, logarithm.clamp(-20.0, 4.0)

    def decode(self, latent: Tensor) -> Tensor:
        """Slices (N, 1, 4 h, 4 w) of latents (N, channels, h, w)."""
        return self.decoder(latent)

    def forward(self, x: Tensor) -> Tensor:
        """What the mean latent of each slice decodes to; any size."""
        return self.decode(self.encode(padded(x))[0])[:, :, : x.shape[2], : x.shape[3]]


class SuperResolution(nn.Module):
    """A residual U-Net: x (N, 1, m, w), the linear estimate of a through-plane view on the fine grid -> the view.

    conditions (4, m): what the fine rows are to the thick slices (`conditions`), the same for the whole batch.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.residual = RESIDUAL
        self.head = nn.Sequential(_conv(1 + CONDITIONS, width), nn.ReLU(), Residual(width))
        self.down = nn.Sequential(_conv(width, 2 * width, 2), nn.ReLU(), Residual(2 * width))
        self.bottom = nn.Sequential(_conv(2 * width, 4 * width, 2), nn.ReLU(), Residual(4 * width), Residual(4 * width))
        self.up = nn.Conv2d(4 * width, 2 * width, 1)
        self.middle = Residual(2 * width)
        self.top = nn.Conv2d(2 * width, width, 1)
        self.tail = nn.Sequential(Residual(width), _conv(width, 1))

    def forward(self, x: Tensor, conditions: Tensor) -> Tensor:
        m, w = x.shape[2], x.shape[3]
        known = conditions.reshape(1, -1, m, 1).expand(x.shape[0], -1, m, w)
        fed = padded(torch.cat([x, known.to(x.dtype)], 1))
        full = self.head(fed)
        half = self.down(full)
        quarter = self.bottom(half)
        half = self.middle(half + functional.interpolate(self.up(quarter), scale_factor=2.0))
        full = full + functional.interpolate(self.top(half), scale_factor=2.0)
        return x + self.residual * self.tail(full)[:, :, :m, :w]


class SpacingNetworks(nn.Module):
    """Both networks in one file; the product runs the super-resolution one, `vae` is what trained it."""

    def __init__(self, vae: SliceVAE, super_resolution: SuperResolution) -> None:
        super().__init__()
        self.vae = vae
        self.super_resolution = super_resolution

    def forward(self, x: Tensor, conditions: Tensor) -> Tensor:
        return self.super_resolution(x, conditions)


def padded(x: Tensor) -> Tensor:
    """(N, C, h, w) with its last rows and columns repeated up to multiples of 4."""
    return functional.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4), mode="replicate")
