"""The support map: how probable it is that the MR-like grey is right, told by a network that has seen it go wrong.

A small network looks at the ultrasound and at what the generator made of it, three slices each, and at their place. It
is trained on simulated heads, whose true MR is known, to tell voxels whose grey is off by more than `WRONG` from the
others; its probabilities are then calibrated on heads that the generator never saw (`training/support_*`). What it has
not seen go wrong it cannot tell: real ultrasound, and anomalies of other kinds.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import Cancelled
from .blocks import Encoder, UpBlock
from .slices import LOCATION_SCALE_MM

WRONG = 0.15  # of the brightest fluid's grey, after smoothing; white and grey matter lie about 0.2 apart
SMOOTHING_MM = 0.9  # before the comparison: an edge half a voxel off is not wrong
CHANNELS = (16, 32, 64, 64)
REACH = 2  # slices to the neighbours that are looked at, 1.2 mm
BATCH = 4


class SupportNetwork(nn.Module):
    """us, mr (N, 3, H, W) in [-1, 1], z (N, 1, 1, 1) in units of 48 mm -> probability (N, 1, H, W) of being right.

    Works at half the resolution; H and W divide by 16. `scale` and `offset` are the calibration (Platt 1999) of the
    logit of being wrong: sigmoid(scale * logit + offset).
    """

    scale: Tensor
    offset: Tensor
    place: Tensor

    def __init__(self, size: int = 160) -> None:
        super().__init__()
        top = len(CHANNELS) - 1
        self.encoder = Encoder(9, CHANNELS)
        self.blocks = nn.ModuleList(
            UpBlock(CHANNELS[level + 1], CHANNELS[level], CHANNELS[level], level=level, skip=True)
            for level in reversed(range(top))
        )
        self.last = nn.Conv2d(CHANNELS[0], 1, 1)
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("offset", torch.zeros(()))
        axis = torch.linspace(-1, 1, size // 2)
        y, x = torch.meshgrid(axis, axis.abs(), indexing="ij")  # left and right are alike
        self.register_buffer("place", torch.stack([y, x])[None], persistent=False)

    def logits(self, us: Tensor, mr: Tensor, z: Tensor) -> Tensor:
        """Uncalibrated logit of being wrong, (N, 1, H / 2, W / 2)."""
        images = F.avg_pool2d(torch.cat([us, mr], dim=1), 2)
        # `type_as`, not `to`: a trace keeps the dtype of `to` as a constant, and would fail in half precision
        where = torch.ones_like(images[:, :2]) * self.place.type_as(images)
        x = torch.cat([images, where, torch.ones_like(images[:, :1]) * z], dim=1)
        features = self.encoder(x)
        out = features[-1]
        for block in self.blocks:
            out = block(out, features)
        return self.last(out)

    def forward(self, us: Tensor, mr: Tensor, z: Tensor) -> Tensor:
        wrong = self.logits(us, mr, z) * self.scale.type_as(us) + self.offset.type_as(us)
        return F.interpolate(torch.sigmoid(-wrong), scale_factor=2.0, mode="bilinear", align_corners=False)


def neighbourhood(stack: np.ndarray, some: np.ndarray) -> np.ndarray:
    """Slices (n, 3, H, W) of a stack (K, H, W): those in `some` between their neighbours; the ends repeat."""
    index = np.clip(some[:, None] + np.array([-REACH, 0, REACH]), 0, len(stack) - 1)
    return np.asarray(stack[index], np.float32)


def support_map(
    network: nn.Module,
    us: np.ndarray,
    mr: np.ndarray,
    z_mm: np.ndarray,
    wanted: np.ndarray,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    cancel: Callable[[], bool] | None = None,
) -> np.ndarray:
    """Probability (K, H, W) float32 that the MR's grey is right; 0 on slices that are not `wanted`, (K,) bool.

    us, mr: (K, H, W) in [-1, 1], as the generator took and gave them; z_mm (K,). Raises Cancelled.
    """
    result = np.zeros(us.shape, np.float32)
    todo = np.flatnonzero(wanted)
    for begin in range(0, len(todo), BATCH):
        if cancel is not None and cancel():
            raise Cancelled
        some = todo[begin : begin + BATCH]
        z = torch.from_numpy((z_mm[some] / LOCATION_SCALE_MM).astype(np.float32))[:, None, None, None]
        images = [torch.from_numpy(neighbourhood(stack, some)).to(device, dtype) for stack in (us, mr)]
        with torch.inference_mode():
            result[some] = network(*images, z.to(device, dtype))[:, 0].float().clamp(0, 1).cpu().numpy()
    return result
