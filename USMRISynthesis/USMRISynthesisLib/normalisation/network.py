"""The multi-task alignment network: one trunk, heads for masks, skull, eyes, orientation and pose (torch).

After Namburete et al. 2018 (doi 10.1016/j.media.2018.02.006): one fully convolutional trunk with branches for head
localisation, structures and alignment. What is ours, and why it suits half an hour of CPU training:

- **Dense canonical coordinates carry the pose.** Every cell says where in canonical space it lies, and how sure it
  is; a weighted closed-form similarity (``coordinates.fit_similarity``) through all of them is the pose, and what
  is left over says how much to trust it. One volume gives thousands of targets instead of seven numbers, which is
  what few training steps need, and a head that is half in shadow still has its other half.
- **A cell votes with an affine map.** A turned head's coordinates are a product of rotation and position, which
  convolutions approximate badly; so a cell gives a matrix, as does the cube as a whole, and the position is
  multiplied in afterwards.
- **Structures before numbers.** What a cell belongs to does not change when the head is turned, and a network learns to
  segment in a tenth of the steps that it needs to regress a pose: with a few hundred steps the masks stand while pose
  and coordinates still say the average. So the first pose is closed-form geometry on structures: the skull, the plane
  through the midline (whose distance is told without a sign, the same for left and right), face, posterior fossa, eyes.
- **Symmetry by comparison.** The head is brought nearly upright under each of the half turns that the midplane and the
  long axis leave open, and the network says how upright it stands; what the structures say counts with it. A flip is
  a comparison with a margin that the trust score reads, not a regression that lands in between.
- **Mirroring is free.** A mirrored head is a head: left and right are told apart by where A and S point, so training
  flips half of the heads and the network sees twice as many. No left-right confusion can arise from it.
- **Half resolution inside.** The input's 2x2x2 cells become channels (no information is lost), the trunk runs at
  half the resolution, masks are shuffled back to the full one: an eighth of the cost of the first level.

The same class in 2D does the frames. Nothing here reads files or knows millimetres.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEAD, BRAIN, SKULL, EYE_LEFT, EYE_RIGHT, MIDLINE, FACE, FOSSA = range(8)
FULL_MAPS = 8
SUMMARY = 32
# Logits are large numbers and Adam's steps small ones: without this factor the masks alone took 40 steps longer.
MAP_GAIN = 8.0
POSE_VALUES = 10  # 6D rotation, centre, log scale


class Prediction(NamedTuple):
    """What one pass says. D is () of 2 or 3 axes of the input, d the same at half resolution.

    maps: (N, 8, *D): logits of head and brain, skull distance (units of the network's cube half-side, negative
        inside), logits of left and right eye socket (of both in
        the first, before the head stands upright), distance to the midline (half-sides, no sign, up to
        ``stages.MIDLINE_REACH_MM``), logits of face with neck and of cerebellum with brainstem.
    coordinates: (N, n, *d): canonical minus grid coordinate, units of the half-side, order x, y(, z).
    log_sigma: (N, 1, *d): logarithm of the expected error of the coordinates.
    upright: (N,): logit, how upright the head stands in the cube: 1 as it should, 0 upside down or no head.
    pose: (N, 10): 6D rotation (two columns), centre x, y, z and log scale of the head in the cube.
    """

    maps: Tensor
    coordinates: Tensor
    log_sigma: Tensor
    upright: Tensor
    pose: Tensor


class AlignmentNetwork(nn.Module):
    """U-Net with added skips on the folded input.

    Args:
        dimensions: 2 or 3.
        widths: channels of each level; the input's side must divide by 2 ** len(widths).
        size: the input's side in cells. It is fixed, because orientation is a matter of where in the cube what lies:
            the summary reads the deepest level cell by cell, and does not average over it.
    """

    places: Tensor

    def __init__(self, dimensions: int = 3, widths: tuple[int, ...] = (16, 32, 64, 96), size: int = 64) -> None:
        super().__init__()
        if size % 2 ** len(widths):
            raise ValueError(f"{size} cells do not halve {len(widths)} times")
        self.dimensions = dimensions
        self.fold = 2**dimensions
        conv = nn.Conv3d if dimensions == 3 else nn.Conv2d
        self.down = nn.ModuleList()
        before = self.fold + dimensions  # a cell knows its place
        for width in widths:
            self.down.append(nn.Sequential(_block(conv, before, width), _block(conv, width, width)))
            before = width
        self.up, self.narrow = nn.ModuleList(), nn.ModuleList()
        for width in reversed(widths[:-1]):
            self.narrow.append(conv(before, width, 1))
            self.up.append(_block(conv, width, width))
            before = width
        self.maps = conv(widths[0], FULL_MAPS * self.fold, 1)
        self.dense = conv(widths[0], dimensions * (dimensions + 1) + 1, 1)
        cells = (size // 2 ** len(widths)) ** dimensions
        self.summary = nn.Sequential(
            conv(widths[-1], SUMMARY, 1), nn.LeakyReLU(0.1), nn.Flatten(), nn.Linear(SUMMARY * cells, 4 * SUMMARY),
            nn.LeakyReLU(0.1),
        )
        self.upright = nn.Linear(4 * SUMMARY, 1)
        self.pose = nn.Linear(4 * SUMMARY, POSE_VALUES)
        self.vote = nn.Linear(4 * SUMMARY, dimensions * (dimensions + 1))
        self.register_buffer("places", grid(size // 2, dimensions)[None], persistent=False)
        with torch.no_grad():  # start from the identity pose and from "as the grid says"
            for parameter in self.maps.parameters():
                parameter.div_(MAP_GAIN)
            for layer in (self.dense, self.pose, self.vote):
                layer.weight.mul_(0.1)
                assert layer.bias is not None
                layer.bias.zero_()
            self.pose.bias[:6] = torch.tensor([1.0, 0, 0, 0, 1, 0])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """(N, 1, *D) in [-1, 1], -1 outside the fan -> the fields of `Prediction`."""
        y = torch.cat((fold(x, self.dimensions), self.places.expand(x.shape[0], *self.places.shape[1:])), dim=1)
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            if level:
                y = F.max_pool3d(y, 2) if self.dimensions == 3 else F.max_pool2d(y, 2)
            y = block(y)
            skips.append(y)
        summary = self.summary(skips[-1])
        for narrow, block, skip in zip(self.narrow, self.up, reversed(skips[:-1]), strict=True):
            y = block(F.interpolate(narrow(y), scale_factor=2.0, mode="nearest") + skip)
        n = self.dimensions
        dense = self.dense(y)
        # The whole cube's vote, which is learnt first, and each cell's own deviation from it.
        votes = dense[:, :n * n + n] + self.vote(summary).reshape(-1, n * n + n, *[1] * n)
        coordinates = votes[:, n * n:]
        for axis in range(n):
            coordinates = coordinates + votes[:, n * axis:n * (axis + 1)] * self.places[:, axis:axis + 1]
        maps = unfold(MAP_GAIN * self.maps(y), n, FULL_MAPS)
        return Prediction(maps, coordinates, dense[:, n * n + n:], self.upright(summary)[:, 0], self.pose(summary))


def _block(conv: type[nn.Module], before: int, after: int) -> nn.Module:
    # Each channel of each cube on its own: takes gain away, and learns faster here than groups of channels do.
    norm = (nn.InstanceNorm3d if conv is nn.Conv3d else nn.InstanceNorm2d)(after, affine=True)
    return nn.Sequential(conv(before, after, 3, padding=1, bias=False), norm, nn.LeakyReLU(0.1))


def fold(x: Tensor, dimensions: int) -> Tensor:
    """(N, 1, *D) -> (N, 2**n, *D/2): neighbouring cells become channels."""
    # The number of samples stays open (-1): a trace would make a constant of it.
    half = [int(size) // 2 for size in x.shape[2:]]
    if dimensions == 3:
        k, j, i = half
        return x.reshape(-1, k, 2, j, 2, i, 2).permute(0, 2, 4, 6, 1, 3, 5).reshape(-1, 8, k, j, i)
    j, i = half
    return x.reshape(-1, j, 2, i, 2).permute(0, 2, 4, 1, 3).reshape(-1, 4, j, i)


def unfold(x: Tensor, dimensions: int, channels: int) -> Tensor:
    """(N, channels * 2**n, *d) -> (N, channels, *2d): the inverse of `fold`."""
    sizes = [int(size) for size in x.shape[2:]]
    if dimensions == 3:
        k, j, i = sizes
        parts = x.reshape(-1, channels, 2, 2, 2, k, j, i).permute(0, 1, 5, 2, 6, 3, 7, 4)
        return parts.reshape(-1, channels, 2 * k, 2 * j, 2 * i)
    j, i = sizes
    return x.reshape(-1, channels, 2, 2, j, i).permute(0, 1, 4, 2, 5, 3).reshape(-1, channels, 2 * j, 2 * i)


def rotation_from_6d(values: Tensor) -> Tensor:
    """(N, 6) -> rotations (N, 3, 3): Gram-Schmidt of two columns, continuous everywhere (Zhou et al. 2019)."""
    first = F.normalize(values[:, :3], dim=1)
    second = values[:, 3:6] - (first * values[:, 3:6]).sum(dim=1, keepdim=True) * first
    second = F.normalize(second, dim=1)
    return torch.stack((first, second, torch.linalg.cross(first, second, dim=1)), dim=2)


def geodesic(first: Tensor, second: Tensor) -> Tensor:
    """Angle (N,) in radians between rotations; the trace is clamped, for the arccosine has no slope at its ends."""
    cosine = ((first * second).sum(dim=(1, 2)) - 1) / 2
    return torch.acos(cosine.clamp(-1 + 1e-4, 1 - 1e-4))


def grid(size: int, dimensions: int = 3) -> Tensor:
    """Coordinates (n, size, ...) in (-1, 1) of the cells' centres, order x, y(, z); axes as arrays are: (k, j, i)."""
    axis = (torch.arange(size, dtype=torch.float32) + 0.5) * (2 / size) - 1
    parts = torch.meshgrid(*([axis] * dimensions), indexing="ij")
    return torch.stack(parts[::-1])
