"""The support map: how probable it is that the MR-like grey is right, told by a network that has seen it go wrong.

A small network looks at the ultrasound and at what the generator made of it, three slices each, at their place, and,
where the MR is the median of three planes, at how far these disagree. It is trained on simulated heads, whose true MR
is known, to tell voxels whose grey is off by more than `WRONG` from the others; its probabilities are then calibrated
on heads that the generator never saw (`training/support_*`). What it has not seen go wrong it cannot tell: real
ultrasound, and anomalies of other kinds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from ..errors import Cancelled
from ..normalisation.canonical import SPACING_MM
from .slices import LOCATION_SCALE_MM

WRONG = 0.15  # of the brightest fluid's grey, the brain's mean matched, smoothed; white and grey matter lie 0.2 apart
SMOOTHING_MM = 0.9  # before the comparison: an edge half a voxel off is not wrong
CHANNELS = (16, 32, 64, 64)
OVERVIEW = 5  # numbers of `overview`
BRAIN_SHARE = (0.28, 0.36)  # half axes of the oval where the brain lies, of a slice's width and height
BRAIN_HALF_HEIGHT_MM = 26.0
REACH = 2  # slices to the neighbours that are looked at, 1.2 mm
BATCH = 4
SPREAD_SCALE = 5.0
BRAIN = -0.5  # MR in [-1, 1] from which on there is brain to judge
RIM_MM = 1.2  # how softly its edge's probability is carried outwards
ONE_PLANE = -1.0  # in place of a spread, where there is one plane only


class SupportNetwork(nn.Module):
    """us, mr (N, 3, H, W) in [-1, 1], spread (N, 1, H, W), z (N, 1, 1, 1) in 48 mm, head (N, OVERVIEW, 1, 1) ->
    probability (N, 1, H, W) of being right.

    spread: see `spread_of`; head: see `overview`. Works at half the resolution; H and W divide by 16. `scale` and
    `offset` (2,) are the calibration (Platt 1999) of the logit of being wrong, sigmoid(scale * logit + offset), of one
    plane and of several.

    Batch norm, not the generator's instance norm: that takes away how dark a slice is, and whole heads fail because
    they are dark.
    """

    scale: Tensor
    offset: Tensor
    place: Tensor

    def __init__(self, size: int = 160) -> None:
        super().__init__()
        inputs = (7 + 2 + 1 + OVERVIEW, *CHANNELS)
        self.down = nn.ModuleList(_block(before, after) for before, after in itertools.pairwise(inputs))
        self.up = nn.ModuleList(_block(CHANNELS[level + 1] + CHANNELS[level], CHANNELS[level])
                                for level in reversed(range(len(CHANNELS) - 1)))
        self.last = nn.Conv2d(CHANNELS[0], 2, 1)
        self.register_buffer("scale", torch.ones(2))
        self.register_buffer("offset", torch.zeros(2))
        axis = torch.linspace(-1, 1, size // 2)
        y, x = torch.meshgrid(axis, axis.abs(), indexing="ij")  # left and right are alike
        self.register_buffer("place", torch.stack([y, x])[None], persistent=False)

    def readings(self, us: Tensor, mr: Tensor, spread: Tensor, z: Tensor, head: Tensor) -> Tensor:
        """(N, 2, H / 2, W / 2): uncalibrated logit of being wrong, and the logarithm of the error's expected size."""
        images = F.avg_pool2d(torch.cat([us, mr, spread], dim=1), 2)
        where = torch.ones_like(images[:, :2]) * self.place.type_as(images)
        told = torch.ones_like(images[:, :1]) * torch.cat([z, head], dim=1)
        x = torch.cat([images, where, told], dim=1)
        features = []
        for level, block in enumerate(self.down):
            x = block(F.avg_pool2d(x, 2) if level else x)
            features.append(x)
        for block, beside in zip(self.up, features[-2::-1], strict=True):
            x = block(torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), beside], dim=1))
        return self.last(x)

    def forward(self, us: Tensor, mr: Tensor, spread: Tensor, z: Tensor, head: Tensor) -> Tensor:
        several = (spread.amin(dim=(1, 2, 3), keepdim=True) >= 0).type_as(us)
        scale, offset = (
            (values[0] + (values[1] - values[0]) * several).type_as(us) for values in (self.scale, self.offset)
        )
        wrong = self.readings(us, mr, spread, z, head)[:, :1] * scale + offset
        return F.interpolate(torch.sigmoid(-wrong), scale_factor=2.0, mode="bilinear", align_corners=False)


