"""The generator (Jiao 2019, section 2): encoder A, decoders B and C, and the attention from B to C."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from USMRISynthesisLib.geometry.planes import PLANES
from USMRISynthesisLib.synthesis.attention import NORMS, CrossModalAttention
from USMRISynthesisLib.synthesis.blocks import Decoder, Encoder
from USMRISynthesisLib.synthesis.position import PositionalEncoding


@dataclass(frozen=True)
class GeneratorConfig:
    """What fixes a generator's shape. Plain values, written into the manifest as they are.

    width, multipliers: channels at level l are `width * multipliers[l]`; one multiplier a level.
    neighbours: slices on either side of the centre slice that the input carries.
    exponent: of the ultrasound's 0-1 intensity before it becomes the input (see `normalise_ultrasound`).
    location: whether the input ends with a constant channel z_mm / 48.
    place: whether decoder C also gets a positional encoding of x, y and z (`PositionalEncoding`); needs `location`.
    planes: the planes whose slices it takes; with more than one a constant channel before the location names the plane.
    skips: levels at which A hands its feature to C. Level 0 would let speckle through to the MR.
    reconstruction_skips: levels at which A hands its feature to B.
    attention, attention_level, attention_norm: see `CrossModalAttention`; at inference B stops at the level.
    """

    width: int = 16
    multipliers: tuple[int, ...] = (1, 2, 4, 8, 8)
    neighbours: int = 1
    exponent: float = 1.0
    location: bool = True
    place: bool = False
    planes: tuple[str, ...] = ("axial",)
    skips: tuple[int, ...] = (1, 2, 3)
    reconstruction_skips: tuple[int, ...] = (2, 3)
    attention: bool = True
    attention_level: int = 2
    attention_norm: str = "mean"

    def __post_init__(self) -> None:
        top = len(self.multipliers) - 1
        if self.width < 1 or top < 1 or min(self.multipliers) < 1:
            raise ValueError("width and multipliers must be positive, with at least two levels")
        if not 0.1 <= self.exponent <= 10:
            raise ValueError(f"exponent must lie in 0.1..10, not {self.exponent}")
        if self.place and not self.location:
            raise ValueError("place needs location")
        if len(self.planes) > 1 and not self.location:
            raise ValueError("several planes need location")
        if not self.planes or len(set(self.planes)) < len(self.planes) or not set(self.planes) <= set(PLANES):
            raise ValueError(f"planes must be one or more of {', '.join(PLANES)}")
        if self.neighbours < 0:
            raise ValueError(f"neighbours must be 0 or more, not {self.neighbours}")
        if any(not 0 <= level < top for level in (*self.skips, *self.reconstruction_skips)):
            raise ValueError(f"skips and reconstruction_skips must lie in 0..{top - 1}")
        if not 0 <= self.attention_level <= top:
            raise ValueError(f"attention_level must lie in 0..{top}, not {self.attention_level}")
        if self.attention_norm not in NORMS:
            raise ValueError(f"attention_norm must be one of {NORMS}, not {self.attention_norm!r}")

    @property
    def levels(self) -> int:
        return len(self.multipliers)

    @property
    def channels(self) -> tuple[int, ...]:
        """Feature channels of each level, finest first."""
        return tuple(self.width * multiplier for multiplier in self.multipliers)

    @property
    def in_channels(self) -> int:
        return 2 * self.neighbours + 1 + int(len(self.planes) > 1) + int(self.location)


class Generator(nn.Module):
    """Ultrasound slices (N, in_channels, H, W) -> MR-like centre slice (N, 1, H, W) in [-1, 1].

    `forward` is the inference path: A, B up to the attention level, C. `forward_training` computes the rest
    of B as well. H and W must divide by 2 ** (levels - 1).
    """

    def __init__(self, config: GeneratorConfig | None = None) -> None:
        super().__init__()
        config = config or GeneratorConfig()
        channels = config.channels
        split = config.attention_level
        self.slices = 2 * config.neighbours + 1
        self.in_channels = config.in_channels
        self.attends = config.attention
        self.encoder_a = Encoder(config.in_channels, channels)
        self.decoder_b = Decoder(channels, skips=config.reconstruction_skips, split_level=split)
        self.decoder_c = Decoder(channels, skips=config.skips, split_level=split)
        self.attention = (
            CrossModalAttention(channels[split], channels[split], norm=config.attention_norm)
            if config.attention
            else _NoAttention()
        )
        several = len(config.planes) > 1
        self.place_latent = PositionalEncoding(channels[-1], planes=several) if config.place else _NoPosition()
        self.place_split = PositionalEncoding(channels[split], planes=several) if config.place else _NoPosition()

    def forward(self, x: Tensor) -> Tensor:
        features = self.encoder_a(x)
        f_mr = self._deep(features, x)
        if self.attends:
            f_mr = self.attention(self.decoder_b.deep(features), f_mr)
        return self.decoder_c.shallow(f_mr, features)

    def _deep(self, features: list[Tensor], x: Tensor) -> Tensor:
        """C from the latent to the attention, with positional encodings if configured."""
        z, plane = x[:, -1:, :1, :1], x[:, -2:-1, :1, :1]  # the latter only where there are several planes
        encoded = features[:-1]
        encoded.append(self.place_latent(features[-1], z, plane))
        return self.place_split(self.decoder_c.deep(encoded), z, plane)

    @torch.jit.unused
    def forward_training(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """-> latent y = A(x_U), reconstructed centre slice x^_U = B(y) and MR x^_M = C(y), (N, 1, H, W)."""
        features = self.encoder_a(x)
        f_us = self.decoder_b.deep(features)
        f_mr = self.attention(f_us, self._deep(features, x))
        return (
            features[-1],
            self.decoder_b.shallow(f_us, features),
            self.decoder_c.shallow(f_mr, features),
        )


class _NoAttention(nn.Module):
    """The ablation without attention: f_M unchanged."""

    def forward(self, f_us: Tensor, f_mr: Tensor) -> Tensor:
        return f_mr


class _NoPosition(nn.Module):
    """Without a positional encoding: the feature unchanged."""

    def forward(self, feature: Tensor, z: Tensor, plane: Tensor) -> Tensor:
        return feature
