"""The four discriminators: D_app, D_stru and D_back on images, D_bi on the latent; four convolutions each."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from USMRISynthesisLib.synthesis.blocks import LEAK, instance_norm


class ImageDiscriminator(nn.Module):
    """Image or edge map (N, 1, H, W) -> one logit a patch (N, 1, H/8 - 1, W/8 - 1); each sees 46 x 46 pixels.

    Judging patches, not whole images, leaves the large anatomy to the other terms. `spectral` bounds every
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
    """Latent (N, channels, h, w) -> logits of the same height and width; tells y from y_b (equation 8)."""

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
