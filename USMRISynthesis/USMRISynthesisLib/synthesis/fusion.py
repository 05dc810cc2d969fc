"""One volume from the outputs of three planes: one border of the brain, grey by a small 3D network or the median.

Every slice of a plane ends the brain where it sees fit. Between the slices of a plane these ends jump, by up to a
centimetre where the ultrasound shows no border, and a median of three passes the jumps where one plane sees no brain at
all: the rim becomes a comb. So the border is decided once, in 3D: each plane's brain is smoothed across the plane's own
slices, the only direction in which it jumps, and the border lies where the mean of the three is one half. The grey
inside it is the median of those planes that see brain.

The network (`FusionNetwork`) sees the three outputs, their median, the ultrasound and the border within a reach of
`REACH` voxels in all directions. It says for every voxel how much the outputs, their median, their mean and the
smoothed mean count, so that what comes out lies between what the planes gave. Free to add any grey, a network that
learnt from a few heads took their contrast for that of all. It is trained on simulated heads (`training/fusion`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from USMRISynthesisLib.errors import Cancelled
from USMRISynthesisLib.geometry.planes import PLANES, from_plane, to_plane
from USMRISynthesisLib.models.parallel import map_in_order, threads_on

CHANNELS = 6  # the three planes, their median, the ultrasound, the border
CANDIDATES = 6  # the three planes, their median, their mean, the mean smoothed
WIDTH = 8
REACH = 4  # voxels from which a voxel's correction comes
SLAB = 24  # slices that the network takes at a time
BACKGROUND = -1.0
BRAIN = -0.5  # MR in [-1, 1] from which on a plane sees brain
# MR at which a plane's grey begins to count, and from which on it counts in full: on an edge it is half background.
_GREY = (-0.6, -0.2)
_ACROSS, _ROUNDING = 4.0, 0.8  # sigma in voxels: of a plane's brain across its slices, of the border in 3D
_SOFT = 0.25  # of the mean over the planes, within which the border goes from 0 to 1
_NEAR = 2.0  # sigma in voxels of what replaces the grey where no plane sees brain


@dataclass(frozen=True, eq=False)
class Prepared:
    """What is fused, float32. channels (CHANNELS, K, H, W): the network's input, the planes and their median without a
    border. border (K, H, W): 0 outside the brain, 1 inside."""

    channels: np.ndarray
    border: np.ndarray

    @property
    def median(self) -> np.ndarray:
        """The planes' median inside the border, (K, H, W) in [-1, 1]."""
        return bordered(self.channels[3], self.border)


