"""A checkpoint with the outline network of a model and the face network of another run.

    python -m USMRISynthesisLib.training.outline.combine MODEL_FOLDER CHECKPOINT OUT

The two networks share nothing: a run that brings a better face can keep an earlier outline that is better, with the
confidence that was fitted to it. The model card names where the outline came from.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.models import safetensors
from USMRISynthesisLib.models.manifest import MANIFEST
from USMRISynthesisLib.training.common import checkpoint

OUTLINE = "outline"
PLAIN = "weights.safetensors"
OUTLINE_FROM = "outline_from"  # in a checkpoint: the model whose outline it has


def combined(folder: Path, content: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint's content with the outline, its confidence and its figures taken from a model folder.

    Raises Refused where the folder holds no head outline of the same shape.
    """
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    own = content["averaged"][OUTLINE]
    weights = _weights(folder) if manifest.get("task") == "frames" else {}
    if {name: weights[name].shape if name in weights else None for name in own} != {
        name: value.shape for name, value in own.items()
    }:
        raise Refused("model", f"{folder} holds no head outline of this shape.", "Choose a model of the task frames.")
    of_face = {name: value for name, value in content["figures"].items() if "face" in name}
    of_outline = {name: value for name, value in manifest["figures"].items() if name != "measured_on"}
    return content | {
        "averaged": content["averaged"] | {OUTLINE: {name: weights[name] for name in own}},
        "trust": manifest["trust"],
        "figures": of_outline | of_face,
        OUTLINE_FROM: {"version": manifest["version"], "sha256": manifest["sha256"], "training": manifest["training"]},
    }


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    """The outline's weights in single precision; some constants of the exported form are among them."""
    arrays, prefix = safetensors.read((folder / PLAIN).read_bytes()), f"{OUTLINE}."
    return {
        name.removeprefix(prefix): torch.from_numpy(array.copy()).float()
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args(arguments)
    checkpoint.save(options.out, combined(options.model, checkpoint.load(options.checkpoint)))


if __name__ == "__main__":
    main()
