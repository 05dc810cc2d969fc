"""The reliability map: the probability that the MR-like grey is right, predicted by a network.

The input of the network, on cells of 1.2 mm, are three slices each of the ultrasound and of the generator's output,
their position, and the disagreement of the planes if the MR is the median of three. It predicts along all planes,
whichever the generator used, and the three logits of a cell are averaged. It is trained on simulated heads, whose true
MR is known, to classify voxels whose grey is off by more than `WRONG`; its probabilities are calibrated on heads that
were not used to train the generator (`training/reliability`). It is not valid for failures that it was not trained on:
real ultrasound, and other kinds of anomalies.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from scipy.special import expit
from torch import Tensor, nn

from USMRISynthesisLib.errors import Cancelled
from USMRISynthesisLib.geometry.canonical import SIZE, SPACING_MM
from USMRISynthesisLib.geometry.planes import PLANES, to_plane
from USMRISynthesisLib.models.parallel import map_in_order, threads_on

WRONG = 0.15  # of the brightest fluid's grey, the brain's mean matched, smoothed; white and grey matter lie 0.2 apart
SMOOTHING_MM = 0.9  # before the comparison: an edge half a voxel off is not wrong
CELL = 2  # voxels to a cell's side
CHANNELS = (16, 32, 64, 64)
IMAGES = 7  # ultrasound and MR of three slices each, and the planes' spread
HEAD_STATISTICS = 5  # numbers of `head_statistics`
# the conditioning vector of a slice: its depth, its head's statistics, its plane
CONDITIONS = 1 + HEAD_STATISTICS + len(PLANES)
BRAIN_SHARE = (0.28, 0.36)  # half axes of the oval where the brain lies, of a slice's width and height
BRAIN_HALF_HEIGHT_MM = 26.0
BATCH = 8
SPREAD_SCALE = 5.0
BRAIN = -0.5  # MR in [-1, 1] from which on a cell is brain
RIM_MM = 1.2  # sigma of the extrapolation beyond the brain's edge
_DEEPEST_MM = (SIZE - CELL) / 2 * SPACING_MM  # z of the last cells' centres
ONE_PLANE = -1.0  # in place of a spread, where there is one plane only

PredictLogits = Callable[[Tensor, Tensor], Tensor]  # a `ReliabilityNetwork`, or an exported one


class ReliabilityNetwork(nn.Module):
    """cells (N, IMAGES + 2, H, W), conditions (N, CONDITIONS, 1, 1) -> logit (N, 1, H, W) of being wrong; see
    `Head.slices`.

    H and W divide by 8. `scale` and `offset` (2,) are the calibration (Platt 1999), scale * logit + offset, of MR of
    one plane and of several; it is linear, and so holds for the mean over planes of a cell's logits.

    Batch norm, not the generator's instance norm: that takes away how dark a slice is, and whole heads fail because
    they are dark. dropout: share of a level's channels left out in training.
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout2d(dropout)
        inputs = (IMAGES + 2 + CONDITIONS, *CHANNELS)
        self.down = nn.ModuleList(_block(before, after) for before, after in itertools.pairwise(inputs))
        self.up = nn.ModuleList(
            _block(CHANNELS[level + 1] + CHANNELS[level], CHANNELS[level])
            for level in reversed(range(len(CHANNELS) - 1))
        )
        self.last = nn.Conv2d(CHANNELS[0], 2, 1)
        self.register_buffer("scale", torch.ones(2))
        self.register_buffer("offset", torch.zeros(2))

    def predictions(self, cells: Tensor, conditions: Tensor) -> Tensor:
        """(N, 2, H, W): uncalibrated logit of being wrong, and the logarithm of the error's expected size."""
        x = torch.cat([cells, torch.ones_like(cells[:, :1]) * conditions], dim=1)
        features = []
        for level, block in enumerate(self.down):
            x = self.dropout(block(F.avg_pool2d(x, 2) if level else x))
            features.append(x)
        for block, skip in zip(self.up, features[-2::-1], strict=True):
            x = block(torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), skip], dim=1))
        return self.last(x)

    def forward(self, cells: Tensor, conditions: Tensor) -> Tensor:
        several = (cells[:, IMAGES - 1 : IMAGES].amin(dim=(1, 2, 3), keepdim=True) >= 0).type_as(cells)
        scale, offset = (
            (values[0] + (values[1] - values[0]) * several).type_as(cells) for values in (self.scale, self.offset)
        )
        wrong, size = self.predictions(cells, conditions).split(1, dim=1)
        return torch.cat([wrong * scale + offset, size], dim=1)