def _block(inside: int, outside: int) -> nn.Sequential:
    """Two 3x3 convolutions, each with batch norm and ReLU."""
    layers: list[nn.Module] = []
    for channels in (inside, outside):
        layers += [nn.Conv2d(channels, outside, 3, padding=1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]
    return nn.Sequential(*layers)


def overview(us: np.ndarray, mr: np.ndarray, spread: np.ndarray | None, z_mm: np.ndarray) -> np.ndarray:
    """What a slice does not show of its head, (OVERVIEW,) float32: mean and standard deviation of the ultrasound and of
    the MR, and the mean of the planes' spread (`ONE_PLANE` without), where the brain lies and the beam was.

    us, mr, spread (K, H, W), z_mm (K,), as for `support_map`.
    """
    _, h, w = us.shape
    y, x = np.mgrid[:h, :w].astype(np.float32)
    oval = ((x - (w - 1) / 2) / (BRAIN_SHARE[0] * w)) ** 2 + ((y - (h - 1) / 2) / (BRAIN_SHARE[1] * h)) ** 2 < 1
    some = np.abs(z_mm) < BRAIN_HALF_HEIGHT_MM
    some = np.flatnonzero(some if some.any() else np.ones(len(us), bool))[::2]
    seen = (us[some] > -1) & oval
    if not seen.any():
        seen = np.ones_like(seen)
    figures = [value for stack in (us, mr) for value in (stack[some][seen].mean(), stack[some][seen].std())]
    return np.array([*figures, ONE_PLANE if spread is None else spread[some][seen].mean()], np.float32)


def neighbourhood(stack: np.ndarray, some: np.ndarray) -> np.ndarray:
    """Slices (n, 3, H, W) of a stack (K, H, W): those in `some` between their neighbours; the ends repeat."""
    index = np.clip(some[:, None] + np.array([-REACH, 0, REACH]), 0, len(stack) - 1)
    return np.asarray(stack[index], np.float32)


def spread_of(made: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """How far several planes disagree: standard deviation of their MR in [-1, 1], times 5, (K, H, W); None for one."""
    if len(made) < 2:
        return None
    return np.asarray(np.std(list(made.values()), axis=0, dtype=np.float32) * SPREAD_SCALE)


def support_map(
    network: nn.Module,
    us: np.ndarray,
    mr: np.ndarray,
    spread: np.ndarray | None,
    z_mm: np.ndarray,
    wanted: np.ndarray,
    *,
    device: torch.device | str = "cpu",
    cancel: Callable[[], bool] | None = None,
) -> np.ndarray:
    """Probability (K, H, W) float32 that the MR's grey is right; 0 on slices that are not `wanted`, (K,) bool.

    us, mr: (K, H, W) in [-1, 1], as the generator took and gave them; spread: see `spread_of`; z_mm (K,). Raises
    Cancelled.
    """
    result = np.zeros(us.shape, np.float32)
    todo = np.flatnonzero(wanted)
    whole = torch.from_numpy(overview(us, mr, spread, z_mm)).view(1, -1, 1, 1).to(device)
    for begin in range(0, len(todo), BATCH):
        if cancel is not None and cancel():
            raise Cancelled
        some = todo[begin : begin + BATCH]
        z = torch.from_numpy((z_mm[some] / LOCATION_SCALE_MM).astype(np.float32))[:, None, None, None]
        images = [torch.from_numpy(neighbourhood(stack, some)).to(device) for stack in (us, mr)]
        apart = np.full((len(some), *us.shape[1:]), ONE_PLANE, np.float32) if spread is None else spread[some]
        images.append(torch.from_numpy(np.ascontiguousarray(apart, np.float32)[:, None]).to(device))
        with torch.inference_mode():
            said = network(*images, z.to(device), whole.expand(len(some), -1, -1, -1))
            result[some] = said[:, 0].float().clamp(0, 1).cpu().numpy()
    if len(todo):
        result[todo] = carried_outwards(result[todo], mr[todo] > BRAIN)
    return result


def carried_outwards(probability: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Probability (n, H, W) as it is in the MR-like brain (n, H, W), beside it that of the brain near by, and the
    brain's mean further off.

    The network learnt from brain alone: what it says of the skull means nothing, and would draw a red rim.
    """
    weight = brain.astype(np.float32)
    sigma = (0.0, RIM_MM / SPACING_MM, RIM_MM / SPACING_MM)
    near = ndimage.gaussian_filter(weight, sigma)
    mean = probability[brain].mean() if brain.any() else np.float32(0)
    outside = (ndimage.gaussian_filter(probability * weight, sigma) + 1e-3 * mean) / (near + 1e-3)
    return np.asarray(np.where(brain, probability, outside), np.float32)
