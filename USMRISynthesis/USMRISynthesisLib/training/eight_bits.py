"""Convolutions whose weights are stored as bytes: a file half as large as one in half precision."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_LARGEST = 127.0


class ByteConvolution(nn.Module):
    """A 2D convolution, its weights rounded to 255 steps between each output channel's largest and its negative.

    They are multiplied out at every call, which costs next to nothing beside the convolution; biases are as they were.
    """

    weight: Tensor
    largest: Tensor
    bias: Tensor

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        if layer.groups != 1 or layer.stride != (1, 1) or layer.padding_mode != "zeros" or layer.dilation != (1, 1):
            raise ValueError("only plain convolutions")
        weight = layer.weight.detach().float()
        largest = weight.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6)
        self.padding = layer.padding
        self.register_buffer("weight", torch.round(weight / largest * _LARGEST).to(torch.int8))
        self.register_buffer("largest", largest)
        self.register_buffer("bias", torch.zeros(len(weight)) if layer.bias is None else layer.bias.detach().float())

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.to(x.dtype) * (self.largest / _LARGEST)
        return F.conv2d(x, weight, self.bias, padding=self.padding)


def in_eight_bits(network: nn.Module) -> nn.Module:
    """A copy of a network in evaluation, its batch norms taken into the convolutions before them, these as bytes.

    A batch norm is taken in where it follows a convolution in an `nn.Sequential`.
    """
    result = copy.deepcopy(network).eval().float()
    for parent in [module for module in result.modules() if isinstance(module, nn.Sequential)]:
        layers: list[nn.Module] = []
        for layer in parent:
            if isinstance(layer, nn.BatchNorm2d) and layers and isinstance(layers[-1], nn.Conv2d):
                layers[-1] = fuse_conv_bn_eval(layers[-1], layer)
            else:
                layers.append(layer)
        parent._modules = {str(n): layer for n, layer in enumerate(layers)}
    for module in list(result.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d):
                setattr(module, name, ByteConvolution(child))
    return result
