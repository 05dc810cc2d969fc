"""From an alignment checkpoint to a model folder: TorchScript file, manifest with the trust calibration, card.

usmri export runs/alignment/checkpoint.pt model_weights/alignment
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from USMRISynthesisLib.alignment.volume.network import STAGES, AlignmentNetwork
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.training.common import model_folder, torchscript
from USMRISynthesisLib.training.common.quantisation import in_eight_bits

TOLERANCE = 2e-2  # scales and biases are stored in half precision, weights in eight bits
LIMITS = (
    "Not for diagnosis. The alignment finds where a fetal head lies; it judges no anatomy.",
    "Learnt from simulated ultrasound alone, of averages of fetuses with spina bifida: nobody has tried it on real 3D "
    "ultrasound.",
    "Volumes only: 2D frames have a model of their own.",
    "Heads of 21-34 weeks were simulated; others are reached by scaling.",
    "Below a score of one half the alignment is not to be relied on; above it, look all the same.",
)


def build_networks() -> dict[str, AlignmentNetwork]:
    """The stages' networks, with random weights."""
    return {
        name: AlignmentNetwork(stage.widths, stage.size, stage.maps, stage.upright) for name, stage in STAGES.items()
    }


def start_from(networks: Mapping[str, AlignmentNetwork], path: str) -> None:
    """Copy the weights of an exported model's file. Raises Refused if it holds no networks of this shape."""
    try:
        loaded = torch.jit.load(path, "cpu").float()
        for name, network in networks.items():
            state = getattr(loaded, name).state_dict()
            network.load_state_dict({key: state[key] for key in network.state_dict()})  # a trace keeps constants, too
    except (AttributeError, KeyError, RuntimeError, ValueError, OSError) as error:
        raise Refused(
            "initial",
            f"{path} holds no alignment networks that training can go on from.",
            "Give a model.pt of sixteen bits, or leave initial out.",
        ) from error


def export_alignment(
    content: Mapping[str, Any],
    folder: str | Path,
    *,
    name: str,
    version: str = "1",
    figures: Mapping[str, Any] | None = None,
) -> Path:
    """Write the averaged networks of a loaded checkpoint as a model folder; returns the folder.

    Raises Refused (no such checkpoint), Failed (the saved module differs; nothing can be written).
    """
    networks: dict[str, nn.Module] = {}
    try:
        for part, network in build_networks().items():
            network.load_state_dict(content["averaged"][part])
            networks[part] = in_eight_bits(network.requires_grad_(False))
    except (KeyError, RuntimeError) as error:
        raise Refused("checkpoint", "This is no alignment checkpoint of this version.", "Train again.") from error
    data = torchscript.stages(networks, example, TOLERANCE)
    measured = dict(figures if figures is not None else content.get("figures", {}))
    refine = STAGES["refine"]
    manifest: dict[str, Any] = {
        **model_folder.identity(name, "alignment", version, data),
        "input": {"size": refine.size, "spacing_mm": refine.side_mm / refine.size, "channels": 1, "neighbours": 0,
                  "location": False, "intensity": model_folder.INTENSITY},
        "output": {"meaning": "dense canonical coordinates and their spread, head; brain, skull distance, eyes",
                   "stages": {name: {"size": stage.size, "side_mm": stage.side_mm} for name, stage in STAGES.items()}},
        "training": model_folder.origin(content, [model_folder.ATLAS]),
        "figures": {"measured_on": "simulated ultrasound of held-out weeks in random poses", **measured}
        if measured else {},
        "limits": list(LIMITS), "synthetic": True,
    }  # fmt: skip
    if content.get("trust"):
        manifest["trust"] = content["trust"]
    return model_folder.write(folder, {model_folder.MODEL: data}, manifest, card(manifest))


def example(name: str) -> Tensor:
    """A fixed input (2, 1, S, S, S) of a stage's network."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 1, *[STAGES[name].size] * 3, generator=generator) * 2 - 1


def card(manifest: Mapping[str, Any]) -> str:
    """The model card, from the manifest's own values."""
    training, form = manifest["training"], manifest["input"]
    return "\n".join([
        f"# {manifest['name']} {manifest['version']}", "",
        "Finds a fetal head in 3D ultrasound, in any orientation, and the way to canonical space.",
        "**Not for diagnosis.**", "", "## Limits", "", *(f"- {limit}" for limit in manifest["limits"]), "",
        "## Input and output", "",
        f"- Cubes of up to {form['size']} cells a side ({form['spacing_mm']:.2g} mm in the last pass). "
        f"Intensity: {form['intensity']}.", f"- Output: {manifest['output']['meaning']}.", "",
        "## Training", "", *model_folder.data_lines(training),
        f"- {training['cases']} simulated heads, {training['steps']} steps of {training['config']['batch']} samples, "
        f"seed {training['seed']}, {training['date']}.", "", "## Figures", "",
        *model_folder.figure_lines(manifest["figures"]),
        "", f"SHA-256 of `{manifest['file']}`: `{manifest['sha256']}`", "",
    ])  # fmt: skip
