"""The multi-task alignment networks, one for each stage (torch).

After Namburete et al. 2018 (doi 10.1016/j.media.2018.02.006): a fully convolutional trunk with branches for head
localisation, structures and alignment. Differences from that paper, which make training on a CPU possible:

- **Dense canonical coordinates carry the pose.** Every cell predicts its canonical coordinates and their expected
  error. A closed form through all cells gives the pose, and its residual is a measure of confidence. One volume gives
  thousands of training targets instead of seven.
- **One symmetry at a time.** The midplane of a head is visible in any orientation; regressing the full rotation with
  it takes ten times as long. So the detection stage (`locate`) predicts the head and the distance to the midline, the
  coarse orientation (`orient`) receives heads with a known midplane and has one angle to find, and the refinement
  (`refine`) receives heads that are nearly upright.
- **Mirroring is free.** A mirrored head is a head: left and right follow from anterior and superior, so training
  mirrors half of the heads and the network sees twice as many. It cannot confuse left and right.

The names of the stages are those of the stored models. Nothing here reads files; coordinates are those of the cube.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from USMRISynthesisLib.alignment.common.unet import UNet, unfold

BRAIN, HEAD_FINE, SKULL, EYE_LEFT, EYE_RIGHT = range(5)  # maps
HEAD, X, Y, Z, LOG_SIGMA, UPRIGHT = range(6)  # fields
FIELDS = 6
# Logits are large and Adam's steps small: without this factor the masks need 40 steps more.
MAP_GAIN = 8.0


@dataclass(frozen=True)
class Stage:
    """One stage of the alignment, with a network of its own.

    size: cells along the cube's side. side_mm: that side in canonical mm, whose half is the unit of the coordinates;
    nominal in `locate`, which sees the whole fan first. widths: channels of each level. maps: number of maps at the
    input's resolution. upright: the head is nearly upright in the cube, so that its coordinates are nearly the cube's.
    """

    size: int
    side_mm: float
    widths: tuple[int, ...]
    maps: int = 0
    upright: bool = False


STAGES = {
    "locate": Stage(32, 150.0, (16, 32, 96)),
    "orient": Stage(32, 130.0, (16, 32, 96)),
    "refine": Stage(48, 116.0, (16, 32, 96), maps=5, upright=True),
}


class Prediction(NamedTuple):
    """Output of one pass. S cells along the input's side, s half of it.

    maps: (N, 5 or 0, S, S, S): logit of the brain and of the head, skull distance (half-sides of the cube, negative
        inside), logits of left and right eye socket.
    fields: (N, 6, s, s, s): logit of the head; canonical x, y, z in half-sides of the stage's cube (`locate`: x without
        its sign, y and z void; `orient`: x along the cube's own first axis, whichever side that is); logarithm of the
        coordinates' expected error; logit, to be averaged over the cube, of a head in the orientation that the stage
        expects.
    """

    maps: Tensor
    fields: Tensor


class AlignmentNetwork(UNet):
    """One stage's network.

    Args:
        widths: channels of each level; the input's side must divide by 2 ** len(widths).
        size: the input's side in cells.
        maps: how many maps of the input's resolution to predict.
        upright: the predicted coordinates are offsets from the cube's own.
    """

    def __init__(
        self, widths: tuple[int, ...] = (16, 32, 96), size: int = 32, maps: int = 0, upright: bool = False
    ) -> None:
        super().__init__(3, widths, size)
        self.full, self.upright = maps, upright
        self.maps = nn.Conv3d(self.width, max(maps, 1) * 8, 1)
        self.fields = nn.Conv3d(self.width, FIELDS, 1)
        with torch.no_grad():
            for layer in (self.maps, self.fields):
                for parameter in layer.parameters():
                    parameter.div_(MAP_GAIN)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 1, S, S, S) in [-1, 1], -1 outside the fan -> the fields of `Prediction`."""
        y = self.trunk(x)
        fields = self.fields(y)
        if self.upright:
            fields = fields + F.pad(self.places, (0, 0, 0, 0, 0, 0, 1, FIELDS - 4))
        maps = unfold(MAP_GAIN * self.maps(y), max(self.full, 1))[:, : self.full]
        return Prediction(maps, fields)
