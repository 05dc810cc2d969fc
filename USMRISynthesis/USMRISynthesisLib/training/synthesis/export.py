"""From a checkpoint to a model folder: TorchScript file, manifest, model card.

usmri export runs/default/best.pt model_weights/default
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from USMRISynthesisLib.errors import Failed, Refused
from USMRISynthesisLib.geometry.canonical import SIZE, SPACING_MM
from USMRISynthesisLib.models import network, store
from USMRISynthesisLib.models.consent import agreed
from USMRISynthesisLib.models.manifest import Manifest
from USMRISynthesisLib.models.store import FUSION
from USMRISynthesisLib.synthesis.generator import Generator, GeneratorConfig
from USMRISynthesisLib.training.common import torchscript
from USMRISynthesisLib.training.common.checkpoint import load
from USMRISynthesisLib.training.common.export import (
    ATLAS,
    HC18,
    INTENSITY,
    LAB,
    PLAIN,
    PLANE_FRAMES,
    SUPPORT,
    Card,
    Exported,
    card_text,
    export_checkpoint,
    loading,
)
from USMRISynthesisLib.training.fusion import export as fusion
from USMRISynthesisLib.training.reliability.export import described_card
from USMRISynthesisLib.training.synthesis.config import TrainingConfig
from USMRISynthesisLib.training.synthesis.warm_start import start_from

TOLERANCE = 1e-5
RELIABILITY_FILES = (SUPPORT, PLAIN[SUPPORT])
LIMITS = (
    "Not for diagnosis. The output is synthetic: it can show anatomy that is not there and leave out anatomy that is.",
    "The MR side was learnt from averages of fetuses with spina bifida, deformed towards normal sizes of ventricles "
    "and cerebellum: nobody has measured how much of their anatomy shows in the output of another fetus.",
    "The ultrasound side was learnt from simulated ultrasound: no real 3D fetal ultrasound was used, and no "
    "real ultrasound with its MR.",
    "What the beam did not reach - behind the skull, in shadow, outside the fan - is filled in from what the "
    "network has learnt elsewhere.",
    "Abnormal anatomy is likely to be drawn as normal.",
    "It has not been tried on patients, and works on heads of 21-34 weeks in canonical space only.",
)

LAB_LIMITS = (
    LIMITS[0],
    "It was trained on a lab's own ultrasound and MR, of different fetuses: it had no real ultrasound with its MR.",
    *LIMITS[3:5],
    "It has not been tried on patients. Heads of other ages, machines and sites than the lab's were not seen.",
)
WITHOUT_PAIRS = (
    "The model was trained without simulated pairs: the inside of the head is largely invented, however much it looks "
    "like MR."
)


def export(
    checkpoint: str | Path,
    folder: str | Path,
    *,
    name: str,
    version: str = "1",
    figures: Mapping[str, Any] | None = None,
    limits: Sequence[str] | None = None,
    averaged_with: str | None = None,
) -> Path:
    """Write the averaged generator of a checkpoint.pt or best.pt as a model folder; returns the folder.

    `figures` replaces the held-out figures that the checkpoint carries, `limits` those that go with the data.
    averaged_with: another checkpoint or exported model, an earlier stage of the same run; the weights are the mean of
    the two (Wortsman et al., ICML 2022: between weights that share a start the loss has no barrier). Nothing
    is written before the saved module, read back, has given the eager result, with the weights rounded as they are
    stored, to 1e-5 for batches of 1 to 4. It is neither frozen nor optimised for one machine: that is done after
    loading, where device and precision are known. Weights that the folder holds already stay to the byte, since no two
    traces are alike, with their reliability map.

    Raises Refused (no checkpoint), Failed (the saved module differs; nothing can be written), ConsentNeeded (the model
    to average with, or the one in the folder, is a foreign one that would have to be run).
    """
    content = dict(load(checkpoint))
    if averaged_with is not None:
        content.pop("figures", None)  # those of other weights are not these

    def make(content: Mapping[str, Any]) -> Exported:
        with loading("synthesis"):
            config = TrainingConfig.from_json(content["config"])
            generator = Generator(config.generator)
            generator.load_state_dict(content["averaged"])
        return _exported(generator, config, Path(folder), limits, averaged_with)

    return export_checkpoint(content, folder, make, name=name, version=version, figures=figures)


def _exported(
    generator: Generator, config: TrainingConfig, folder: Path, limits: Sequence[str] | None, averaged_with: str | None
) -> Exported:
    other = None if averaged_with is None else _averaged(generator, averaged_with)
    if config.data.shrink != 1:
        raise Refused(
            "checkpoint",
            "It was trained on slices shrunk by "
            f"{config.data.shrink}, to compare methods; no model for use comes of it.",
            "Train with data.shrink = 1.",
        )
    # Weights are stored in half precision and loaded as float32: half the bytes, and no grey moves by 0.001.
    generator.eval().requires_grad_(False).half().float()
    kept, before = _kept(generator, folder)
    support = None if before is None else before.extra.get("support")
    beside = () if before is None else (*RELIABILITY_FILES, FUSION)
    files = {name: before.files[name] for name in beside if before is not None and name in before.files}
    merging = None if before is None else before.extra.get("fusion")
    form, stated = config.generator, limits_of(config) if limits is None else limits
    further: dict[str, Any] = {"architecture": architecture(form)}
    if WITHOUT_PAIRS in stated:
        further["caution"] = WITHOUT_PAIRS  # shown with every result
    return Exported(
        data=kept or traced(generator),
        form={"size": SIZE, "spacing_mm": SPACING_MM, "channels": form.in_channels, "neighbours": form.neighbours,
              "location": form.location, "planes": list(form.planes), "exponent": form.exponent,
              "intensity": INTENSITY},
        output={"channels": 1, "range": [-1, 1], "meaning": "MR-like T2 contrast of the centre slice"},
        sources=data_of(config),
        measured_on=("simulated ultrasound of held-out cases",) * 2,
        limits=stated,
        card=lambda manifest: _with_sections(card(manifest), support, merging),
        training={"averaged_with": other} if other else {},
        further=further
        | ({"support": support} if support else {})
        | ({"fusion": merging} if merging else {})
        | ({"files": files} if files else {}),
    )  # fmt: skip


def _with_sections(text: str, support: Mapping[str, Any] | None, merging: Mapping[str, Any] | None) -> str:
    """A card with what it says of the reliability map and of the fusion."""
    text = described_card(text, support) if support else text
    return fusion.described_card(text, merging) if merging else text


def architecture(config: GeneratorConfig) -> dict[str, Any]:
    """What the manifest says of the network, so that it can be built for the plain weights."""
    return {"name": "generator", "config": dataclasses.asdict(config)}


def _averaged(generator: Generator, path: str) -> str:
    """Bring the generator halfway to other weights, in place; returns the SHA-256 of their file. Raises Refused."""
    file = Path(path)
    if not file.is_file():
        raise Refused("checkpoint", f"There is no file {file.name}.", "Give a checkpoint or an exported model.pt.")
    other = copy.deepcopy(generator)
    start_from(other, path)
    with torch.no_grad():
        for mine, theirs in zip(generator.parameters(), other.parameters(), strict=True):
            mine.lerp_(theirs, 0.5)
    return hashlib.sha256(file.read_bytes()).hexdigest()


def data_of(config: TrainingConfig) -> list[dict[str, str]]:
    """What the weights were learnt from, and what those were learnt from that they went on from."""
    simulated = bool(config.batch.simulated or config.batch.framed or config.initial)
    known = [ATLAS] if simulated else []
    known += [HC18] if config.batch.real or (config.batch.scanned and config.initial) else []
    known += [PLANE_FRAMES] if config.batch.real and config.data.also_frames else []
    return known + ([LAB] if config.batch.scanned else [])


def limits_of(config: TrainingConfig) -> tuple[str, ...]:
    """Where the model must not be relied on."""
    pairs = config.objective.supervised and (config.batch.simulated or config.batch.framed)
    limits = LAB_LIMITS if config.batch.scanned else LIMITS
    return limits if pairs or (config.initial and not config.batch.scanned) else (*limits, WITHOUT_PAIRS)


def card(manifest: Mapping[str, Any]) -> str:
    """The model card, from the manifest's own values."""
    form, training = manifest["input"], manifest["training"]
    batch = training["config"]["batch"]
    objective = training["config"]["objective"]
    weights = ", ".join(f"{k} {v:g}" for k, v in objective.items() if type(v) in (int, float) and v)
    planes = form.get("planes", ["axial"])
    inputs = f"{2 * form['neighbours'] + 1} neighbouring slices ({' or '.join(planes)})"
    inputs += ", then the plane (-1, 0, 1)" if len(planes) > 1 else ""
    inputs += ", then the location z / 48 mm." if form["location"] else "."
    other = training.get("averaged_with")
    return card_text(manifest, Card(
        purpose="Turns fetal brain ultrasound in canonical space into MR-like slices.",
        warning="Synthetic: not for diagnosis.",
        form=[
            f"{form['channels']} channels, {form['size']} x {form['size']} pixels of {form['spacing_mm']:g} mm: "
            f"{inputs}",
            f"Intensity: {form['intensity']}. The exponent is {form.get('exponent', 1.0):g}.",
            f"Output: {manifest['output']['meaning']}, in [-1, 1].",
        ],
        training=[
            f"{training['cases']} volumes, {training['steps']} steps of {batch['simulated']} simulated "
            f"and {batch.get('scanned', 0)} real slices, {batch.get('framed', 0)} simulated and {batch['real']} real "
            f"frames, seed {training['seed']}, {training['date']}.",
            *([f"The mean of these weights and of those with SHA-256 `{other}`."] if other else []),
            f"Weights of the objective's terms: {weights}.",
        ],
    ))  # fmt: skip


