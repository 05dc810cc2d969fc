"""A model folder on disk, whatever the model is for: TorchScript file, manifest and card; and what all cards share."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.ultrasound.intensity import HIGH_PERCENTILE, LOW_PERCENTILE

MODEL, MANIFEST, CARD = "model.pt", "manifest.json", "README.md"
INTENSITY = (
    f"percentiles {LOW_PERCENTILE:g} and {HIGH_PERCENTILE:g} of the volume inside the fan -> 0-1, clipped, to the "
    "power of the exponent -> [-1, 1]; -1 outside the fan"
)
ATLAS = {
    "name": "Spina bifida fetal brain MR atlas, T2-weighted averages, 21-34 weeks, deformed, with ultrasound "
    "simulated from them",
    "licence": "CC0 1.0",
    "source": "Fidon et al., Open Research Europe 2021, 1:123",
}
LAB = {
    "name": "A lab's own ultrasound and fetal brain MR, unpaired",
    "licence": "The lab's own",
    "source": "Not part of the product",
}
HC18 = {
    "name": "HC18, real 2D ultrasound of the head-circumference plane",
    "licence": "CC BY 4.0",
    "source": "van den Heuvel et al., PLoS ONE 2018, 13(8):e0200412, zenodo.org/records/1327317",
}


def identity(name: str, task: str, version: str, data: bytes) -> dict[str, Any]:
    """The opening of a manifest."""
    return {"name": name, "task": task, "version": version, "file": MODEL, "sha256": hashlib.sha256(data).hexdigest()}


def origin(content: Mapping[str, Any], data: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """A manifest's `training`, of a checkpoint's content and the data sets that it learnt from."""
    return {
        "data": list(data), "cases": len(content.get("cases", ())), "steps": content["step"],
        "seed": content["config"]["seed"], "date": datetime.date.today().isoformat(), "torch": torch.__version__,
        "config": content["config"],
    }  # fmt: skip


def figure_lines(figures: Mapping[str, Any]) -> list[str]:
    """A card's list of figures."""
    return [f"- {k}: {f'{v:.3f}' if isinstance(v, float) else v}" for k, v in figures.items()] or ["None yet."]


def data_lines(training: Mapping[str, Any]) -> list[str]:
    """A card's list of data sets."""
    return [f"- {item['name']}. {item['source']}. {item['licence']}." for item in training["data"]]


def write(folder: str | Path, files: Mapping[str, bytes], manifest: Mapping[str, Any], card: str) -> Path:
    """Write networks, manifest and card; returns the folder. Raises Failed where that cannot be done."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            _write(folder / name, data)
        _write(folder / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
        _write(folder / CARD, card.encode())
    except OSError as error:
        raise Failed("export", f"{folder} cannot be written ({error.strerror}).", "Check the path.") from error
    return folder


def _write(path: Path, data: bytes) -> None:
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_bytes(data)
    os.replace(part, path)
