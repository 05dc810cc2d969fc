"""The backward-inference path (section 2.1): encoder D and decoder E, from the MR back to ultrasound."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from USMRISynthesisLib.synthesis.blocks import Decoder, Encoder


class BackwardPath(nn.Module):
    """MR x^_M (N, 1, H, W) -> latent y_b = D(x^_M) and ultrasound x~_U = E(y_b), (N, 1, H, W) in [-1, 1].

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
