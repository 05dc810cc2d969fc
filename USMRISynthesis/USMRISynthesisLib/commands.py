"""What each `usmri` command does. Each takes the parsed options and returns (text, result).

The text is for a person, the result for `--json`. Errors are raised; `cli.py` turns them into sentences.
"""
from __future__ import annotations

import json
import os
import platform
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from USMRISynthesisLib import __version__
from USMRISynthesisLib.errors import Failed, Refused, USMRIError
from USMRISynthesisLib.synthesis.result import SYNTHETIC
from USMRISynthesisLib.volume import Volume

OUTPUT_FORMATS = (".nrrd", ".nii", ".nii.gz", ".mha")
Outcome = tuple[str, dict[str, Any]]


def synthesize(options: Namespace) -> Outcome:
    """`usmri synthesize IN OUT`: the image, and its provenance beside it as `<OUT without ending>.json`."""
    from USMRISynthesisLib.provenance import write_with_sidecar
    from USMRISynthesisLib.synthesis import pipeline
    from USMRISynthesisLib.transform_file import read_transform

    source, target = Path(options.input), _output(options)
    transform = read_transform(options.transform) if options.transform else None
    volume = Volume.read(source, frame=options.frame, pixel_size_mm=options.pixel_size)
    result = pipeline.synthesize(
        volume, model=options.model, device=options.device, planes=options.planes, transform=transform,
        progress=_progress(options), log=_log(options), consent=lambda sha256, name: options.trust_model,
        unreliable=options.unreliable)
    provenance = result.provenance
    sidecar = write_with_sidecar(result.mr, provenance, target, source=source)
    seconds = sum(provenance["seconds"].values())
    text = (f"Wrote {target} ({SYNTHETIC}) and {sidecar.name} in {seconds:.1f} s with the model "
            f"{provenance['model']['name']!r} on {provenance['device']['name']}.")
    return text, {"output": str(target), "provenance": str(sidecar), "notice": SYNTHETIC,
                  "trusted": result.trusted, "alignment": provenance["alignment"],
                  "device": provenance["device"], "precision": provenance["precision"],
                  "seconds": provenance["seconds"], "warnings": provenance["warnings"]}


def batch(options: Namespace) -> Outcome:
    """`usmri batch IN OUT`: every image in a folder; goes on where it stopped, and collects what fails."""
    from USMRISynthesisLib import batch_run
    from USMRISynthesisLib.batch import DONE, Batch, Case

    work = Batch(Path(options.input), Path(options.output), model=options.model, device=options.device,
                 planes=options.planes, fresh=options.fresh)

    def settled(case: Case) -> None:
        state = work.states[case.name]
        if state["status"] != DONE:
            sys.stderr.write(f"{state['status']}: {case.name}: {state['message']} {state['remedy']}\n")
        elif not options.quiet:
            doubt = "".join(f" {warning}" for warning in state["warnings"])
            sys.stderr.write(f"done: {case.name} ({state['seconds']:.1f} s){'.' if doubt else ''}{doubt}\n")

    batch_run.run(work, workers=options.workers, trust_model=options.trust_model, progress=_progress(options),
                  settled=settled)
    text = f"{work.summary()} {work.status_file} has the details."
    return text, {"output": str(options.output), "status_file": str(work.status_file), **work.report()}


def normalise(options: Namespace) -> Outcome:
    """`usmri normalise IN OUT --transform T`: the image in canonical space, and the way there as a file."""
    from USMRISynthesisLib.synthesis import pipeline
    from USMRISynthesisLib.transform_file import write_transform

    target = _output(options)
    volume = Volume.read(options.input, frame=options.frame, pixel_size_mm=options.pixel_size)
    result = pipeline.normalise(volume, progress=_progress(options), log=_log(options))
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
    return (f"{text}; the head was found by its {alignment['method']} (score {alignment['score']:.2f}).",
            {"output": str(target), "transform": options.transform, "alignment": alignment,
             "trusted": result.trusted, "warnings": result.provenance["warnings"]})


def info(options: Namespace) -> Outcome:
    """`usmri info [MODEL]`: what is installed, whether the models are intact, and where they would run."""
    from USMRISynthesisLib import weights

    if options.model:
        folder = weights.find_model(options.model)
        manifest = weights.read_manifest(folder).to_json()
        intact = weights.hash_matches(folder)
        return (f"{json.dumps(manifest, indent=2, ensure_ascii=False)}\n{_intact(intact)}",
                {"model": manifest, "intact": intact, "bundled": weights.is_bundled(folder)})
    models = []
    for folder in weights.installed_models():
        try:
            manifest_ = weights.read_manifest(folder)
            models.append({"name": folder.name, "task": manifest_.task, "version": manifest_.version,
                           "sha256": manifest_.sha256, "intact": weights.hash_matches(folder)})
        except Failed as error:
            models.append({"name": folder.name, "task": "?", "version": "?", "sha256": "?",
                           "intact": False, "error": str(error)})
    versions = {"USMRISynthesis": __version__, "Python": platform.python_version(), **_versions()}
    device, reason = _device()
    lines = [", ".join(f"{name} {version}" for name, version in versions.items()),
             f"Device: {device}. {reason}"]
    lines += [f"Model {model['name']}: {model['task']} {model['version']}, {_intact(model['intact'])}"
              for model in models] or ["No model is installed."]
    return "\n".join(lines), {"versions": versions, "device": {"name": device, "reason": reason},
                              "models": models}


