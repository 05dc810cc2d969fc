"""From a checkpoint of the head outline's networks to a model folder: TorchScript file, manifest, card.

usmri export runs/frames/checkpoint.pt model_weights/frames
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from USMRISynthesisLib.alignment.frame.network import FACE_SIZE, SIZE, FrameConfig
from USMRISynthesisLib.training.common import torchscript
from USMRISynthesisLib.training.common.export import ATLAS, HC18, INTENSITY, Card, Exported, card_text, loading
from USMRISynthesisLib.training.outline.combine import OUTLINE_FROM
from USMRISynthesisLib.training.outline.loop import build_networks

TOLERANCE = 2e-2  # the weights are stored in half precision
LIMITS = (
    "Not for diagnosis. The network outlines a fetal head; it assesses no anatomy, and its outline is no measurement.",
    "Learnt from HC18's head-circumference planes: other planes of the head were not shown, and other machines little.",
    "Which end of the head is the face was learnt from simulated frames and a few real ones with a marked cavum.",
    "Below a confidence of one half the outline is not to be relied on; above it, check it all the same.",
)


def export_outline(content: Mapping[str, Any]) -> Exported:
    """The averaged networks of a loaded checkpoint."""
    networks = build_networks()
    for part, network in networks.items():
        with loading("head outline"):
            network.load_state_dict(content["averaged"][part])
        network.eval().requires_grad_(False)
    return Exported(
        data=torchscript.stages(networks, example, TOLERANCE),
        form={"size": SIZE, "spacing_mm": 1.0, "channels": 1, "neighbours": 0, "location": False,
              "intensity": INTENSITY},
        output={"meaning": "head, distance to its outline and that distance's expected error, midline, "
                           "whether there is a head, at half the input's resolution; which end is the face"},
        sources=[HC18, ATLAS],
        measured_on=("HC18 frames of the validation fetuses", "HC18 frames of the test fetuses"),
        limits=LIMITS,
        card=card,
        training={OUTLINE_FROM: content[OUTLINE_FROM]} if OUTLINE_FROM in content else {},
        further={"architecture": architecture()} | ({"trust": content["trust"]} if content.get("trust") else {}),
    )  # fmt: skip


def _outline_from(training: Mapping[str, Any]) -> list[str]:
    """The card's line on an outline of another run (`combine.py`)."""
    if (other := training.get(OUTLINE_FROM)) is None:
        return []
    return [
        f"The outline's network and its confidence are those of version {other['version']} "
        f"({other['training']['steps']} steps, {other['training']['date']}, SHA-256 of its `model.pt` "
        f"`{other['sha256']}`); the face's network is new."
    ]


def architecture() -> dict[str, Any]:
    """What the manifest says of the networks, so that they can be built for the plain weights."""
    return {"name": "frames", "config": dataclasses.asdict(FrameConfig())}


def example(name: str) -> Tensor:
    """A fixed input (2, 1, S, S) of one part."""
    size = FACE_SIZE if name == "face" else SIZE
    return torch.rand(2, 1, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def card(manifest: Mapping[str, Any]) -> str:
    """The model card, from the manifest's own values."""
    training, form = manifest["training"], manifest["input"]
    return card_text(manifest, Card(
        purpose="Finds the outline of a fetal head in a 2D frame of the head-circumference plane, in any direction.",
        form=[
            f"Squares of {form['size']} cells a side, of any size. Intensity: {form['intensity']}.",
            f"Output: {manifest['output']['meaning']}.",
        ],
        training=[
            f"{training['cases']} fetuses and simulated heads, {training['steps']} steps of "
            f"{training['config']['real']} real and {training['config']['simulated']} simulated frames, "
            f"seed {training['seed']}, {training['date']}.",
            *_outline_from(training),
        ],
    ))  # fmt: skip
