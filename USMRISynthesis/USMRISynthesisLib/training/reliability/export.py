"""From a reliability map's checkpoint to `support.pt` in the folder of its model, named in manifest and card."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from USMRISynthesisLib.errors import Failed, Refused
from USMRISynthesisLib.geometry.canonical import SIZE
from USMRISynthesisLib.models.network import from_torchscript
from USMRISynthesisLib.models.quantisation import in_eight_bits
from USMRISynthesisLib.models.store import SUPPORT_VERSION, read_manifest
from USMRISynthesisLib.synthesis.reliability import (
    CELL,
    CONDITIONS,
    IMAGES,
    ONE_PLANE,
    SMOOTHING_MM,
    WRONG,
    ReliabilityNetwork,
)
from USMRISynthesisLib.training.common import export, torchscript

FILE = export.SUPPORT
TOLERANCE = 0.01  # of the largest logit: what half precision costs, which scales and biases are stored in
# Of the largest logit, and of the largest logarithm of a size: what eight bits may cost. AUC and calibration do not
# feel it. Hardly trained networks come near it, trained ones have a third of it.
ROUNDING = 0.1
_HEADING, _FORMER_HEADING = "## Reliability map", "## Support map"
_END = "SHA-256 of `model.pt`"


def add_reliability(content: Mapping[str, Any], folder: str | Path, figures: Mapping[str, str] | None = None) -> Path:
    """Write the averaged network beside the model's weights, and into its manifest and card; returns the folder.

    content: the checkpoint of a reliability map's run. Raises Refused where it was trained for other weights, Failed
    where the saved network, read back, differs, or nothing can be written.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if content.get("model_sha256") != manifest.sha256:
        raise Refused(
            "model",
            f"This reliability map was trained for other weights than {manifest.name!r}.",
            "Train it for these: `usmri train` with model set to this folder.",
        )
    network = ReliabilityNetwork()
    network.load_state_dict(content["averaged"])
    data = _traced(network.eval().requires_grad_(False))
    record = {
        "file": FILE, "version": SUPPORT_VERSION, "sha256": hashlib.sha256(data).hexdigest(), "wrong": WRONG,
        "smoothing_mm": SMOOTHING_MM, "steps": content["step"], "cases": len(content["cases"]),
        "frames": bool(content["config"].get("frames")),
        "date": datetime.date.today().isoformat(), "config": content["config"], "figures": dict(figures or {}),
    }  # fmt: skip
    described = dataclasses.replace(manifest, extra={**manifest.extra, "support": record})
    card = folder / export.CARD
    try:
        text = card.read_text(encoding="utf-8") if card.is_file() else f"# {manifest.name}\n"
    except OSError as error:
        raise Failed("export", f"The model's card cannot be read ({error.strerror}).", "Check the path.") from error
    return export.write(folder, {FILE: data}, described.to_json(), described_card(text, record))


def described_card(card: str, record: Mapping[str, Any]) -> str:
    """The model card with the section on its reliability map, which replaces an earlier one."""
    config = record["config"]
    start = max(card.find(_HEADING), card.find(_FORMER_HEADING))
    end = card.find(_END, start)
    if start >= 0:
        card = card[:start] + (card[end:] if end >= 0 else "")
    learnt = ", ".join([*config["learn"], *config.get("also", []), *config.get("axial", [])])
    calibrated = ", ".join([*config["calibrate"], *config.get("also_calibrate", [])])
    section = "\n".join([
        _HEADING, "",
        f"`{record['file']}` gives the probability that the grey is right: off by no more than {record['wrong']:g} of "
        f"the brightest fluid's, the brain's mean matched, after a Gaussian of {record['smoothing_mm']:g} mm.",
        f"- {record['cases']} simulated heads ({learnt}), "
        f"{record['steps']} steps, calibrated on {calibrated}, seed {config['seed']}, {record['date']}.",
        "- It was trained on errors in simulated heads alone. On real ultrasound it is untested, and an anomaly of a "
        "kind that it was not trained on can be rated reliable. "
        + (f"Simulated frames: {', '.join(config['frames'])}; calibrated on {', '.join(config['calibrate_frames'])}."
           if record.get("frames") else "It is not used for 2D frames: it was trained on none."),
        *[f"- {key}: {value}" for key, value in record["figures"].items()],
        "", f"SHA-256 of `{record['file']}`: `{record['sha256']}`", "", "",
    ])  # fmt: skip
    at = card.find(_END)
    return card[:at] + section + card[at:] if at >= 0 else card.rstrip() + "\n\n" + section.rstrip() + "\n"


def reexported(content: bytes) -> bytes:
    """A support.pt written again, the same weights as this version runs them. Raises Failed."""
    network = in_eight_bits(ReliabilityNetwork())
    try:
        network.load_state_dict(from_torchscript(content, FILE).state_dict())
    except RuntimeError as error:
        raise Failed(
            "export", "The model's reliability map is not one of eight bits.", "Export it from its checkpoint."
        ) from error
    return _as_script(network, network)


def _traced(network: ReliabilityNetwork) -> bytes:
    """As TorchScript with weights of eight bits, checked against the network as it was trained. Raises Failed."""
    return _as_script(in_eight_bits(network), network)


def _as_script(rounded: nn.Module, network: nn.Module) -> bytes:
    """A network of eight bits, traced for the reasons given in `torchscript.py`, and checked against itself and the
    network that it was made of. Raises Failed."""
    seeded = torch.Generator().manual_seed(0)
    coarse = torch.rand(4, IMAGES + 2, SIZE // CELL // 8, SIZE // CELL // 8, generator=seeded) * 2 - 1
    cells = F.interpolate(coarse, scale_factor=8.0, mode="bilinear")  # noise alone would be nothing that it knows
    cells[:, IMAGES - 1] = cells[:, IMAGES - 1].abs()
    cells[::2, IMAGES - 1] = ONE_PLANE
    example = cells, torch.rand(4, CONDITIONS, 1, 1, generator=seeded)
    data, loaded = torchscript.stored(torchscript.traced(rounded, tuple(part[:2] for part in example)))
    with torch.inference_mode():
        for count in range(1, 5):
            exported, expected, trained = (
                run(*(part[:count] for part in example)) for run in (loaded, rounded, network)
            )
            torchscript.checked("reliability", exported, expected, TOLERANCE)
            for some in (slice(1), slice(1, 2)):
                torchscript.checked("reliability", exported[:, some], trained[:, some], ROUNDING)
    return data
