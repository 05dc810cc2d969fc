"""From a slice-spacing checkpoint to a model folder: TorchScript file with both networks, manifest, card.

usmri export runs/spacing/checkpoint.pt model_weights/spacing
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from USMRISynthesisLib.spacing.inference import conditions
from USMRISynthesisLib.spacing.intensity import MEANING
from USMRISynthesisLib.spacing.network import SliceVAE, SpacingNetworkConfig, SpacingNetworks, SuperResolution
from USMRISynthesisLib.spacing.profile import MAX_FACTOR, MIN_FACTOR
from USMRISynthesisLib.training.common import torchscript
from USMRISynthesisLib.training.common.export import Card, Exported, card_text, loading
from USMRISynthesisLib.training.spacing.config import SpacingConfig

TOLERANCE = 1e-2  # the weights are stored in half precision
ATLAS = {
    "name": "Spina bifida fetal brain MR atlas, T2-weighted averages, 21-34 weeks, deformed, in thick slices",
    "licence": "CC0 1.0",
    "source": "Fidon et al., Open Research Europe 2021, 1:123",
}
STACKS = {
    "name": "In-utero T2 HASTE stacks of one fetus, 3.3 mm slices",
    "licence": "stated as CC0, in a BSD-3 repository",
    "source": "Tourbier et al., NeuroImage 2015",
}
OWN = {"name": "Thick-slice MR of whoever trained it", "licence": "theirs", "source": "not recorded"}
LIMITS = (
    "Not for diagnosis. What lies between thick slices is invented: a lesion thinner than a slice can be missing, or "
    "be drawn where there is none.",
    "Slices that moved in their plane against their neighbours, as in fetal MR, are put back first, and the result "
    "differs from them; motion across the plane stays. With consistency switched on no slice is put back, and the "
    "steps between moved slices come out sharper than they were.",
    "The slice profile is taken to be a Gaussian as wide as the slices lie apart: no gap, no overlap.",
    "Learnt from T2-weighted fetal brain MR of few subjects, averages of fetuses with spina bifida most of them; other "
    "organs and contrasts have not been measured.",
)


def export_spacing(content: Mapping[str, Any]) -> Exported:
    """The averaged networks of a loaded checkpoint."""
    config = SpacingConfig.from_json(content["config"])
    networks = SpacingNetworks(SliceVAE(config.vae_width, config.latent), SuperResolution(config.width))
    with loading("slice-spacing"):
        networks.vae.load_state_dict(content["averaged"]["vae"])
        networks.super_resolution.load_state_dict(content["averaged"]["super_resolution"])
    return Exported(
        data=scripted(networks.eval().requires_grad_(False)),
        form={"size": config.size, "spacing_mm": 0.8, "channels": 1, "neighbours": 0, "location": False,
              "intensity": MEANING},
        output={"meaning": "MR on through-plane views of the fine grid", "factor": [MIN_FACTOR, MAX_FACTOR],
                "profile": "Gaussian, full width at half maximum = distance of the slices"},
        sources=data_of(content),
        measured_on=("held-out weeks of the atlas and their deformations, thinned",) * 2,
        limits=LIMITS,
        card=card,
        further={"architecture": architecture(content["config"])},
    )  # fmt: skip


def architecture(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest says of the networks, by a run's configuration, so that they can be built for plain weights."""
    form = SpacingNetworkConfig(config["width"], config["vae_width"], config["latent"])
    return {"name": "spacing", "config": dataclasses.asdict(form)}


def data_of(content: Mapping[str, Any]) -> list[dict[str, str]]:
    """The data sets that a run learnt from, by its configuration."""
    data = content["config"]["data"]
    known = all("fetal-mr-stacks" in volume for volume in data["volumes"])
    return [ATLAS] * bool(data["atlas"] and data["weeks"]) + [STACKS if known else OWN] * bool(data["volumes"])


def scripted(networks: SpacingNetworks) -> bytes:
    """Both networks as TorchScript bytes in half precision, read back and checked against eager. Raises Failed."""
    # Scripted and not traced: views come in any size. Scripting shares the parameters, of a copy.
    data, loaded = torchscript.stored(torchscript.scripted(networks))
    for n, m, w in ((9, 27, 50), (7, 24, 32)):
        x, known = torch.rand(2, 1, m, w, generator=torch.Generator().manual_seed(0)), conditions(n, m, 0.1)
        with torch.inference_mode():
            pairs = ((loaded(x, known), networks(x, known)), (loaded.vae(x), networks.vae(x)))
        for exported, expected in pairs:
            torchscript.checked("slice-spacing", exported, expected, TOLERANCE)
    return data


def card(manifest: Mapping[str, Any]) -> str:
    """The model card, from the manifest's own values."""
    training = manifest["training"]
    config = training["config"]
    share = config["in_plane"]
    targets = {
        0.0: "synthesised fine slices alone (Xuan et al. 2021)",
        1.0: "in-plane images alone (self-supervised; not Xuan's method)",
    }.get(share, f"synthesised fine slices, and in-plane images in {share:.0%} of the batches")
    if config["every_axis"] and share < 1:
        targets += ", degraded along each of their axes (ours)"
    befell = config["acquisition"]["share"] if "acquisition" in config else 0.0
    if befell:
        targets += f". In {befell:.0%} of the batches slices had moved, were unevenly bright and noisy (ours)"
    return card_text(manifest, Card(
        purpose="Reduces the slice spacing of MR volumes by 1.5 to 6.",
        form=[
            f"Through-plane views, linearly estimated on the fine grid. Intensity: {manifest['input']['intensity']}.",
            f"Output: {manifest['output']['meaning']}. Profile: {manifest['output']['profile']}.",
        ],
        training=[
            f"{training['cases']} stacks, {training['steps']} steps of {config['batch']} patches, seed "
            f"{training['seed']}, {training['date']}. Targets of the super-resolution network: {targets}."
        ],
    ))  # fmt: skip
