"""Which normalisation the blocks use: instance norm takes the gain away, group norm keeps what channels share."""

from __future__ import annotations

from torch import nn


def instance_norm(channels: int) -> nn.Module:
    """Every channel of every image on its own, with a learnt gain and offset."""
    return nn.InstanceNorm2d(channels, affine=True)


def group_norm(channels: int) -> nn.Module:
    """Eight channels at a time, or all where eight do not divide them.

    The channels' relative strength within a group survives.
    """
    return nn.GroupNorm(channels // 8 if channels % 8 == 0 else 1, channels)