def traced(generator: Generator) -> bytes:
    """The generator as TorchScript bytes in half precision, checked against eager. Raises Failed."""
    data, loaded = torchscript.stored(torchscript.traced(generator, _example(generator)[:2]))
    worst = _difference(loaded, generator)
    if not worst <= TOLERANCE:
        raise Failed("export", f"The exported model differs by {worst:.1e}.", "Report it.")
    return data


def _kept(generator: Generator, folder: Path) -> tuple[bytes | None, Manifest | None]:
    """The folder's model and its manifest, where it holds these weights and does the same with them.

    A model that nobody has agreed to is not run to see what it does; it is kept by its plain weights. Raises
    ConsentNeeded where it has none.
    """
    try:
        stored = store.state_of(folder)
        theirs = {name: value.float() for name, value in stored.items()}
        same = all(name in theirs and torch.equal(theirs[name], v) for name, v in generator.state_dict().items())
        if not same or next(iter(stored.values())).dtype is not torch.float16:
            return None, None
        manifest = store.read_manifest(folder)
        if not agreed(manifest.sha256):
            return (folder / manifest.file).read_bytes(), manifest
        _, content = store.verified_bytes(folder)
        loaded = network.from_torchscript(content, manifest.name).float()
        return (content, manifest) if _difference(loaded, generator) <= TOLERANCE else (None, None)
    except (StopIteration, RuntimeError, OSError, Failed):
        return None, None


def _example(generator: Generator) -> torch.Tensor:
    """Four inputs, always the same."""
    seeded = torch.Generator().manual_seed(0)
    return torch.rand(4, generator.in_channels, SIZE, SIZE, generator=seeded) * 2 - 1


def _difference(loaded: torch.nn.Module, generator: Generator) -> float:
    """Largest difference of the two outputs, for batches of 1 to 4."""
    example = _example(generator)
    with torch.inference_mode():
        expected = generator(example)
        return max(float((loaded(example[:count]) - expected[:count]).abs().max()) for count in range(1, 5))