def _block(inside: int, outside: int) -> nn.Sequential:
    """Two 3x3 convolutions, each with batch norm and ReLU."""
    layers: list[nn.Module] = []
    for channels in (inside, outside):
        layers += [nn.Conv2d(channels, outside, 3, padding=1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]
    return nn.Sequential(*layers)


@dataclass(frozen=True, eq=False)
class Head:
    """A head on cells of canonical space, (K, H, W) float32: us, mr in [-1, 1]; spread, see `spread_of`, or None.

    A frame is one axial slice of cells, K = 1. whole: its `head_statistics`, (HEAD_STATISTICS,). depth: of a frame,
    from -1 to 1 as a volume's first and last slice have it.
    """

    us: np.ndarray
    mr: np.ndarray
    spread: np.ndarray | None
    whole: np.ndarray
    depth: float = 0.0

    @property
    def planes(self) -> tuple[str, ...]:
        """Along which the network sees it."""
        return PLANES if len(self.us) > 1 else PLANES[:1]

    def slices(self, plane: str, some: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The network's input for these slices of a plane: cells (n, IMAGES + 2, h, w), conditions (n, CONDITIONS, 1,
        1), float32.

        The last two channels of cells are row and column from -1 to 1, and the first condition is the slice's depth
        alike: left and right are alike, so that across them it is the distance from the middle.
        """
        us, mr = (neighbourhood(to_plane(stack, plane), some) for stack in (self.us, self.mr))
        n, _, h, w = us.shape
        apart = np.full((n, 1, h, w), ONE_PLANE, np.float32)
        if self.spread is not None:
            apart = to_plane(self.spread, plane)[some][:, None]
        depth, row, column = (np.linspace(-1, 1, size, dtype=np.float32) for size in to_plane(self.us, plane).shape)
        if len(self.us) == 1:
            depth = np.full(1, self.depth, np.float32)
        if plane == "sagittal":
            depth = np.abs(depth)
        else:
            column = np.abs(column)
        where = np.broadcast_to(np.stack(np.broadcast_arrays(row[:, None], column)), (n, 2, h, w))
        conditions = np.zeros((n, CONDITIONS), np.float32)
        conditions[:, 0], conditions[:, 1 : 1 + HEAD_STATISTICS] = depth[some], self.whole
        conditions[:, 1 + HEAD_STATISTICS + PLANES.index(plane)] = 1
        return np.concatenate([us, mr, apart, where], axis=1), conditions[:, :, None, None]


def frame_of(us: np.ndarray, mr: np.ndarray, z_mm: float) -> Head:
    """A frame, (1, H, W) pixels as the generator took and gave them, at z_mm of canonical space, on cells."""
    us, mr = (cells_of(np.repeat(pixels, CELL, axis=0)) for pixels in (us, mr))
    return Head(us, mr, None, head_statistics(us, mr, None), float(np.clip(z_mm / _DEEPEST_MM, -1, 1)))


def head_of(us: np.ndarray, mr: np.ndarray, spread: np.ndarray | None) -> Head:
    """From voxels (K, H, W), as the generator took and gave them, to cells (K / 2, H / 2, W / 2)."""
    us, mr = cells_of(us), cells_of(mr)
    spread = None if spread is None else cells_of(spread)
    return Head(us, mr, spread, head_statistics(us, mr, spread))


def cells_of(voxels: np.ndarray) -> np.ndarray:
    """Means (K / 2, H / 2, W / 2) float32 of 2 x 2 x 2 voxels (K, H, W); the sizes are even."""
    total = np.asarray(voxels, np.float32)
    for _ in range(3):  # each axis is the first once; numpy's own mean over three axes takes ten times as long
        total = np.moveaxis(total[0::CELL] + total[1::CELL], 0, -1)
    return np.ascontiguousarray(total / np.float32(CELL**3))


def head_statistics(us: np.ndarray, mr: np.ndarray, spread: np.ndarray | None) -> np.ndarray:
    """Statistics of the whole head, (HEAD_STATISTICS,) float32: mean and standard deviation of the ultrasound and of
    the MR, and the mean of the planes' spread (`ONE_PLANE` without), where the brain lies and the beam was.

    us, mr, spread: as in `Head`.
    """
    k, h, w = us.shape
    y, x = np.mgrid[:h, :w].astype(np.float32)
    oval = ((x - (w - 1) / 2) / (BRAIN_SHARE[0] * w)) ** 2 + ((y - (h - 1) / 2) / (BRAIN_SHARE[1] * h)) ** 2 < 1
    z_mm = (np.arange(k) - (k - 1) / 2) * SPACING_MM * CELL
    some = np.abs(z_mm) < BRAIN_HALF_HEIGHT_MM
    seen = (us[some] > -1) & oval
    if not seen.any():
        seen = np.ones_like(seen)
    figures = [value for stack in (us, mr) for value in (stack[some][seen].mean(), stack[some][seen].std())]
    return np.array([*figures, ONE_PLANE if spread is None else spread[some][seen].mean()], np.float32)


def neighbourhood(stack: np.ndarray, some: np.ndarray) -> np.ndarray:
    """Slices (n, 3, H, W) of a stack (K, H, W): those in `some` between their neighbours; the ends repeat."""
    index = np.clip(some[:, None] + np.array([-1, 0, 1]), 0, len(stack) - 1)
    return np.asarray(stack[index], np.float32)


def spread_of(made: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """How far several planes disagree: standard deviation of their MR in [-1, 1], times 5, (K, H, W); None for one."""
    if len(made) < 2:
        return None
    return np.asarray(np.std(list(made.values()), axis=0, dtype=np.float32) * SPREAD_SCALE)


def logits(
    network: PredictLogits, head: Head, inside: np.ndarray, *, device: torch.device | str = "cpu",
    cancel: Callable[[], bool] | None = None,
) -> np.ndarray:  # fmt: skip
    """`outputs`' first: the logit of being wrong, (K, H, W) float32."""
    return np.asarray(outputs(network, head, inside, device=device, cancel=cancel)[0])


def outputs(
    network: PredictLogits, head: Head, inside: np.ndarray, *, device: torch.device | str = "cpu",
    cancel: Callable[[], bool] | None = None,
) -> np.ndarray:  # fmt: skip
    """Means over its planes of what the network gives, (2, K, H, W) float32 on the head's cells, where `inside` is: the
    logit of being wrong, and the logarithm of the error's expected size, grey in 0-1. Without the latter, (1, K, H, W),
    of a network that was exported before it gave a size.

    Anything where `inside` is not. Raises Cancelled.
    """
    total: list[np.ndarray] = []
    batches = [
        (plane, wanted[begin : begin + BATCH])
        for plane in head.planes
        for wanted in [np.flatnonzero(to_plane(inside, plane).any(axis=(1, 2)))]
        for begin in range(0, len(wanted), BATCH)
    ]

    def predict(batch: tuple[str, np.ndarray]) -> np.ndarray:
        cells, conditions = (torch.from_numpy(part).to(device) for part in head.slices(*batch))
        cells = cells.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            return np.asarray(network(cells, conditions).float().cpu().numpy())

    with closing(map_in_order(predict, batches, threads_on(device))) as answers:
        for plane, some in batches:
            if cancel is not None and cancel():
                raise Cancelled
            answer = next(answers)
            total = total or [np.zeros(head.us.shape, np.float32) for _ in range(answer.shape[1])]
            for one, values in zip(total, np.moveaxis(answer, 1, 0), strict=True):
                to_plane(one, plane)[some] += values
    return np.stack(total or [np.zeros(head.us.shape, np.float32)]) / np.float32(len(head.planes))


def reliability_and_size(
    network: PredictLogits,
    us: np.ndarray,
    mr: np.ndarray,
    spread: np.ndarray | None,
    inside: np.ndarray,
    *,
    z_mm: float = 0.0,
    device: torch.device | str = "cpu",
    cancel: Callable[[], bool] | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Two maps on the voxels of canonical space, (160, 160, 160) float32, of a frame (1, 160, 160).

    The probability that it is right: in the brain where `inside`, bool, is; beside it what the brain near by has. And
    the expected size of its error, 0-1, where `inside` is; None of a network that gives no size.

    us, mr: on canonical voxels, in [-1, 1], as the generator took and gave them; spread: see `spread_of`; z_mm: of a
    frame. Raises Cancelled.
    """
    is_frame = len(us) == 1
    head = frame_of(us, mr, z_mm) if is_frame else head_of(us, mr, spread)
    where = cells_of(np.repeat(inside, CELL, axis=0) if is_frame else inside) > 0
    made = outputs(network, head, where, device=device, cancel=cancel)
    predicted = extrapolate_rim(expit(-made[0]), where & (head.mr > BRAIN))
    size = None if len(made) < 2 else _on_voxels(np.exp(made[1]), len(us))
    return _on_voxels(predicted, len(us)), size


def _on_voxels(cells: np.ndarray, slices: int) -> np.ndarray:
    finer = F.interpolate(torch.from_numpy(cells)[None, None], scale_factor=float(CELL), mode="trilinear")
    return np.asarray(finer[0, 0, :slices].numpy())


def extrapolate_rim(probability: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Probability (K, H, W) on cells: unchanged in `brain`, a mask of the MR-like brain; outside, that of the nearby
    brain, and the brain's mean further away.

    The network was trained on brain only: its output at the skull has no meaning and would show a red rim.
    """
    weight = brain.astype(np.float32)
    sigma = RIM_MM / (SPACING_MM * CELL)
    near = ndimage.gaussian_filter(weight, sigma)
    mean = probability[brain].mean() if brain.any() else np.float32(0)
    outside = (ndimage.gaussian_filter(probability * weight, sigma) + 1e-3 * mean) / (near + 1e-3)
    return np.asarray(np.where(brain, probability, outside), np.float32)


def error_of(mr: np.ndarray, truth: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """How far the grey is off, smoothed first; mr, truth (K, H, W) in 0-1 -> 0-1.

    The head's mean over `inside`, a mask, is matched before: MR has no units, and how bright a whole brain is beside
    another is no anatomy, nor can it be seen in ultrasound.
    """
    off = mr - truth
    if inside.any():
        off = off - off[inside].mean()
    return np.asarray(np.abs(ndimage.gaussian_filter(off, SMOOTHING_MM / SPACING_MM)))
