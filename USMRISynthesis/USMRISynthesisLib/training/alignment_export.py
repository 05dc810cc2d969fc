"""From an alignment checkpoint to a model folder: TorchScript file, manifest with the trust calibration, card.

    usmri export runs/alignment/checkpoint.pt model_weights/alignment
"""

from __future__ import annotations

import copy
import datetime
import hashlib
import io
import json
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import Failed, Refused
from ..normalisation.network import AlignmentNetwork
from ..normalisation.stages import NETWORKS, STAGES
from .export import ATLAS, CARD, HC18, INTENSITY, LIMITS, MANIFEST, MODEL, _write

TOLERANCE = 2e-2  # the weights are stored in half precision
_LIMITS = (
    LIMITS[0].split(". ", 1)[0] + ". The alignment finds where a fetal head lies; it judges no anatomy.",
    LIMITS[1],
    "Volumes: learnt from simulated ultrasound alone. Frames: where the head lies was learnt from real frames, which "
    "end is the face from simulated slices.",
    "Heads of 21-34 weeks were simulated; others are reached by scaling.",
    "Below a score of one half the alignment is not to be relied on; above it, look all the same.",
)


class Stages(nn.Module):
    """The networks in one file; `forward` only says which there are."""

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, network in networks.items():
            self.add_module(name, network)

    def forward(self, x: Tensor) -> Tensor:
        return x


def build_networks(names: Iterable[str]) -> dict[str, AlignmentNetwork]:
    """Networks of these names with random weights."""
    wanted = set(names)
    return {name: AlignmentNetwork(form.dimensions, form.widths, form.size)
            for name, form in NETWORKS.items() if name in wanted}


def export_alignment(content: Mapping[str, Any], folder: str | Path, *, name: str, version: str = "1",
                     figures: Mapping[str, Any] | None = None) -> Path:
    """Write the averaged networks of a loaded checkpoint as a model folder; returns the folder.

    Raises Refused (no such checkpoint), Failed (the saved module differs; nothing can be written).
    """
    try:
        networks = build_networks(content["averaged"])
        for part, network in networks.items():
            network.load_state_dict(content["averaged"][part])
            network.eval().requires_grad_(False)
    except (KeyError, RuntimeError) as error:
        raise Refused("checkpoint", "This is no alignment checkpoint of this version.", "Train again.") from error
    data = traced(networks)
    measured = dict(figures if figures is not None else content.get("figures", {}))
    config = content["config"]
    refine = STAGES["refine"]
    manifest: dict[str, Any] = {
        "name": name, "task": "alignment", "version": version, "file": MODEL,
        "sha256": hashlib.sha256(data).hexdigest(),
        "input": {"size": refine.size, "spacing_mm": refine.side_mm / refine.size, "channels": 1, "neighbours": 0,
                  "location": False, "intensity": INTENSITY},
        "output": {"meaning": "masks of head and brain, skull distance, eyes, dense canonical coordinates, pose",
                   "stages": {name: {"network": stage.network, "size": stage.size, "side_mm": stage.side_mm}
                              for name, stage in STAGES.items() if stage.network in networks}},
        "training": {
            "data": [ATLAS, *([HC18] if config["data"]["frames"] else [])], "cases": len(content.get("cases", ())),
            "steps": content["step"], "seed": config["seed"], "date": datetime.date.today().isoformat(),
            "torch": torch.__version__, "config": config,
        },
        "figures": {"measured_on": "simulated ultrasound of held-out weeks in random poses", **measured}
        if measured else {},
        "limits": list(_LIMITS), "synthetic": True,
    }  # fmt: skip
    if content.get("trust"):
        manifest["trust"] = content["trust"]
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / MODEL, data)
        _write(folder / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
        _write(folder / CARD, card(manifest).encode())
    except OSError as error:
        raise Failed("export", f"{folder} cannot be written ({error.strerror}).", "Check the path.") from error
    return folder


def traced(networks: Mapping[str, nn.Module]) -> bytes:
    """The networks as TorchScript bytes in half precision, read back and checked against eager. Raises Failed."""
    parts = {}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # newer torch discourages TorchScript; sizes become constants, as meant
        for name, network in networks.items():
            # A trace shares its parameters with what was traced, which stays as it is.
            parts[name] = torch.jit.trace(copy.deepcopy(network).float(), example(name), check_trace=False)
        module = torch.jit.script(Stages(parts)).half()
        buffer = io.BytesIO()
        torch.jit.save(module, buffer)
        buffer.seek(0)
        loaded = torch.jit.load(buffer).float()
    with torch.inference_mode():
        for name, network in networks.items():
            x = example(name)
            for said, expected in zip(getattr(loaded, name)(x), network(x), strict=True):
                worst = float((said - expected).abs().max()) / max(1.0, float(expected.abs().max()))
                if not worst <= TOLERANCE:
                    raise Failed("export", f"The exported {name} network differs by {worst:.1e}.", "Report it.")
    return buffer.getvalue()


def example(name: str) -> Tensor:
    """A fixed input (2, 1, *D) of a network."""
    form = NETWORKS[name]
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 1, *[form.size] * form.dimensions, generator=generator) * 2 - 1


def card(manifest: Mapping[str, Any]) -> str:
    """The model card, from the manifest's own values."""
    training, form = manifest["training"], manifest["input"]
    return "\n".join([
        f"# {manifest['name']} {manifest['version']}", "",
        "Finds a fetal head in ultrasound, in any orientation, and the way to canonical space.",
        "**Not for diagnosis.**", "", "## Limits", "", *(f"- {limit}" for limit in manifest["limits"]), "",
        "## Input and output", "",
        f"- Cubes of up to {form['size']} cells a side ({form['spacing_mm']:g} mm in the last pass); 2D frames as "
        f"squares. Intensity: {form['intensity']}.", f"- Output: {manifest['output']['meaning']}.", "",
        "## Training", "",
        *(f"- {item['name']}. {item['source']}. {item['licence']}." for item in training["data"]),
        f"- {training['cases']} simulated heads, {training['steps']} steps of {training['config']['batch']} samples, "
        f"seed {training['seed']}, {training['date']}.", "", "## Figures", "",
        *([f"- {k}: {f'{v:.3f}' if isinstance(v, float) else v}" for k, v in manifest["figures"].items()]
          or ["None yet."]),
        "", f"SHA-256 of `{manifest['file']}`: `{manifest['sha256']}`", "",
    ])  # fmt: skip
