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
        return _in_evaluation(x, self.num_features, self.weight, self.bias, self.eps)


class GroupNorm(nn.GroupNorm):
    """A few channels at a time, with a learnt gain and offset for each. (N, C, H, W) -> (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
        return _in_evaluation(x, self.num_groups, self.weight, self.bias, self.eps)


@torch.jit.script_if_tracing
def _in_evaluation(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Group norm that leaves in channels_last.

    torch's group norm for channels_last adds plain sums of squares: with a mean of five standard deviations float32 is
    wrong by 6e-4, and by another amount for another number of threads. In the layout of planes it is exact, for two
    copies.

    In bfloat16 on a CPU, batch norm of one image needs no copy and half the time: its kernel for channels_last takes
    the mean away before it squares. It is then as exact as bfloat16 itself, as long as gain and statistics stay
    in float32, but to 1e-5 only; so float32 goes by planes. A script, for a trace would keep the one way it saw.
    """
    if x.dtype != torch.bfloat16 or x.device.type != "cpu":
        x = torch.group_norm(x.contiguous(), groups, weight, bias, eps)
        return x.contiguous(memory_format=torch.channels_last)
    gain, offset = weight.float(), bias.float()
    images = x.split(1)
    normed: list[Tensor] = []
    if groups == x.size(1):
        for image in images:
            normed.append(torch.batch_norm(image, gain, offset, None, None, True, 0.0, eps, False))
        return torch.cat(normed)
    # Not used, but where they are float32 so are the statistics that come back.
    unused, unused_too = torch.zeros_like(gain), torch.ones_like(gain)
    means: list[Tensor] = []
    variances: list[Tensor] = []
    for image in images:
        mean, variance = torch.batch_norm_update_stats(image, unused, unused_too, 0.0)
        means.append(mean)
        variances.append(variance)
    mean = torch.stack(means).view(len(images), groups, -1)
    between = mean - mean.mean(2, keepdim=True)
    variance = torch.stack(variances).view(len(images), groups, -1) + between * between
    mean = (mean - between).flatten(1)
    variance = variance.mean(2, keepdim=True).expand_as(between).flatten(1)
    for n, image in enumerate(images):
        normed.append(torch.batch_norm(image, gain, offset, mean[n], variance[n], False, 0.0, eps, False))
    return torch.cat(normed)


def instance_norm(channels: int) -> nn.Module:
    """Every channel of every image on its own, with a learnt gain and offset."""
    return InstanceNorm(channels, affine=True)


def group_norm(channels: int) -> nn.Module:
    """Eight channels at a time, or all where eight do not divide them.

    The channels' relative strength within a group survives.
    """
    return GroupNorm(channels // 8 if channels % 8 == 0 else 1, channels)


def with_torch_norms(network: nn.Module) -> nn.Module:
    """The network itself, with torch's own norms in the places of these: other runtimes can convert those.

    The same parameters; outputs differ by float32's last digits.
    """
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            norm: nn.Module
            if isinstance(child, InstanceNorm):
                norm = nn.InstanceNorm2d(child.num_features, eps=child.eps, affine=True)
            elif isinstance(child, GroupNorm):
                norm = nn.GroupNorm(child.num_groups, child.num_channels, eps=child.eps)
            else:
                continue
            norm.weight, norm.bias = child.weight, child.bias
            setattr(parent, name, norm.train(child.training))
    return network
