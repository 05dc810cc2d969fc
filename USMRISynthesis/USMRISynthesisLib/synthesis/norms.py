"""Which normalisation the blocks use: instance norm takes the gain away, group norm keeps what channels share.

In evaluation the features leave in channels_last, as they came. torch's instance norm returns them in the other
layout, in which pooling, ReLU and concatenation are several times slower, and the next convolution copies them back.
Parameters and their names are those of torch's own modules.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class InstanceNorm(nn.InstanceNorm2d):
    """Every channel of every image on its own, with a learnt gain and offset. (N, C, H, W) -> (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return F.instance_norm(x, None, None, self.weight, self.bias, eps=self.eps)
        return _by_planes(x, self.num_features, self.weight, self.bias, self.eps)


class GroupNorm(nn.GroupNorm):
    """A few channels at a time, with a learnt gain and offset for each. (N, C, H, W) -> (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
        return _by_planes(x, self.num_groups, self.weight, self.bias, self.eps)


def _by_planes(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Group norm in the layout of planes, and back to channels_last.

    torch's kernel for channels_last is faster on large maps, but adds plain sums of squares: with a mean of five
    standard deviations float32 is wrong by 6e-4, and by another amount for another number of threads. On maps below
    1024 pixels it is slower than the two copies besides.
    """
    x = F.group_norm(x.contiguous(), groups, weight, bias, eps)
    return x.contiguous(memory_format=torch.channels_last)


def instance_norm(channels: int) -> nn.Module:
    """Every channel of every image on its own, with a learnt gain and offset."""
    return InstanceNorm(channels, affine=True)


def group_norm(channels: int) -> nn.Module:
    """Eight channels at a time, or all where eight do not divide them.

    The channels' relative strength within a group survives.
    """
    return GroupNorm(channels // 8 if channels % 8 == 0 else 1, channels)
