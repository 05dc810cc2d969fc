"""The encoders and decoders that A, B, C, D and E are made of: convolution, up-convolution, max-pool.

A level is a resolution: level 0 is the full image, level l is 1/2^l of it along each side. Skip connections
are named by their level. All features are (N, channels, height, width).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from USMRISynthesisLib.synthesis.norms import group_norm, instance_norm

LEAK = 0.2


class ConvBlock(nn.Module):
    """Two 3x3 convolutions, each followed by instance norm and a (leaky) ReLU.

    With `first_norm=False` the first convolution keeps its mean. The block whose input is the image needs that:
    normalising there would subtract the constant location channel away again.
    """

    def __init__(self, in_channels: int, out_channels: int, leak: float, *, first_norm: bool = True) -> None:
        super().__init__()
        self.leak = leak
        self.conv_1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=not first_norm)
        self.norm_1 = instance_norm(out_channels) if first_norm else nn.Identity()
        self.conv_2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm_2 = instance_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.norm_1(self.conv_1(x)), self.leak, inplace=True)
        return F.leaky_relu(self.norm_2(self.conv_2(x)), self.leak, inplace=True)


class UpBlock(nn.Module):
    """Up-convolution to `level`, with the encoder's feature of that level beside it if `skip`.

    The up-convolution is a 3x3 convolution, nearest-neighbour upsampling, and a 3x3 convolution that smooths
    the upsampled pixels: a transposed one leaves checkerboards, in which the forward path can hide the
    ultrasound from the reader but not from D and E. Narrowing before upsampling costs a quarter of narrowing
    after it.

    Group norm here. With instance norm every channel of every slice has the same mean and variance, and
    decoder C escaped that within 1,000 steps of training by a bright spot at the rim of the head (30 standard
    deviations, saturated white). Batch norm had no spot, but its statistics are those of the simulated
    majority, and real frames, which have no paired loss, came out as nonsense.
    """

    def __init__(self, in_channels: int, out_channels: int, skip_channels: int, *, level: int, skip: bool) -> None:
        super().__init__()
        self.level = level
        self.skip = skip
        self.up_conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.up_norm = group_norm(out_channels)
        self.conv = nn.Conv2d(out_channels + (skip_channels if skip else 0), out_channels, 3, padding=1, bias=False)
        self.norm = group_norm(out_channels)

    def forward(self, x: Tensor, features: list[Tensor]) -> Tensor:
        x = F.relu(self.up_norm(self.up_conv(x)), inplace=True)
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        if self.skip:
            x = torch.cat([x, features[self.level]], dim=1)
        return F.relu(self.norm(self.conv(x)), inplace=True)


class Encoder(nn.Module):
    """A or D: image (N, in_channels, H, W) -> one feature a level, finest first; the last is the latent.

    `channels` gives each level's width; H and W must divide by 2 ** (len(channels) - 1).
    """

    def __init__(self, in_channels: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ConvBlock(before, after, LEAK, first_norm=level > 0)
            for level, (before, after) in enumerate(zip((in_channels, *channels), channels, strict=False))
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        features: list[Tensor] = []
        for level, block in enumerate(self.blocks):
            if level > 0:
                x = F.max_pool2d(x, 2)
            x = block(x)
            features.append(x)
        return features


class Decoder(nn.Module):
    """B, C or E: an encoder's features -> image (N, 1, H, W) in [-1, 1], through a tanh.

    It is cut at `split_level`, where the attention sits: `deep` goes from the latent up to that level (B
    needs no more at inference), `shallow` from there to the image. `skips` are the levels whose encoder
    feature is concatenated; others are ignored, and the latent's own level cannot be one.
    """

    def __init__(self, channels: Sequence[int], *, skips: Sequence[int], split_level: int) -> None:
        super().__init__()
        top = len(channels) - 1
        if any(not 0 <= level < top for level in skips):
            raise ValueError(f"skip levels must lie in 0..{top - 1}, not {tuple(skips)}")
        if not 0 <= split_level <= top:
            raise ValueError(f"the level to split at must lie in 0..{top}, not {split_level}")
        blocks = [
            UpBlock(channels[level + 1], channels[level], channels[level], level=level, skip=level in skips)
            for level in reversed(range(top))
        ]
        self.deep_blocks = nn.ModuleList(blocks[: top - split_level])
        self.shallow_blocks = nn.ModuleList(blocks[top - split_level :])
        self.image = nn.Conv2d(channels[0], 1, 1)  # 3x3 to a single channel costs as much as to 16

    @torch.jit.export
    def deep(self, features: list[Tensor]) -> Tensor:
        """From the latent, `features[-1]`, to the feature at the split level."""
        x = features[-1]
        for block in self.deep_blocks:
            x = block(x, features)
        return x

    @torch.jit.export
    def shallow(self, x: Tensor, features: list[Tensor]) -> Tensor:
        """From the feature at the split level to the image."""
        for block in self.shallow_blocks:
            x = block(x, features)
        return torch.tanh(self.image(x))

    def forward(self, features: list[Tensor]) -> Tensor:
        return self.shallow(self.deep(features), features)
