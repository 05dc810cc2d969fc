"""An exported model written again: the same weights, run as this version of the networks runs them.

    usmri export model_weights/default model_weights/default

A TorchScript file holds the operators of the version that exported it; ones that compute the same in less time reach
weights that are there already only so.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from USMRISynthesisLib.errors import Failed, Refused
from USMRISynthesisLib.models import store
from USMRISynthesisLib.models.manifest import REMEDY, Manifest
from USMRISynthesisLib.synthesis.generator import Generator
from USMRISynthesisLib.training.alignment import export as alignment
from USMRISynthesisLib.training.common import export, torchscript
from USMRISynthesisLib.training.fusion import export as fusion
from USMRISynthesisLib.training.outline import export as outline
from USMRISynthesisLib.training.reliability.export import FILE, described_card, reexported
from USMRISynthesisLib.training.spacing import export as spacing
from USMRISynthesisLib.training.synthesis import export as synthesis
from USMRISynthesisLib.training.synthesis.config import TrainingConfig
from USMRISynthesisLib.training.synthesis.export import card, traced
from USMRISynthesisLib.training.synthesis.warm_start import start_from


def reexport(
    source: str | Path,
    folder: str | Path,
    *,
    figures: Mapping[str, str] | None = None,
    support_figures: Mapping[str, str] | None = None,
    consent: store.Consent | None = None,
    plain: bool = False,
) -> Path:
    """Write the model in `source`, with its reliability map, to `folder`, which may be the same; returns the folder.

    consent: called with (sha256, name) for a model that does not come with the product. plain: TorchScript files stay
    to the byte, and only the plain weights beside them, and what the manifest says of both, are made.

    Name, version and training stay, and so do figures where none are given. Networks of another task than synthesis
    stay as they are but for what names the files of the machine that exported them. Raises Refused (figures for another
    task), Failed (no model, its hash is wrong, a saved module differs, nothing can be written), ConsentNeeded.
    """
    source = Path(source)
    manifest, content = store.verified_bytes(source, consent=consent)
    if figures and manifest.task != "synthesis":
        raise Refused(
            "figures",
            f"Only a synthesis model can be given new figures, and {manifest.name!r} is for {manifest.task}.",
            "Leave --figures, or export its checkpoint.",
        )
    support = store.reliability_bytes(source, manifest, consent=consent)
    files = {export.MODEL: content if plain else _again(manifest, content, source / manifest.file)}
    written: dict[str, Any] = json.loads(_text(source / export.MANIFEST)) | {"file": export.MODEL, "files": {}}
    written["architecture"] = _architecture(manifest)
    hashes = {manifest.sha256: _hash(files[export.MODEL])}
    written["sha256"] = hashes[manifest.sha256]
    if support is not None:
        files[FILE] = support if plain else reexported(support)
        hashes[written["support"]["sha256"]] = _hash(files[FILE])
        written["support"] = {**written["support"], "file": FILE, "sha256": hashes[written["support"]["sha256"]]}
    if (merging := store.fusion_bytes(source, manifest, consent=consent)) is not None:
        files[store.FUSION] = merging
    text = _text(source / export.CARD)
    for before, after in hashes.items():
        text = text.replace(before, after)
    if figures:
        written["figures"] = {"measured_on": manifest.figures["measured_on"], **figures}
        text = card(written)
        if support is not None:
            written["support"]["figures"] = dict(support_figures or written["support"]["figures"])
            text = described_card(text, written["support"])
        if merging is not None:
            text = fusion.described_card(text, written["fusion"])
    return export.write(folder, files, written, text)


def _architecture(manifest: Manifest) -> dict[str, Any]:
    """What the manifest says of its networks; for one from before it did, what its training says."""
    if manifest.architecture is not None:
        return dataclasses.asdict(manifest.architecture)
    try:
        config = manifest.training["config"]
        if manifest.task == "spacing":
            return spacing.architecture(config)
        if manifest.task == "synthesis":
            return synthesis.architecture(TrainingConfig.from_json(config).generator)
    except (KeyError, TypeError) as error:
        raise _undescribed(manifest) from error
    return alignment.architecture() if manifest.task == "alignment" else outline.architecture()


def _undescribed(manifest: Manifest) -> Failed:
    return Failed(
        "model",
        f"The manifest of {manifest.name!r} does not say how its networks are built.",
        "Export it from its checkpoint.",
    )


def _again(manifest: Manifest, content: bytes, file: Path) -> bytes:
    if manifest.task != "synthesis":
        return torchscript.without_sources(content)
    try:
        generator = Generator(TrainingConfig.from_json(manifest.training["config"]).generator)
    except (KeyError, TypeError) as error:
        raise _undescribed(manifest) from error
    start_from(generator, str(file))
    return traced(generator.eval().requires_grad_(False))


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise Failed("model", f"The model's {file.name} cannot be read ({error.strerror}).", REMEDY) from error
