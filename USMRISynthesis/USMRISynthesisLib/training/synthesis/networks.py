"""The networks that only training needs: the way back from MR to ultrasound, discriminators, edges, patch contrast.

Sections and equations are those of Jiao et al., MLMI 2019.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from USMRISynthesisLib.synthesis.blocks import LEAK, Decoder, Encoder, instance_norm

EDGE_FLOOR = 1e-4  # keeps the square root's gradient finite where the image is flat
TEMPERATURE = 0.07  # theirs
PATCHES = 128  # places an image and level; theirs are 256 on images of 256 x 256
CONTRAST_WIDTH = 64


class BackwardPath(nn.Module):
    """Backward inference (section 2.1), encoder D and decoder E: MR x^_M (N, 1, H, W) -> latent y_b = D(x^_M) and
    ultrasound x~_U = E(y_b), (N, 1, H, W) in [-1, 1].

    `channels` must be the generator's, so that D_bi can compare y_b with y. `skips` are D-E skip levels: none
    by default, because with them the path reads the ultrasound from a code hidden in the MR's texture instead
    of from its anatomy.
    """

    def __init__(self, channels: Sequence[int], *, skips: Sequence[int] = ()) -> None:
        super().__init__()
        self.encoder_d = Encoder(1, channels)
        self.decoder_e = Decoder(channels, skips=skips, split_level=len(channels) - 1)

    def forward(self, mr: Tensor) -> tuple[Tensor, Tensor]:
        features = self.encoder_d(mr)
        return features[-1], self.decoder_e(features)


class ImageDiscriminator(nn.Module):
    """Image or edge map (N, 1, H, W) -> one logit a patch (N, 1, H/8 - 1, W/8 - 1); each sees 46 x 46 pixels.

    Patches, not whole images, leave the large anatomy to the other terms. `spectral` bounds every
    layer's gain instead of normalising its features, for when the discriminator wins.
    """

    def __init__(self, width: int = 32, *, spectral: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_layer(1, width, 4, 2, norm=False, spectral=spectral),
            *_layer(width, 2 * width, 4, 2, norm=not spectral, spectral=spectral),
            *_layer(2 * width, 4 * width, 4, 2, norm=not spectral, spectral=spectral),
            _convolution(4 * width, 1, 4, 1, spectral=spectral),
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image)


class LatentDiscriminator(nn.Module):
    """Latent (N, channels, h, w) -> logits of the same height and width; separates y from y_b (equation 8)."""

    def __init__(self, channels: int, width: int = 64, *, spectral: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_layer(channels, width, 3, 1, norm=False, spectral=spectral),
            *_layer(width, width, 3, 1, norm=False, spectral=spectral),
            *_layer(width, width, 3, 1, norm=False, spectral=spectral),
            _convolution(width, 1, 3, 1, spectral=spectral),
        )

    def forward(self, latent: Tensor) -> Tensor:
        return self.layers(latent)


class Discriminators(nn.ModuleDict):
    """One discriminator for each adversarial term, under the term's name: "app", "stru", "back", "bi"."""

    def __init__(self, latent_channels: int, width: int = 32, *, spectral: bool = False) -> None:
        super().__init__(
            {
                "app": ImageDiscriminator(width, spectral=spectral),
                "stru": ImageDiscriminator(width, spectral=spectral),
                "back": ImageDiscriminator(width, spectral=spectral),
                "bi": LatentDiscriminator(latent_channels, 2 * width, spectral=spectral),
            }
        )


def _convolution(before: int, after: int, size: int, stride: int, *, spectral: bool) -> nn.Module:
    convolution = nn.Conv2d(before, after, size, stride, padding=1)
    return spectral_norm(convolution) if spectral else convolution


def _layer(before: int, after: int, size: int, stride: int, *, norm: bool, spectral: bool) -> list[nn.Module]:
    layer = [_convolution(before, after, size, stride, spectral=spectral)]
    if norm:
        layer.append(instance_norm(after))
    return [*layer, nn.LeakyReLU(LEAK)]


class EdgeNet(nn.Module):
    """Structural consistency (section 2.1): image (N, 1, H, W) in [-1, 1] -> edge magnitude (N, 1, H, W); a step over
    the full range gives about 1.

    The paper fixes "four 3x3 convolutional layers with parameters fixed" and no more. Ours: binomial
    smoothing; Sobel kernels along both axes; their energies summed over a small neighbourhood; binomial
    smoothing of the magnitude, so that an edge half a pixel off is not another edge. The kernels are buffers,
    not parameters: no optimiser can move them, while the gradient reaches the image.
    """

    smooth: Tensor
    sobel: Tensor
    energy: Tensor

    def __init__(self) -> None:
        super().__init__()
        binomial = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16
        across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 4
        self.register_buffer("smooth", binomial.view(1, 1, 3, 3))
        self.register_buffer("sobel", torch.stack([across, across.t()]).view(2, 1, 3, 3))
        self.register_buffer("energy", binomial.expand(1, 2, 3, 3).contiguous())

    def forward(self, image: Tensor) -> Tensor:
        with torch.autocast(image.device.type, enabled=False):  # differences of close values need the digits
            x = F.conv2d(_replicate(image), self.smooth)
            x = F.conv2d(_replicate(x), self.sobel).square()
            x = (F.conv2d(_replicate(x), self.energy) + EDGE_FLOOR).sqrt()
            return F.conv2d(_replicate(x), self.smooth)


def _replicate(x: Tensor) -> Tensor:
    """One pixel of border, repeated: zeros would draw an edge around every image."""
    return F.pad(x, (1, 1, 1, 1), mode="replicate")


class PatchContrast(nn.Module):
    """The patch contrast of CUT (Park et al., ECCV 2020): a patch of the output resembles its own place in the input.

    Encoder features of output and input, finest first, each (N, C, h, w) -> InfoNCE over places of one image.

    `channels`: of every level of the encoder. The finest level is left out, for it would tie the output's texture to
    speckle. Each level has a two-layer head; the input's side is detached, as theirs is.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(count, CONTRAST_WIDTH), nn.ReLU(), nn.Linear(CONTRAST_WIDTH, CONTRAST_WIDTH))
            for count in channels[1:]
        )

    def forward(self, output: Sequence[Tensor], given: Sequence[Tensor]) -> Tensor:
        """Mean cross-entropy over levels, images and places; log(places) where nothing is recognised."""
        losses = []
        for head, made, source in zip(self.heads, output[1:], given[1:], strict=True):
            places = torch.randperm(made[0, 0].numel(), device=made.device)[:PATCHES]
            query = F.normalize(head(_patches(made, places)), dim=-1)
            key = F.normalize(head(_patches(source, places)), dim=-1).detach()
            likeness = (query @ key.transpose(1, 2)).float() / TEMPERATURE  # (N, places, places)
            target = torch.arange(len(places), device=made.device).expand(len(likeness), -1)
            losses.append(F.cross_entropy(likeness.flatten(0, 1), target.flatten()))
        return torch.stack(losses).mean()


def _patches(feature: Tensor, places: Tensor) -> Tensor:
    """(N, C, h, w) -> (N, places, C)."""
    return feature.flatten(2)[:, :, places].transpose(1, 2)