class FusionNetwork(nn.Module):
    """channels (N, CHANNELS, D, H, W) -> MR (N, 1, D, H, W) in [-1, 1], without a border; before it is trained the mean
    of the candidates."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(CHANNELS, width, 3, padding=1), nn.ReLU(),
            nn.Conv3d(width, width, 3, padding=2, dilation=2), nn.ReLU(),
            nn.Conv3d(width, CANDIDATES, 3, padding=1),
        )  # fmt: skip
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, channels: Tensor) -> Tensor:
        planes = channels[:, :3]
        mean = planes.mean(dim=1, keepdim=True)
        smooth = F.avg_pool3d(mean, 3, stride=1, padding=1, count_include_pad=False)
        candidates = torch.cat([planes, channels[:, 3:4], mean, smooth], dim=1)
        return (torch.softmax(self.layers(channels), dim=1) * candidates).sum(dim=1, keepdim=True)


def prepared(made: Mapping[str, np.ndarray], us: np.ndarray) -> Prepared:
    """The border, the median and the network's input.

    made: of each of the three planes the MR (K, H, W) in [-1, 1], -1 where nothing was synthesised. us: (K, H, W).
    """
    share = np.zeros(us.shape, np.float32)
    total, weights = np.zeros_like(share), np.zeros_like(share)
    counted: dict[str, np.ndarray] = {}
    for plane in PLANES:
        mr = np.asarray(made[plane], np.float32)
        brain = to_plane((mr > BRAIN).astype(np.float32), plane)
        share += from_plane(ndimage.gaussian_filter1d(brain, _ACROSS, axis=0, mode="nearest", truncate=3.0), plane)
        counted[plane] = np.clip((mr - _GREY[0]) / (_GREY[1] - _GREY[0]), 0, 1)
        total += mr * counted[plane]
        weights += counted[plane]
    share = ndimage.gaussian_filter(share / np.float32(len(PLANES)), _ROUNDING, mode="nearest", truncate=3.0)
    border = np.clip((share - 0.5) / _SOFT + 0.5, 0, 1).astype(np.float32)
    typical = _filled(total, weights, border)
    # Where a plane sees no brain, it has the others' grey.
    grey = [
        _across_slices(typical + (np.asarray(made[plane], np.float32) - typical) * counted[plane], plane)
        for plane in PLANES
    ]
    median = np.maximum(np.minimum(grey[0], grey[1]), np.minimum(np.maximum(grey[0], grey[1]), grey[2]))
    return Prepared(np.stack([*grey, median, np.asarray(us, np.float32), border]), border)


def bordered(grey: np.ndarray, border: np.ndarray) -> np.ndarray:
    """Grey in [-1, 1] inside the border, background outside."""
    return np.asarray((grey - BACKGROUND) * border + BACKGROUND, np.float32)


def fused(
    made: Mapping[str, np.ndarray],
    us: np.ndarray,
    network: Callable[[Tensor], Tensor] | None = None,
    *,
    device: torch.device | str = "cpu",
    cancel: Callable[[], bool] | None = None,
) -> np.ndarray:
    """MR (K, H, W) float32 in [-1, 1] of the three planes in `made`; without a network, the median in one border.

    Raises Cancelled.
    """
    result = np.full(us.shape, BACKGROUND, np.float32)
    brain = np.logical_or.reduce([made[plane] > BRAIN for plane in PLANES])
    box = _box(brain, round(3 * _ACROSS))
    if box is None:
        return result
    parts = prepared({plane: made[plane][box] for plane in PLANES}, us[box])
    result[box] = parts.median if network is None else weighted(parts, network, device=device, cancel=cancel)
    return result


def weighted(
    parts: Prepared,
    network: Callable[[Tensor], Tensor],
    *,
    device: torch.device | str = "cpu",
    cancel: Callable[[], bool] | None = None,
) -> np.ndarray:
    """The network's image inside the border, (K, H, W) float32 in [-1, 1]. Raises Cancelled."""
    result = np.full(parts.border.shape, BACKGROUND, np.float32)
    box = _box(parts.border > 0, REACH)
    if box is None:
        return result
    channels = parts.channels[(slice(None), *box)]
    depth = channels.shape[1]
    slabs = [(first, min(first + SLAB, depth)) for first in range(0, depth, SLAB)]

    def fuse(slab: tuple[int, int]) -> np.ndarray:
        low, high = max(0, slab[0] - REACH), min(depth, slab[1] + REACH)
        x = torch.from_numpy(np.ascontiguousarray(channels[:, low:high]))[None].to(device)
        with torch.inference_mode():
            found = network(x)[0, 0, slab[0] - low : slab[1] - low]
        return np.asarray(found.float().cpu().numpy())

    inside, border = result[box], parts.border[box]
    with closing(map_in_order(fuse, slabs, min(threads_on(device), len(slabs)))) as images:
        for first, last in slabs:
            if cancel is not None and cancel():
                raise Cancelled
            inside[first:last] = bordered(next(images), border[first:last])
    return np.clip(result, -1, 1, out=result)


def _box(mask: np.ndarray, margin: int) -> tuple[slice, ...] | None:
    """The box around a mask and so many voxels more; None where it is empty."""
    found = ndimage.find_objects(mask.astype(np.uint8))
    if not found:
        return None
    return tuple(
        slice(max(0, part.start - margin), min(size, part.stop + margin))
        for part, size in zip(found[0], mask.shape, strict=True)
    )


def _filled(total: np.ndarray, weights: np.ndarray, border: np.ndarray) -> np.ndarray:
    """The planes' weighted mean grey; where none of them counts, that of what lies near by."""
    mean = np.where(weights > 0, total / np.maximum(weights, 1e-3), 0)
    missing = (weights < 0.5) & (border > 0)
    if not missing.any():
        return mean
    smooth = [ndimage.gaussian_filter(values, _NEAR, truncate=3.0) for values in (total, weights)]
    near = smooth[0] / np.maximum(smooth[1], 1e-3)
    return np.asarray(np.where(missing, near + (mean - near) * 2 * weights, mean), np.float32)


def _across_slices(mr: np.ndarray, plane: str) -> np.ndarray:
    """A plane's slices mixed with their neighbours, 1 : 2 : 1; the ends repeat."""
    stack = to_plane(mr, plane)
    smooth = stack * np.float32(0.5)
    smooth[1:] += stack[:-1] * np.float32(0.25)
    smooth[:-1] += stack[1:] * np.float32(0.25)
    smooth[0] += stack[0] * np.float32(0.25)
    smooth[-1] += stack[-1] * np.float32(0.25)
    return from_plane(smooth, plane)
