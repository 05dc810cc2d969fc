"""From a checkpoint of the frame content network to a model folder: TorchScript file, manifest, card.

usmri export runs/content/checkpoint.pt model_weights/content
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from USMRISynthesisLib.alignment.frame.content import PLANES
from USMRISynthesisLib.alignment.frame.content_network import SIZE, ContentConfig, ContentNetwork
from USMRISynthesisLib.training.common import torchscript
from USMRISynthesisLib.training.common.export import HC18, INTENSITY, PLANE_FRAMES, Card, Exported, card_text, loading
from USMRISynthesisLib.training.content.loop import PART

TOLERANCE = 2e-2  # the weights are stored in half precision
AFRICAN_FRAMES = {
    "name": "Fetal planes of five African countries, real 2D frames of thorax, abdomen and femur",
    "licence": "CC BY 4.0",
    "source": "Sendra-Balcells et al. 2023, zenodo.org/records/7540448",
}
MR = {
    "name": "Slices of fetal brain MR, averages and stacks, as what is no ultrasound",
    "licence": "CC0 1.0",
    "source": "Fidon et al., Open Research Europe 2021, 1:123; Tourbier et al., NeuroImage 2015; "
    "IntelligentImaging/fetal-brain-extraction",
}
LIMITS = (
    "Not for diagnosis. The network says whether a frame shows a fetal brain, so that other frames are not turned into "
    "one; it assesses no anatomy.",
    "Learnt from three axial planes; 15 frames only show another plane of the brain, which it seldom recognises.",
    "Thalamic and ventricular planes are much alike: which of the two it names is an indication only.",
    "An image of another kind altogether, such as a photograph, may be taken for either.",
)


def export_content(content: Mapping[str, Any]) -> Exported:
    """The averaged network of a loaded checkpoint."""
    network = ContentNetwork()
    with loading("frame content"):
        network.load_state_dict(content["averaged"][PART])
    network.eval().requires_grad_(False)
    return Exported(
        data=torchscript.stages({PART: network}, example, TOLERANCE),
        form={"size": SIZE, "spacing_mm": 1.0, "channels": 1, "neighbours": 0, "location": False,
              "intensity": INTENSITY},
        output={"meaning": f"logit of a brain, then of each plane: {', '.join(PLANES)}"},
        sources=[PLANE_FRAMES, AFRICAN_FRAMES, HC18, MR],
        measured_on=("frames of the validation patients", "frames of the test patients"),
        limits=LIMITS,
        card=card,
        further={"architecture": {"name": PART, "config": dataclasses.asdict(ContentConfig())}},
    )  # fmt: skip


def example(name: str) -> Tensor:
    """A fixed input (2, 1, S, S)."""
    return torch.rand(2, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def card(manifest: Mapping[str, Any]) -> str:
    """The model card, from the manifest's own values."""
    training, form = manifest["training"], manifest["input"]
    return card_text(manifest, Card(
        purpose="Says what a 2D ultrasound frame shows: a fetal brain, in which plane, or no brain.",
        form=[
            f"Squares of {form['size']} cells a side about the fan, of any size. Intensity: {form['intensity']}.",
            f"Output: {manifest['output']['meaning']}.",
        ],
        training=[
            f"{training['cases']} patients, {training['steps']} steps of {training['config']['batch']} frames, "
            f"seed {training['seed']}, {training['date']}."
        ],
    ))  # fmt: skip
