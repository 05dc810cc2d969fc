"""From a training to a model folder, whatever the model is for: TorchScript file, manifest and card."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from USMRISynthesisLib.errors import Failed, Refused
from USMRISynthesisLib.models.manifest import PLAIN_WEIGHTS
from USMRISynthesisLib.models.store import PLAIN_SUPPORT
from USMRISynthesisLib.training.common import torchscript
from USMRISynthesisLib.ultrasound.intensity import HIGH_PERCENTILE, LOW_PERCENTILE

MODEL, MANIFEST, CARD = "model.pt", "manifest.json", "README.md"
SUPPORT = "support.pt"
PLAIN = {MODEL: PLAIN_WEIGHTS, SUPPORT: PLAIN_SUPPORT}  # TorchScript file -> the same without a program
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
WENT_ON = "The training went on from other weights (`{initial}`): one run of its configuration does not make these."
HC18 = {
    "name": "HC18, real 2D ultrasound of the head-circumference plane",
    "licence": "CC BY 4.0",
    "source": "van den Heuvel et al., PLoS ONE 2018, 13(8):e0200412, zenodo.org/records/1327317",
}
PLANE_FRAMES = {
    "name": "Fetal planes, real 2D frames of the brain (three planes), thorax, abdomen, femur and cervix",
    "licence": "CC BY 4.0",
    "source": "Burgos-Artizzu et al., Scientific Reports 2020, 10:10200, zenodo.org/records/3904280",
}


@dataclass(frozen=True)
class Card:
    """What a model card says of its own beside what every card has. training: lines on how it was trained."""

    purpose: str
    form: Sequence[str]
    training: Sequence[str]
    warning: str = "Not for diagnosis."


@dataclass(frozen=True)
class Exported:
    """What a task's exporter makes of a checkpoint.

    data: the TorchScript file. form, output: the manifest's `input` and `output`. sources: the data sets that it learnt
    from. measured_on: what the checkpoint's figures, and figures that are given later, were measured on. card: what the
    card says, of a manifest. training, further: what the manifest's `training`, and the manifest, have besides.
    """

    data: bytes
    form: Mapping[str, Any]
    output: Mapping[str, Any]
    sources: Sequence[Mapping[str, str]]
    measured_on: tuple[str, str]
    limits: Sequence[str]
    card: Callable[[Mapping[str, Any]], str]
    training: Mapping[str, Any] = field(default_factory=dict)
    further: Mapping[str, Any] = field(default_factory=dict)


def export_checkpoint(
    content: Mapping[str, Any],
    folder: str | Path,
    make: Callable[[Mapping[str, Any]], Exported],
    *,
    name: str,
    version: str = "1",
    figures: Mapping[str, Any] | None = None,
) -> Path:
    """Write the averaged networks of a loaded checkpoint as a model folder; returns the folder.

    make: the task's exporter. figures: instead of the held-out figures that the checkpoint carries.
    Raises Refused (no such checkpoint), Failed (the saved module differs; nothing can be written).
    """
    task = content.get("task", "synthesis")
    exported = make(content)
    measured = content.get("figures", {}) if figures is None else figures
    manifest: dict[str, Any] = {
        "name": name,
        "task": task,
        "version": version,
        "file": MODEL,
        "sha256": hashlib.sha256(exported.data).hexdigest(),
        "input": dict(exported.form),
        "output": dict(exported.output),
        "training": origin(content, exported.sources) | dict(exported.training),
        "figures": {"measured_on": exported.measured_on[figures is not None], **measured} if measured else {},
        "limits": list(exported.limits),
        "synthetic": True,
        **exported.further,
    }
    return write(folder, {MODEL: exported.data}, manifest, exported.card(manifest))


@contextmanager
def loading(task: str) -> Iterator[None]:
    """Raises Refused where the weights of a checkpoint do not fit the networks of this version."""
    try:
        yield
    except (KeyError, RuntimeError) as error:
        raise Refused("checkpoint", f"This is no {task} checkpoint of this version.", "Train again.") from error


def origin(content: Mapping[str, Any], data: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """A manifest's `training`, of a checkpoint's content and the data sets that it learnt from."""
    return {
        "data": list(data), "cases": len(content.get("cases", ())), "steps": content["step"],
        "seed": content["config"]["seed"], "date": datetime.date.today().isoformat(), "torch": torch.__version__,
        "config": content["config"],
    }  # fmt: skip


def card_text(manifest: Mapping[str, Any], card: Card) -> str:
    """The model card, from the manifest's own values and what its task adds.

    The manifest's `training` may have a `history`: how the weights came about, where one run did not make them.
    """
    training, figures = manifest["training"], manifest["figures"]
    initial = training["config"].get("initial")
    history = training.get("history") or (WENT_ON.format(initial=initial) if initial else None)
    lines = [
        f"# {manifest['name']} {manifest['version']}",
        "",
        card.purpose,
        f"**{card.warning}**",
        "",
        "## Limits",
        "",
        *(f"- {limit}" for limit in manifest["limits"]),
        "",
        "## Input and output",
        "",
        *(f"- {line}" for line in card.form),
        "",
        "## Training",
        "",
        *(f"- {item['name']}. {item['source']}. {item['licence']}." for item in training["data"]),
        *(f"- {line}" for line in card.training),
        *([f"- {history}"] if history else []),
        "",
        "## Figures",
        "",
        *([f"- {k}: {f'{v:.3f}' if isinstance(v, float) else v}" for k, v in figures.items()] or ["None yet."]),
        "",
        f"SHA-256 of `{manifest['file']}`: `{manifest['sha256']}`",
        "",
    ]
    return "\n".join(lines)


def write(folder: str | Path, files: Mapping[str, bytes], manifest: Mapping[str, Any], card: str) -> Path:
    """Write networks, manifest and card; returns the folder. Raises Failed where that cannot be done.

    files: by name. Beside each TorchScript file goes the same as plain weights, and the manifest's `files` gets the
    hashes of all, beside those that it has.
    """
    folder = Path(folder)
    files = {**files, **{PLAIN[name]: torchscript.plain(files[name], name) for name in PLAIN if name in files}}
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    manifest = {**manifest, "files": {**manifest.get("files", {}), **hashes}}
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
