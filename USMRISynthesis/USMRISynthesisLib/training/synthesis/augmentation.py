"""Differentiable augmentation of what the image discriminators see.

With few real MR slices a discriminator learns them by heart. Seeing real and fake through the same random
transforms, and never without, it cannot; the gradient passes back through the transform to the generator.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class AugmentationConfig:
    """Half ranges of each transform; 0 leaves it out. Intensities are those of images in [-1, 1].

    brightness: added, +- this. contrast: factor about the image's mean, 1 +- this.
    translation: share of the side, +- this. cutout: side of the blanked square as a share of the image's
    side.
    """

    brightness: float = 0.2
    contrast: float = 0.2
    translation: float = 0.1
    cutout: float = 0.25

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "translation", "cutout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in 0..1, not {getattr(self, name)}")


def augment(images: Tensor, config: AugmentationConfig, total: int = 0, part: slice = slice(None)) -> Tensor:
    """(N, 1, H, W) -> the same shape, each image through its own random transform; differentiable.

    Images that are a part of a batch of `total` get the transforms that they would get in the whole of it.
    """
    count, _, height, width = images.shape
    count = total or count

    def draw(low: float, high: float) -> Tensor:
        return torch.empty(count, 1, 1, 1, device=images.device).uniform_(low, high)[part]

    if config.contrast:
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        images = (images - mean) * draw(1 - config.contrast, 1 + config.contrast) + mean
    if config.brightness:
        images = images + draw(-config.brightness, config.brightness)
    if config.translation:
        images = _translate(images, config.translation, count, part)
    if config.cutout:
        rows = torch.arange(height, device=images.device).view(1, 1, height, 1)
        columns = torch.arange(width, device=images.device).view(1, 1, 1, width)
        inside = ((rows - draw(0, height)).abs() < config.cutout * height / 2) & (
            (columns - draw(0, width)).abs() < config.cutout * width / 2
        )
        images = images.masked_fill(inside, 0.0)
    return images


def _translate(images: Tensor, share: float, count: int, part: slice) -> Tensor:
    """Whole-pixel shifts, the border repeated."""
    height, width = images.shape[2:]
    reach = max(1, round(share * max(height, width)))
    padded = F.pad(images, (reach, reach, reach, reach), mode="replicate")
    shifts = torch.randint(0, 2 * reach + 1, (count, 2))[part].tolist()
    return torch.stack([padded[n, :, j : j + height, i : i + width] for n, (j, i) in enumerate(shifts)])
