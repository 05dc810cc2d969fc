"""What the study compares with, on the same networks and data: an autoencoder, CycleGAN and CUT.

G is A and C, F is D and E, m a real MR slice, x an ultrasound slice.

    auto     |C(A(m)) - m|                     one encoder for both kinds of image, a decoder for each (with `lat`)
    cycle    |G(F(m)) - m|                     CycleGAN's second cycle; its first is `proj`, |F(G(x)) - x|
    reverse  Adv(D_back; x, F(m))              its second discriminator; `back` sees F(G(x)) and stays off
    nce      contrast(x, G(x)), (m, G(m))      CUT, Park et al., ECCV 2020, with its identity half

The networks' shapes are ours throughout, not those of the published programs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from USMRISynthesisLib.synthesis.generator import Generator
from USMRISynthesisLib.training.synthesis.networks import BackwardPath, PatchContrast
from USMRISynthesisLib.training.synthesis.objective import (
    ObjectiveConfig,
    Real,
    Synthesised,
    adversarial_discriminator,
    adversarial_generator,
)


class FromMR(NamedTuple):
    """What the networks made of the real MR slices (N, 1, H, W); None where no term needs it."""

    mr_from_mr: Tensor | None  # C(A(m)) = G(m)
    us_from_mr: Tensor | None  # F(m)
    mr_again: Tensor | None  # G(F(m))


def as_input(images: Tensor, x: Tensor, slices: int) -> Tensor:
    """Images (N, 1, H, W) as the generator's input, shaped as `x`: in place of every slice, at x's places."""
    stacked = images.expand(-1, slices, -1, -1)
    return F.pad(stacked, (0, 0, 0, 0, 0, x.shape[1] - slices)) + _location_only(x, slices)


def _location_only(x: Tensor, slices: int) -> Tensor:
    kept = x.clone()
    kept[:, :slices] = 0
    return kept


def from_mr(generator: Generator, backward: BackwardPath, mr: Tensor, x: Tensor, config: ObjectiveConfig) -> FromMR:
    """Only what a term of `config` needs. mr (N, 1, H, W), x (N, C, H, W): the generator's input at the same places."""
    direct = us = again = None
    if config.auto or config.nce:
        direct = generator(as_input(mr, x, generator.slices))
    if config.cycle or config.reverse:
        us = backward(mr)[1]
    if config.cycle:
        assert us is not None
        again = generator(as_input(us, x, generator.slices))
    return FromMR(direct, us, again)


def generator_terms(
    made: Synthesised,
    other: FromMR,
    mr: Tensor,
    x: Tensor,
    generator: Generator,
    discriminators: Mapping[str, nn.Module] | nn.ModuleDict,
    contrast: PatchContrast | None,
    config: ObjectiveConfig,
    augment: Callable[[Tensor], Tensor] = lambda images: images,
) -> dict[str, Tensor]:
    """Every term of a baseline that is on, unweighted, by name."""
    terms: dict[str, Tensor] = {}
    if config.auto and other.mr_from_mr is not None:
        terms["auto"] = F.l1_loss(other.mr_from_mr.float(), mr)
    if config.cycle and other.mr_again is not None:
        terms["cycle"] = F.l1_loss(other.mr_again.float(), mr)
    if config.reverse and other.us_from_mr is not None:
        fooled = discriminators["back"](augment(other.us_from_mr.float()))
        terms["reverse"] = adversarial_generator(fooled, config.adversarial)
    if config.nce:
        assert contrast is not None and other.mr_from_mr is not None
        encode, slices = generator.encoder_a, generator.slices
        kept = contrast(encode(as_input(made.mr, x, slices)), encode(x))
        same = contrast(encode(as_input(other.mr_from_mr, x, slices)), encode(as_input(mr, x, slices)))
        terms["nce"] = (kept + same) / 2
    return terms


def discriminator_terms(
    other: FromMR,
    real: Real,
    discriminators: Mapping[str, nn.Module] | nn.ModuleDict,
    config: ObjectiveConfig,
    augment: Callable[[Tensor], Tensor] = lambda images: images,
    remember: Callable[[str, Tensor], Tensor] = lambda term, fakes: fakes,
) -> dict[str, Tensor]:
    """The loss of the discriminator that separates F(m) from ultrasound; nothing flows back to the networks."""
    if not config.reverse or other.us_from_mr is None:
        return {}
    discriminator = discriminators["back"]
    fake = remember("us", other.us_from_mr.float().detach())
    return {
        "reverse": adversarial_discriminator(
            discriminator(augment(real.us)), discriminator(augment(fake)), config.adversarial
        )
    }
