"""From an alignment checkpoint to a model folder: TorchScript file, manifest with the confidence's calibration, card.

usmri export runs/alignment/checkpoint.pt model_weights/alignment
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from USMRISynthesisLib.alignment.volume.network import STAGES, AlignmentNetwork
from USMRISynthesisLib.errors import Failed, Refused
from USMRISynthesisLib.models import store
from USMRISynthesisLib.models.quantisation import in_eight_bits
from USMRISynthesisLib.training.common import torchscript
from USMRISynthesisLib.training.common.export import ATLAS, INTENSITY, Card, Exported, card_text, loading

TOLERANCE = 2e-2  # scales and biases are stored in half precision, weights in eight bits
LIMITS = (
    "Not for diagnosis. The alignment finds where a fetal head lies; it assesses no anatomy.",
    "Learnt from simulated ultrasound alone, of averages of fetuses with spina bifida: nobody has tried it on real 3D "
    "ultrasound.",
    "Volumes only: 2D frames have a model of their own.",
    "Heads of 21-34 weeks were simulated; others are reached by scaling.",
    "Below a confidence of one half the alignment is not to be relied on; above it, check it all the same.",
)


def build_networks() -> dict[str, AlignmentNetwork]:
    """The stages' networks, with random weights."""
    return {
        name: AlignmentNetwork(stage.widths, stage.size, stage.maps, stage.upright) for name, stage in STAGES.items()
    }


def start_from(networks: Mapping[str, AlignmentNetwork], path: str) -> None:
    """Copy the weights of an exported model's file. Raises Refused if it holds no networks of this shape, ConsentNeeded
    for a TorchScript file that nobody has agreed to."""
    try:
        state = store.state_of(path)
        for name, network in networks.items():  # an export keeps constants, too
            network.load_state_dict({key: state[f"{name}.{key}"] for key in network.state_dict()})
    except (KeyError, RuntimeError, ValueError, Failed) as error:
        raise Refused(
            "initial",
            f"{path} holds no alignment networks that training can go on from.",
            "Give a model.pt of sixteen bits, or leave initial out.",
        ) from error


def export_alignment(content: Mapping[str, Any]) -> Exported:
    """The averaged networks of a loaded checkpoint, in eight bits."""
    networks: dict[str, nn.Module] = {}
    for part, network in build_networks().items():
        with loading("alignment"):
            network.load_state_dict(content["averaged"][part])
        networks[part] = in_eight_bits(network.requires_grad_(False))
    refine = STAGES["refine"]
    return Exported(
        data=torchscript.stages(networks, example, TOLERANCE),
        form={"size": refine.size, "spacing_mm": refine.side_mm / refine.size, "channels": 1, "neighbours": 0,
              "location": False, "intensity": INTENSITY},
        output={"meaning": "dense canonical coordinates and their spread, head; brain, skull distance, eyes",
                "stages": {name: {"size": stage.size, "side_mm": stage.side_mm} for name, stage in STAGES.items()}},
        sources=[ATLAS],
        measured_on=("simulated ultrasound of held-out weeks in random poses",) * 2,
        limits=LIMITS,
        card=card,
        further={"architecture": architecture()} | ({"trust": content["trust"]} if content.get("trust") else {}),
    )  # fmt: skip


def architecture() -> dict[str, Any]:
    """What the manifest says of the networks, so that they can be built for the plain weights."""
    return {"name": "alignment", "config": {name: dataclasses.asdict(stage) for name, stage in STAGES.items()}}


def example(name: str) -> Tensor:
    """A fixed input (2, 1, S, S, S) of a stage's network."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 1, *[STAGES[name].size] * 3, generator=generator) * 2 - 1


def card(manifest: Mapping[str, Any]) -> str:
    """The model card, from the manifest's own values."""
    training, form = manifest["training"], manifest["input"]
    return card_text(manifest, Card(
        purpose="Finds a fetal head in 3D ultrasound, in any orientation, and the way to canonical space.",
        form=[
            f"Cubes of up to {form['size']} cells a side ({form['spacing_mm']:.2g} mm in the last pass). "
            f"Intensity: {form['intensity']}.",
            f"Output: {manifest['output']['meaning']}.",
        ],
        training=[
            f"{training['cases']} simulated heads, {training['steps']} steps of {training['config']['batch']} samples, "
            f"seed {training['seed']}, {training['date']}."
        ],
    ))  # fmt: skip
