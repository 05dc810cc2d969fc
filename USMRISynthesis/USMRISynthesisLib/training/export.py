"""From a checkpoint to a model folder: TorchScript file, manifest, model card.

    usmri export runs/default/best.pt model_weights/default
"""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import Failed, Refused
from ..normalisation.canonical import SIZE, SPACING_MM
from ..synthesis.generator import Generator
from ..synthesis.intensity import HIGH_PERCENTILE, LOW_PERCENTILE
from . import checkpoint as checkpoints
from .configuration import configuration_from

MODEL, MANIFEST, CARD = "model.pt", "manifest.json", "README.md"
TOLERANCE = 1e-5
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
HC18 = {
    "name": "HC18, real 2D ultrasound of the head-circumference plane",
    "licence": "CC BY 4.0",
    "source": "van den Heuvel et al., PLoS ONE 2018, 13(8):e0200412, zenodo.org/records/1327317",
}
LIMITS = (
    "Not for diagnosis. The output is synthetic: it can show anatomy that is not there and leave out anatomy "
    "that is.",
    "The MR side was learnt from averages of fetuses with spina bifida, deformed towards normal sizes of ventricles "
    "and cerebellum: nobody has measured how much of their anatomy shows in the output of another fetus.",
    "The ultrasound side was learnt from simulated ultrasound: no real 3D fetal ultrasound was used, and no "
    "real ultrasound with its MR.",
    "What the beam did not reach - behind the skull, in shadow, outside the fan - is filled in from what the "
    "network has seen elsewhere.",
    "Abnormal anatomy is likely to be drawn as normal.",
    "It has not been tried on patients, and works on heads of 21-34 weeks in canonical space only.",
)


def export(
    checkpoint: str | Path,
    folder: str | Path,
    *,
    name: str,
    version: str = "1",
    figures: Mapping[str, Any] | None = None,
    limits: Sequence[str] = LIMITS,
) -> Path:
    """Write the averaged generator of a checkpoint.pt or best.pt as a model folder; returns the folder.

    `figures` replaces the held-out figures that the checkpoint carries. The file is written only after the
    saved module, read back, has given the eager result to 1e-5 for batches of 1 to 4. It is neither frozen
    nor optimised for one machine: that is done after loading, where the device and the precision are known.

    Raises Refused (no checkpoint), Failed (the saved module differs; nothing can be written).
    """
    content = checkpoints.load(checkpoint)
    try:
        config = configuration_from(content["config"])
        generator = Generator(config.generator)
        generator.load_state_dict(content["averaged"])
    except (KeyError, RuntimeError) as error:
        raise Refused(
            "checkpoint", f"{checkpoint} is not a training checkpoint of this version.", "Train again."
        ) from error
    generator.eval().requires_grad_(False)
    data = _traced(generator, config.generator.in_channels)
    form = config.generator
    measured = figures if figures is not None else content.get("figures", {})
    manifest: dict[str, Any] = {
        "name": name,
        "task": "synthesis",
        "version": version,
        "file": MODEL,
        "sha256": hashlib.sha256(data).hexdigest(),
        "input": {
            "size": SIZE,
            "spacing_mm": SPACING_MM,
            "channels": form.in_channels,
            "neighbours": form.neighbours,
            "location": form.location,
            "exponent": form.exponent,
            "intensity": INTENSITY,
        },
        "output": {"channels": 1, "range": [-1, 1], "meaning": "MR-like T2 contrast of the centre slice"},
        "training": {
            "data": [ATLAS, *([HC18] if config.batch.real else [])],
            "cases": len(content.get("cases", ())),
            "steps": content["step"],
            "seed": config.seed,
            "date": datetime.date.today().isoformat(),
            "torch": torch.__version__,
            "config": content["config"],
        },
        "figures": {"measured_on": "simulated ultrasound of held-out cases", **measured} if measured else {},
        "limits": list(limits),
        "synthetic": True,
    }
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / MODEL, data)
        _write(folder / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
        _write(folder / CARD, card(manifest).encode())
    except OSError as error:
        raise Failed("export", f"{folder} cannot be written ({error.strerror}).", "Check the path.") from error
    return folder


def card(manifest: Mapping[str, Any]) -> str:
    """The model card, from the manifest's own values."""
    form, training = manifest["input"], manifest["training"]
    batch = training["config"]["batch"]
    objective = training["config"]["objective"]
    weights = ", ".join(f"{k} {v:g}" for k, v in objective.items() if type(v) in (int, float) and v)
    lines = [
        f"# {manifest['name']} {manifest['version']}",
        "",
        "Turns fetal brain ultrasound in canonical space into MR-like slices.",
        "**Synthetic: not for diagnosis.**",
        "",
        "## Limits",
        "",
        *(f"- {limit}" for limit in manifest["limits"]),
        "",
        "## Input and output",
        "",
        f"- {form['channels']} channels, {form['size']} x {form['size']} pixels of {form['spacing_mm']:g} mm: "
        f"{2 * form['neighbours'] + 1} neighbouring axial slices"
        + (", then the location z / 48 mm." if form["location"] else "."),
        f"- Intensity: {form['intensity']}. The exponent is {form.get('exponent', 1.0):g}.",
        f"- Output: {manifest['output']['meaning']}, in [-1, 1].",
        "",
        "## Training",
        "",
        *(f"- {item['name']}. {item['source']}. {item['licence']}." for item in training["data"]),
        f"- {training['cases']} simulated cases, {training['steps']} steps of {batch['simulated']} simulated "
        f"slices, {batch.get('framed', 0)} simulated and {batch['real']} real frames, seed {training['seed']}, "
        f"{training['date']}.",
        *([f"- It went on from other weights: {training['config']['initial']}."]
          if training["config"].get("initial") else []),
        f"- Weights of the objective's terms: {weights}.",
        "",
        "## Figures",
        "",
        *(
            [f"- {k}: {f'{v:.3f}' if isinstance(v, float) else v}" for k, v in manifest["figures"].items()]
            or ["None yet."]
        ),
        "",
        f"SHA-256 of `{manifest['file']}`: `{manifest['sha256']}`",
        "",
    ]
    return "\n".join(lines)


def _traced(generator: Generator, channels: int) -> bytes:
    """The generator as TorchScript bytes, checked against eager. Raises Failed.

    Traced and not scripted: a script carries every branch of torch's own functions, and with them operators
    that an older torch does not know and then refuses to load. Any batch goes in; the slice's size is fixed.
    """
    example = torch.rand(4, channels, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # newer torch discourages TorchScript; sizes become constants, as meant
        torch.jit.save(torch.jit.trace(generator, example[:2], check_trace=False), buffer)
        buffer.seek(0)
        loaded = torch.jit.load(buffer)
    with torch.inference_mode():
        expected = generator(example)
        for count in range(1, 5):
            worst = float((loaded(example[:count]) - expected[:count]).abs().max())
            if not worst <= TOLERANCE:
                raise Failed(
                    "export", f"The exported model differs by {worst:.1e} with {count} slices.", "Report it."
                )
    return buffer.getvalue()


def _write(path: Path, data: bytes) -> None:
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_bytes(data)
    os.replace(part, path)