def simulate(options: Namespace) -> Outcome:
    """`usmri simulate CONFIG OUT`: a simulated data set; with `--preview PNG` a picture of one head instead."""
    data = Path(options.data)
    if not data.is_dir():
        raise Refused("data", f"There is no data folder {data.name}.", "Give the atlas's folder with --data.")
    if options.preview:
        from USMRISynthesisLib.evaluation import simulated_pictures

        target = _picture(options.preview)
        if options.seed < 0:
            raise Refused("seed", f"The seed {options.seed} is negative.", "Give 0 or more.")
        shown = simulated_pictures.preview(data, options.seed, target)
        return f"Wrote {target}: {shown}.", {"picture": str(target), "shows": shown}
    if not options.config or not options.output:
        raise Refused("arguments", "A data set needs a configuration and a folder.",
                      "Give CONFIG and OUT, or --preview PNG for a picture alone.")
    from USMRISynthesisLib.simulation import dataset

    config = Path(options.config)
    if not config.is_file():
        raise Refused("bad-configuration", f"There is no configuration {config.name}.", "Check the path.")
    manifest = dataset.simulate(config, Path(options.output), data=data, workers=options.workers,
                                progress=_progress(options))
    if options.hashes:
        dataset.write_hashes(manifest, Path(options.hashes))
    if options.check:
        dataset.check_hashes(manifest, Path(options.check))
    return f"Wrote {manifest}.", {"manifest": str(manifest)}


def train(options: Namespace) -> Outcome:
    """`usmri train CONFIG`: train, or go on training. What happens is reported on stderr."""
    from USMRISynthesisLib.training import alignment_loop, loop
    from USMRISynthesisLib.training.alignment_configuration import TASK, task_of

    def report(text: str) -> None:
        if not options.quiet:
            sys.stderr.write(f"{text}\n")

    work = alignment_loop.train_alignment if task_of(options.config) == TASK else loop.train
    checkpoint = work(options.config, resume=options.resume, minutes=options.minutes, report=report)
    return f"Wrote {checkpoint}.", {"checkpoint": str(checkpoint)}


def export(options: Namespace) -> Outcome:
    """`usmri export CHECKPOINT OUT`: a model folder from a checkpoint."""
    from USMRISynthesisLib.training import checkpoint as checkpoints
    from USMRISynthesisLib.training.alignment_export import export_alignment
    from USMRISynthesisLib.training.export import export as export_model

    content = checkpoints.load(options.checkpoint)
    if content.get("task") == "alignment":
        folder = export_alignment(content, options.output, version=options.model_version,
                                  name=options.name or Path(options.output).resolve().name,
                                  figures=_plain_figures(Path(options.figures)) if options.figures else None)
        return f"Wrote {folder}.", {"model": str(folder)}
    folder = export_model(options.checkpoint, options.output, version=options.model_version,
                          name=options.name or Path(options.output).resolve().name,
                          figures=_figures(Path(options.figures)) if options.figures else None)
    return f"Wrote {folder}.", {"model": str(folder)}


def _figures(path: Path) -> dict[str, str]:
    """The card's figures from an evaluation's JSON. Raises Refused for anything else."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        command = f"usmri evaluate synthesis --split {result['split']} --through {result['through']}"
        values = {key: f"{mean:.3f} [{low:.3f}, {high:.3f}]" for key, (mean, low, high) in result["values"].items()}
        return {"printed_by": command, "cases": str(result["cases"]), **values}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused("figures", f"{path.name} is no evaluation.", "Give what `usmri evaluate synthesis --json` "
                      "printed.") from error


def _plain_figures(path: Path) -> dict[str, float]:
    """The numbers of `usmri evaluate normalisation --json`. Raises Refused for anything else."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        return {key: value for key, value in result.items() if isinstance(value, float)}
    except (OSError, ValueError, AttributeError) as error:
        raise Refused("figures", f"{path.name} is no evaluation.", "Give what `usmri evaluate normalisation --json` "
                      "printed.") from error


