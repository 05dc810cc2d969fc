"""What the `usmri` commands of those who use a model do; `commands_study.py` has those of who makes one.

Each takes the parsed options and returns (text, result). The text is for a person, the result for `--json`. Errors
are raised; `cli.py` turns them into sentences.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from USMRISynthesisLib import __version__
from USMRISynthesisLib.cli import console
from USMRISynthesisLib.errors import Failed, Refused, USMRIError
from USMRISynthesisLib.io.synthetic import SYNTHETIC
from USMRISynthesisLib.io.volume import Volume

OUTPUT_FORMATS = (".nrrd", ".nii", ".nii.gz", ".mha")
Outcome = tuple[str, dict[str, Any]]


def synthesize(options: Namespace) -> Outcome:
    """`usmri synthesize IN OUT`: the image, and its provenance beside it as `<OUT without ending>.json`."""
    from USMRISynthesisLib.io.provenance import write_with_sidecar
    from USMRISynthesisLib.io.transform import read_transform
    from USMRISynthesisLib.synthesis import pipeline

    source, target = Path(options.input), output_path(options)
    transform = read_transform(options.transform) if options.transform else None
    volume = _read(options)
    result = pipeline.synthesize(
        volume,
        model=options.model,
        device=options.device,
        planes=options.planes,
        transform=transform,
        progress=console.progress(options),
        log=console.log(options),
        consent=lambda sha256, name: options.trust_model,
        unreliable=options.unreliable,
        gestational_age=options.gestational_age,
    )
    provenance = result.provenance
    sidecar = write_with_sidecar(result.mr, provenance, target, source=source)
    if options.support:
        write_with_sidecar(result.confidence, provenance, Path(options.support), source=source)
    seconds = sum(provenance["seconds"].values())
    text = (
        f"Wrote {target} ({SYNTHETIC}) and {sidecar.name} in {seconds:.1f} s with the model "
        f"{provenance['model']['name']!r} on {provenance['device']['name']}."
    )
    return text, {
        "output": str(target),
        "provenance": str(sidecar),
        "notice": SYNTHETIC,
        "support": {"file": options.support, **provenance["support"]},
        "trusted": result.trusted,
        "alignment": provenance["alignment"],
        "device": provenance["device"],
        "precision": provenance["precision"],
        "seconds": provenance["seconds"],
        "warnings": provenance["warnings"],
    }


def _read(options: Namespace) -> Volume:
    return Volume.read(
        options.input, frame=options.frame, pixel_size_mm=options.pixel_size, voxel_size_mm=options.voxel_size
    )


def batch(options: Namespace) -> Outcome:
    """`usmri batch IN OUT`: every image in a folder; goes on where it stopped, and collects what fails."""
    from USMRISynthesisLib.batch import runner as batch_run
    from USMRISynthesisLib.batch.ledger import DONE, Batch, Case

    work = Batch(
        Path(options.input),
        Path(options.output),
        model=options.model,
        device=options.device,
        planes=options.planes,
        fresh=options.fresh,
        unreliable=options.unreliable,
        gestational_age=options.gestational_age,
    )

    def settled(case: Case) -> None:
        state = work.states[case.name]
        if state["status"] != DONE:
            sys.stderr.write(f"{state['status']}: {case.name}: {state['message']} {state['remedy']}\n")
        elif not options.quiet:
            doubt = "".join(f" {warning}" for warning in state["warnings"])
            sys.stderr.write(f"done: {case.name} ({state['seconds']:.1f} s){'.' if doubt else ''}{doubt}\n")

    batch_run.run(
        work,
        workers=options.workers,
        trust_model=options.trust_model,
        progress=console.progress(options),
        settled=settled,
    )
    text = f"{work.summary()} {work.status_file} has the details."
    return text, {"output": str(options.output), "status_file": str(work.status_file), **work.report()}


def normalise(options: Namespace) -> Outcome:
    """`usmri normalise IN OUT --transform T`: the image in canonical space, and the way there as a file."""
    from USMRISynthesisLib.io.transform import write_transform
    from USMRISynthesisLib.synthesis import pipeline

    target = output_path(options)
    volume = _read(options)
    result = pipeline.normalise(
        volume, progress=console.progress(options), log=console.log(options), gestational_age=options.gestational_age
    )
    if options.transform:
        write_transform(result.transform, options.transform)
    try:
        result.canonical.write(target)
    except USMRIError:
        if options.transform:
            Path(options.transform).unlink(missing_ok=True)
        raise
    alignment = result.provenance["alignment"]
    text = f"Wrote {target}" + (f" and {options.transform}" if options.transform else "")
    return (
        f"{text}; the head was found by its {alignment['method']} (score {alignment['score']:.2f}).",
        {
            "output": str(target),
            "transform": options.transform,
            "alignment": alignment,
            "trusted": result.trusted,
            "warnings": result.provenance["warnings"],
        },
    )


def info(options: Namespace) -> Outcome:
    """`usmri info [MODEL]`: what is installed, whether the models are intact, and where they would run."""
    from USMRISynthesisLib.models import store

    if options.model:
        folder = store.find_model(options.model)
        manifest = store.read_manifest(folder).to_json()
        intact = store.hash_matches(folder)
        return (
            f"{json.dumps(manifest, indent=2, ensure_ascii=False)}\n{_intact(intact)}",
            {"model": manifest, "intact": intact, "bundled": store.is_bundled(folder)},
        )
    models = []
    for folder in store.installed_models():
        try:
            manifest_ = store.read_manifest(folder)
            models.append(
                {
                    "name": folder.name,
                    "task": manifest_.task,
                    "version": manifest_.version,
                    "sha256": manifest_.sha256,
                    "intact": store.hash_matches(folder),
                }
            )
        except Failed as error:
            models.append(
                {"name": folder.name, "task": "?", "version": "?", "sha256": "?", "intact": False, "error": str(error)}
            )
    versions = {"USMRISynthesis": __version__, "Python": platform.python_version(), **_versions()}
    device, reason = _device()
    lines = [", ".join(f"{name} {version}" for name, version in versions.items()), f"Device: {device}. {reason}"]
    lines += [
        f"Model {model['name']}: {model['task']} {model['version']}, {_intact(model['intact'])}" for model in models
    ] or ["No model is installed."]
    return "\n".join(lines), {"versions": versions, "device": {"name": device, "reason": reason}, "models": models}


def _intact(intact: object) -> str:
    return "the weights match the manifest's SHA-256." if intact else "DAMAGED: the SHA-256 does not match."


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("numpy", "scipy", "SimpleITK", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _device() -> tuple[str, str]:
    try:
        from USMRISynthesisLib.models.device import choose_device
    except (ImportError, OSError):
        return "none", "PyTorch is not installed, or its installation is broken."
    device, reason = choose_device("auto")
    return str(device), reason


def output_path(options: Namespace) -> Path:
    """The output path, checked before any work is done for it."""
    target = Path(options.output)
    if not target.name.lower().endswith(OUTPUT_FORMATS):
        raise Failed(
            "format",
            f"Images cannot be written as {target.name}.",
            f"Use one of these endings: {', '.join(OUTPUT_FORMATS)}.",
        )
    if target.is_dir():
        raise Failed("write", f"{target.name} is a folder.", "Give the name of a file.")
    if not target.parent.is_dir():
        raise Failed("folder", f"The folder for {target.name} does not exist.", "Create it or choose another one.")
    if not os.access(target.parent, os.W_OK):
        raise Failed(
            "write", f"{target.name} cannot be written: no permission in its folder.", "Choose another folder."
        )
    source = Path(options.input)
    if source.exists() and target.exists() and source.samefile(target):
        raise Refused("same-file", "The output would overwrite the ultrasound image.", "Choose another name.")
    return target
