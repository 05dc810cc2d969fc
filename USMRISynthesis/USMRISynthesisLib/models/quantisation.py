"""Convolutions whose weights are stored as bytes: a file half as large as one in half precision."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_LARGEST = 127.0


class ByteConvolution(nn.Module):
    """A 2D or 3D convolution, its weights rounded to 255 steps between each output channel's largest and its negative.

    They are multiplied out at every call, which costs next to nothing beside the convolution, or once, where the module
    is frozen; biases are as they were. In whatever precision `largest` has been brought to.
    """

    weight: Tensor
    largest: Tensor
    bias: Tensor

    def __init__(self, layer: nn.Conv2d | nn.Conv3d) -> None:
        super().__init__()
        plain = {*layer.stride, *layer.dilation, layer.groups} == {1} and layer.padding_mode == "zeros"
        if not plain:
            raise ValueError("only plain convolutions")
        self.convolve = F.conv3d if isinstance(layer, nn.Conv3d) else F.conv2d
        weight = layer.weight.detach().float()
        largest = weight.abs().amax(dim=tuple(range(1, weight.dim())), keepdim=True).clamp(min=1e-6)
        self.padding = layer.padding
        self.register_buffer("weight", torch.round(weight / largest * _LARGEST).to(torch.int8))
        self.register_buffer("largest", largest)
        self.register_buffer("bias", torch.zeros(len(weight)) if layer.bias is None else layer.bias.detach().float())

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.type_as(self.largest) * (self.largest / _LARGEST)
        return self.convolve(x, weight, self.bias, padding=self.padding)

    def multiplied_out(self) -> nn.Module:
        """The same as an ordinary convolution, in the precision that this one has been brought to."""
        weight = self.weight.type_as(self.largest) * (self.largest / _LARGEST)
        kind: Any = nn.Conv3d if weight.dim() == 5 else nn.Conv2d
        layer: nn.Module = kind(
            weight.shape[1], weight.shape[0], tuple(weight.shape[2:]), padding=self.padding, device="meta"
        )
        layer.weight = nn.Parameter(weight, requires_grad=False)
        layer.bias = nn.Parameter(self.bias, requires_grad=False)
        return layer.eval()


def in_eight_bits(network: nn.Module) -> nn.Module:
    """A copy of a network in evaluation, its batch norms taken into the convolutions before them, these as bytes.

    See `norms_taken_in` for which.
    """
    result = norms_taken_in(copy.deepcopy(network).eval().float())
    for module in list(result.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d | nn.Conv3d):
                setattr(module, name, ByteConvolution(child))
    return result


def norms_taken_in(network: nn.Module) -> nn.Module:
    """The network itself, in evaluation: each batch norm right after a convolution in an `nn.Sequential` is part of it.

    The sums are rounded differently: outputs differ by float32's last digits.
    """
    for parent in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        layers: list[nn.Module] = []
        for layer in parent:
            before = layers[-1] if layers else None
            if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm3d) and isinstance(before, nn.Conv2d | nn.Conv3d):
                layers[-1] = fuse_conv_bn_eval(before, layer)
            else:
                layers.append(layer)
        parent._modules = {str(n): layer for n, layer in enumerate(layers)}
    return network
