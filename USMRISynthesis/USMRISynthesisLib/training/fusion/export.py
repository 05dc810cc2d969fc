"""From a fusion's checkpoint to `fusion.safetensors` in the folder of its model, named in manifest and card.

It is written as plain weights only: they run no code, and a few thousand numbers need no smaller form.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from USMRISynthesisLib.errors import Failed, Refused
from USMRISynthesisLib.models.network import from_plain, plain_bytes
from USMRISynthesisLib.models.store import FUSION, FUSION_VERSION, read_manifest
from USMRISynthesisLib.synthesis.fusion import CHANNELS, FusionNetwork
from USMRISynthesisLib.training.common import export

_HEADING, _END = "## Fusion of the planes", "SHA-256 of `model.pt`"


def add_fusion(content: Mapping[str, Any], folder: str | Path) -> Path:
    """Write the averaged network beside the model's weights, and into its manifest and card; returns the folder.

    A reliability map that the folder has was trained on other images: it is taken out of the manifest.

    Raises Refused where the fusion was trained for other weights, Failed where the saved network, read back, differs,
    or nothing can be written.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if content.get("model_sha256") != manifest.sha256:
        raise Refused(
            "model",
            f"This fusion was trained for other weights than {manifest.name!r}.",
            "Train it for these: `usmri train` with model set to this folder.",
        )
    config = content["config"]
    network = FusionNetwork(config["width"])
    network.load_state_dict(content["averaged"])
    data = plain_bytes(network.eval().state_dict())
    _check(network, config["width"], data)
    sha256 = hashlib.sha256(data).hexdigest()
    record = {
        "file": FUSION, "version": FUSION_VERSION, "sha256": sha256, "width": config["width"],
        "steps": content["step"], "cases": len(content["cases"]), "date": datetime.date.today().isoformat(),
        "config": config, "figures": dict(content.get("figures", {})),
    }  # fmt: skip
    extra = {key: value for key, value in manifest.extra.items() if key != "support"}
    files = {name: value for name, value in manifest.files.items() if not name.startswith("support.")}
    described = dataclasses.replace(manifest, files=files, extra={**extra, "fusion": record})
    card = folder / export.CARD
    try:
        text = card.read_text(encoding="utf-8") if card.is_file() else f"# {manifest.name}\n"
    except OSError as error:
        raise Failed("export", f"The model's card cannot be read ({error.strerror}).", "Check the path.") from error
    return export.write(folder, {FUSION: data}, described.to_json(), described_card(text, record))


def described_card(card: str, record: Mapping[str, Any]) -> str:
    """The model card with the section on the fusion, which replaces an earlier one."""
    start = card.find(_HEADING)
    if start >= 0:
        ends = [at for at in (card.find(mark, start) for mark in ("\n## ", _END)) if at >= 0]
        card = card[:start] + (card[min(ends) :].lstrip("\n") if ends else "")
    config = record["config"]
    section = "\n".join([
        _HEADING, "",
        f"`{record['file']}` weighs the three planes' outputs, their median and their mean at every voxel, from "
        f"{CHANNELS} channels: the three outputs, their median, the ultrasound and the border of the brain.",
        f"- {record['cases']} simulated heads ({', '.join(config['learn'])}), {record['steps']} steps, seed "
        f"{config['seed']}, {record['date']}; measured on {', '.join(config['hold_out'])}.",
        *[f"- {key}: {value:.4f}" for key, value in record["figures"].items()],
        "", f"SHA-256 of `{record['file']}`: `{record['sha256']}`", "", "",
    ])  # fmt: skip
    at = card.find(_END)
    return card[:at] + section + card[at:] if at >= 0 else card.rstrip() + "\n\n" + section.rstrip() + "\n"


def _check(network: FusionNetwork, width: int, data: bytes) -> None:
    loaded = from_plain(data, lambda: FusionNetwork(width), "fusion")
    example = torch.rand(1, CHANNELS, 12, 12, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        if not torch.equal(loaded(example), network(example)):
            raise Failed("export", "The exported fusion differs.", "Report it.")
