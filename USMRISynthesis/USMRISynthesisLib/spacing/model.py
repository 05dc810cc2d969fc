"""A slice-spacing model from its folder: hash checked, on its device, kept warm between requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.models import schema, store
from USMRISynthesisLib.models.device import choose_device
from USMRISynthesisLib.models.manifest import malformed
from USMRISynthesisLib.spacing.network import (
    CONDITIONS,
    SliceVAE,
    SpacingNetworkConfig,
    SpacingNetworks,
    SuperResolution,
)

DEFAULT = "spacing"


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A verified model; `module(x, conditions)` is the super-resolution network, `module.vae` what trained it."""

    manifest: store.Manifest
    module: Any
    device: torch.device
    reason: str
    weights: str  # the form that runs: "torchscript" or "plain"


def load_model(model: str = DEFAULT, device: str = "auto", *, consent: store.Consent | None = None) -> LoadedModel:
    """Find, verify and load. Raises Failed (no such model or device, hash, task) and ConsentNeeded."""
    chosen, reason = choose_device(device)

    def prepare(source: store.Source) -> LoadedModel:
        module: Any = source.network(lambda: build(source)).to(chosen)
        if next(module.super_resolution.head.parameters()).shape[1] != 1 + CONDITIONS:
            raise Failed(
                "model",
                f"The model {source.name!r} was made for another version of this software.",
                "Train and export it again, or choose another model.",
            )
        return LoadedModel(source.manifest, module, chosen, reason, source.form)

    return store.load(model, "spacing", prepare, device=chosen, consent=consent)


def build(source: store.Source) -> SpacingNetworks:
    """The networks that a manifest describes, with random weights. Raises Failed."""
    config: SpacingNetworkConfig = schema.build(
        SpacingNetworkConfig,
        source.settings("spacing"),
        lambda name, fault, _: malformed(f"architecture.config.{name}", fault),
    )
    return SpacingNetworks(SliceVAE(config.vae_width, config.latent), SuperResolution(config.width))