def evaluate(options: Namespace) -> Outcome:
    """`usmri evaluate synthesis|normalisation|simulator`: figures, as text and as values."""
    if options.subject == "simulator":
        return _evaluate_simulator(options)
    if options.subject == "normalisation":
        from USMRISynthesisLib.evaluation.alignment import evaluate_frames

        if _has_alignment(options):
            from USMRISynthesisLib.evaluation import normalisation

            model = "alignment" if options.model == "default" else options.model
            figures = normalisation.evaluate(
                Path(options.cases or "data/sim"), options.split, Path(options.data), model, poses=options.poses,
                limit=options.limit, pictures=Path(options.pictures) if options.pictures else None,
                progress=_progress(options))
            return normalisation.table(figures), figures
        folder = Path(options.data) / "hc18"
        if not (folder / "index.csv").is_file():
            raise Refused("data", "There are no HC18 frames.", "Give the folder that holds hc18/ with --data.")
        values = evaluate_frames(folder, limit=options.limit)
        lines = ["head ellipse on real HC18 frames", *(f"{key:32s} {value:8.3f}" for key, value in values.items())]
        return "\n".join(lines), {"hc18": values}
    from USMRISynthesisLib.evaluation import synthesis
    from USMRISynthesisLib.evaluation.synthesis_frames import frame_prediction

    make = synthesis.corridor_prediction if options.through == "product" else synthesis.canonical_prediction
    result = synthesis.evaluate(Path(options.cases or "data/sim"), make(options.model, options.device),
                                split=options.split, predict_frame=frame_prediction(options.model, options.device),
                                progress=_progress(options))
    result["through"] = options.through
    return synthesis.table(result), result


def _evaluate_simulator(options: Namespace) -> Outcome:
    """Figures of the simulator, of so many new heads or of a folder of cases, and the picture that mixes its frames."""
    from USMRISynthesisLib.evaluation import frames, simulated_pictures, simulator

    data, cases = Path(options.data), options.cases or str(simulator.HEADS)
    target = _picture(options.picture) if options.picture else None
    if not cases.isdecimal() and not Path(cases).is_dir():
        raise Refused("cases", f"{cases!r} is neither a number of heads nor a folder.", "Give --cases one of them.")
    real, progress = frames.real_frames(data), _progress(options)
    if cases.isdecimal():
        simulated, measured = simulator.simulate(data, int(cases), progress=progress)
    else:
        simulated, measured = frames.stored_frames(Path(cases)), []
    result: dict[str, Any] = {}
    if target:
        result["order"] = simulated_pictures.mixed(real, simulated, target)
    result |= simulator.evaluate(data, real, simulated, measured, progress=progress)
    text = simulator.table(result)
    if target:
        text += f"\n{target}, row by row: " + ", ".join(f"{n} {kind}" for n, kind in enumerate(result["order"], 1))
    return text, result


def _picture(name: str) -> Path:
    """A PNG to write, its folder checked before any work is done for it."""
    target = Path(name)
    if target.suffix.lower() != ".png":
        raise Refused("format", f"Pictures cannot be written as {target.name}.", "Use a name that ends in .png.")
    if not target.resolve().parent.is_dir():
        raise Refused("folder", f"The folder for {target.name} does not exist.", "Create it or choose another one.")
    return target


def _has_alignment(options: Namespace) -> bool:
    """Whether there is an alignment model to measure, and cases to measure it on."""
    from USMRISynthesisLib import weights

    if options.model != "default":
        return True
    named = {folder.name for folder in weights.installed_models()}
    return "alignment" in named and Path(options.cases or "data/sim").is_dir()


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
        from USMRISynthesisLib.synthesis.device import choose_device
    except (ImportError, OSError):
        return "none", "PyTorch is not installed, or its installation is broken."
    device, reason = choose_device("auto")
    return str(device), reason


def _output(options: Namespace) -> Path:
    """The output path, checked before any work is done for it."""
    target = Path(options.output)
    if not target.name.lower().endswith(OUTPUT_FORMATS):
        raise Failed("format", f"Images cannot be written as {target.name}.",
                     f"Use one of these endings: {', '.join(OUTPUT_FORMATS)}.")
    if target.is_dir():
        raise Failed("write", f"{target.name} is a folder.", "Give the name of a file.")
    if not target.parent.is_dir():
        raise Failed("folder", f"The folder for {target.name} does not exist.",
                     "Create it or choose another one.")
    if not os.access(target.parent, os.W_OK):
        raise Failed("write", f"{target.name} cannot be written: no permission in its folder.",
                     "Choose another folder.")
    source = Path(options.input)
    if source.exists() and target.exists() and source.samefile(target):
        raise Refused("same-file", "The output would overwrite the ultrasound image.", "Choose another name.")
    return target


def _progress(options: Namespace) -> Callable[[float, str], None] | None:
    """A counter on a terminal; a log file gets none."""
    if options.quiet or options.json or not sys.stderr.isatty():
        return None

    def show(value: float, stage: str) -> None:
        sys.stderr.write(f"\r{value:4.0%} {stage:<40}" + ("\n" if value >= 1 else ""))
        sys.stderr.flush()

    return show


def _log(options: Namespace) -> Callable[[str, str], None]:
    """Warnings always reach stderr; the rest with --verbose."""

    def say(level: str, text: str) -> None:
        if level != "info" or options.verbose:
            sys.stderr.write(f"{'Warning: ' if level != 'info' else ''}{text}\n")

    return say


