"""A slice-spacing model from its folder: hash checked, on its device, kept warm between requests."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.models import store
from USMRISynthesisLib.models.device import choose_device
from USMRISynthesisLib.spacing.network import CONDITIONS

DEFAULT = "spacing"


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A verified model; `module(x, conditions)` is the super-resolution network, `module.vae` what trained it."""

    manifest: store.Manifest
    module: torch.jit.ScriptModule
    device: torch.device
    reason: str


_loaded: dict[tuple[str, str], LoadedModel] = {}  # (sha256, device)


def load_model(model: str = DEFAULT, device: str = "auto", *, consent: store.Consent | None = None) -> LoadedModel:
    """Find, verify and load. Raises Failed (no such model or device, hash, task) and ConsentNeeded."""
    chosen, reason = choose_device(device)
    manifest, content = store.verified_bytes(store.find_model(model), consent=consent)
    if manifest.task != "spacing":
        raise Failed(
            "task",
            f"The model {manifest.name!r} is made for {manifest.task!r}, not for slice spacing.",
            f"Choose a slice-spacing model, {DEFAULT!r} for example.",
        )
    key = (manifest.sha256, str(chosen))
    if key not in _loaded:
        _loaded.clear()
        module = store.from_bytes(content, manifest.name, "cpu").float().to(chosen)
        if next(module.super_resolution.head.parameters()).shape[1] != 1 + CONDITIONS:
            raise Failed(
                "model",
                f"The model {manifest.name!r} was made for another version of this software.",
                "Train and export it again, or choose another model.",
            )
        _loaded[key] = LoadedModel(manifest, module.eval(), chosen, reason)
    return _loaded[key]
