"""From a checkpoint of the frames' network to a model folder: TorchScript file, manifest with the trust, card.

usmri export runs/frames/checkpoint.pt model_weights/frames
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from USMRISynthesisLib.alignment.frame.network import FACE_SIZE, SIZE
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.training.common import model_folder, torchscript
from USMRISynthesisLib.training.outline.loop import build_networks

TOLERANCE = 2e-2  # the weights are stored in half precision
LIMITS = (
    "Not for diagnosis. The network outlines a fetal head; it judges no anatomy, and its outline is no measurement.",
    "Learnt from HC18's head-circumference planes: other planes of the head were not shown, and other machines little.",
    "Which end of the head is the face was learnt from simulated frames alone; no real frame could verify it.",
    "Below a score of one half the outline is not to be relied on; above it, look all the same.",
)


def export_frames(
    content: Mapping[str, Any],
    folder: str | Path,
    *,
    name: str,
    version: str = "1",
    figures: Mapping[str, Any] | None = None,
) -> Path:
    """Write the averaged network of a loaded checkpoint as a model folder; returns the folder.

    Raises Refused (no such checkpoint), Failed (the saved module differs; nothing can be written).
    """
    try:
        networks = build_networks()
        for part, network in networks.items():
            network.load_state_dict(content["averaged"][part])
            network.eval().requires_grad_(False)
    except (KeyError, RuntimeError) as error:
        raise Refused(
            "checkpoint", "This is no checkpoint of the frames' network of this version.", "Train again."
        ) from error
    data = torchscript.stages(networks, example, TOLERANCE)
    measured = dict(figures if figures is not None else content.get("figures", {}))
    on = "HC18 frames of the test fetuses" if figures is not None else "HC18 frames of the validation fetuses"
    manifest: dict[str, Any] = {
        **model_folder.identity(name, "frames", version, data),
        "input": {"size": SIZE, "spacing_mm": 1.0, "channels": 1, "neighbours": 0, "location": False,
                  "intensity": model_folder.INTENSITY},
        "output": {"meaning": "head, distance to its outline and that distance's expected error, midline, "
                              "whether there is a head, at half the input's resolution; which end is the face"},
        "training": model_folder.origin(content, [model_folder.HC18, model_folder.ATLAS]),
        "figures": {"measured_on": on, **measured} if measured else {},
        "limits": list(LIMITS), "synthetic": True,
    }  # fmt: skip
    if content.get("trust"):
        manifest["trust"] = content["trust"]
    return model_folder.write(folder, {model_folder.MODEL: data}, manifest, card(manifest))


def example(name: str) -> Tensor:
    """A fixed input (2, 1, S, S) of one part."""
    size = FACE_SIZE if name == "face" else SIZE
    return torch.rand(2, 1, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def card(manifest: Mapping[str, Any]) -> str:
    """The model card, from the manifest's own values."""
    training, form = manifest["training"], manifest["input"]
    return "\n".join([
        f"# {manifest['name']} {manifest['version']}", "",
        "Finds the outline of a fetal head in a 2D frame of the head-circumference plane, in any direction.",
        "**Not for diagnosis.**", "", "## Limits", "", *(f"- {limit}" for limit in manifest["limits"]), "",
        "## Input and output", "",
        f"- Squares of {form['size']} cells a side, of any size. Intensity: {form['intensity']}.",
        f"- Output: {manifest['output']['meaning']}.", "",
        "## Training", "", *model_folder.data_lines(training),
        f"- {training['cases']} fetuses and simulated heads, {training['steps']} steps of "
        f"{training['config']['real']} real and {training['config']['simulated']} simulated frames, "
        f"seed {training['seed']}, {training['date']}.", "", "## Figures", "",
        *model_folder.figure_lines(manifest["figures"]),
        "", f"SHA-256 of `{manifest['file']}`: `{manifest['sha256']}`", "",
    ])  # fmt: skip
