"""What the `usmri` commands of those who make and measure a model do: simulate, train, export, evaluate.

Each takes the parsed options and returns (text, result), as those of `commands.py`.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from USMRISynthesisLib.cli import console
from USMRISynthesisLib.errors import Failed, Refused

Outcome = tuple[str, dict[str, Any]]


def simulate(options: Namespace) -> Outcome:
    """`usmri simulate CONFIG OUT`: a simulated data set; with `--preview PNG` a picture of one head instead."""
    data = Path(options.data)
    if not data.is_dir():
        raise Refused("data", f"There is no data folder {data.name}.", "Give the atlas's folder with --data.")
    if options.preview:
        from USMRISynthesisLib.evaluation.pictures import simulated as simulated_pictures

        target = _picture(options.preview)
        if options.seed < 0:
            raise Refused("seed", f"The seed {options.seed} is negative.", "Give 0 or more.")
        shown = simulated_pictures.preview(data, options.seed, target)
        return f"Wrote {target}: {shown}.", {"picture": str(target), "shows": shown}
    if not options.config or not options.output:
        raise Refused(
            "arguments",
            "A data set needs a configuration and a folder.",
            "Give CONFIG and OUT, or --preview PNG for a picture alone.",
        )
    from USMRISynthesisLib.simulation import dataset

    config = Path(options.config)
    if not config.is_file():
        raise Refused("bad-configuration", f"There is no configuration {config.name}.", "Check the path.")
    manifest = dataset.simulate(
        config, Path(options.output), data=data, workers=options.workers, progress=console.progress(options)
    )
    if options.hashes:
        dataset.write_hashes(manifest, Path(options.hashes))
    if options.check:
        dataset.check_hashes(manifest, Path(options.check))
    return f"Wrote {manifest}.", {"manifest": str(manifest)}


def train(options: Namespace) -> Outcome:
    """`usmri train CONFIG` or `usmri train --us DIR --mr DIR`: train, or go on. It is reported on stderr."""
    from USMRISynthesisLib.training.common.config import read_table
    from USMRISynthesisLib.training.common.distributed import processes
    from USMRISynthesisLib.training.run import train as run_training

    def report(text: str) -> None:
        if not options.quiet:
            sys.stderr.write(f"{text}\n")

    if not processes().is_first:  # torchrun started several: one speaks
        options.quiet, options.json = True, False
    if options.us or options.mr:
        from USMRISynthesisLib.training.lab.run import train_on_folders

        checkpoint, ready = train_on_folders(
            options.us,
            options.mr,
            config=options.config,
            output=options.output,
            prepared=options.prepared,
            minutes=options.minutes,
            resume=options.resume,
            report=report,
        )
        return f"Wrote {checkpoint}.", {
            "checkpoint": str(checkpoint),
            "used": ready.used,
            "left_out": {kind: dict(why) for kind, why in ready.left_out.items()},
        }
    if not options.config or options.output or options.prepared:
        raise Refused(
            "arguments",
            "Training needs a configuration, or a lab's folders.",
            "Give CONFIG, or --us DIR and --mr DIR (--output and --prepared belong to these).",
        )
    if options.trust_model:
        table = read_table(options.config)
        _trust(table.get("initial"), table.get("model"))
    checkpoint = run_training(options.config, resume=options.resume, minutes=options.minutes, report=report)
    return f"Wrote {checkpoint}.", {"checkpoint": str(checkpoint)}


def export(options: Namespace) -> Outcome:
    """`usmri export CHECKPOINT OUT`: a model folder from a checkpoint, or from a model folder, for today's networks."""
    from USMRISynthesisLib.training.alignment.export import export_alignment
    from USMRISynthesisLib.training.common import checkpoint
    from USMRISynthesisLib.training.common.export import export_checkpoint
    from USMRISynthesisLib.training.outline.export import export_outline
    from USMRISynthesisLib.training.spacing.export import export_spacing
    from USMRISynthesisLib.training.synthesis.export import export as export_model

    if options.trust_model:
        _trust(options.checkpoint, options.averaged_with, options.output)
    if Path(options.checkpoint).is_dir():
        from USMRISynthesisLib.training.synthesis.reexport import reexport

        if options.name or options.averaged_with or options.model_version != "1":
            raise Refused(
                "arguments",
                "A model folder keeps its name, version and weights.",
                "Leave --name, --averaged-with and --model-version, or export a checkpoint.",
            )
        said = Path(options.figures) if options.figures else None
        folder = reexport(
            options.checkpoint,
            options.output,
            figures=_figures(said) if said else None,
            support_figures=_support_figures(said) if said and _judged(said) else None,
            plain=options.plain,
        )
        return f"Wrote {folder}, with the weights that {options.checkpoint} has.", {"model": str(folder)}
    if options.plain:
        raise Refused("arguments", "--plain is for a model folder.", "Leave it: a checkpoint's export has both forms.")
    content = checkpoint.load(options.checkpoint)
    exporters = {"alignment": export_alignment, "frames": export_outline, "spacing": export_spacing}
    if content.get("task") == "support":
        from USMRISynthesisLib.training.reliability.export import add_reliability

        measured = _support_figures(Path(options.figures)) if options.figures else None
        folder = add_reliability(content, options.output, measured)
        return f"Wrote the support map into {folder}.", {"model": str(folder)}
    if content.get("task") in exporters:
        folder = export_checkpoint(
            content,
            options.output,
            exporters[content["task"]],
            version=options.model_version,
            name=options.name or Path(options.output).resolve().name,
            figures=_plain_figures(Path(options.figures)) if options.figures else None,
        )
        return f"Wrote {folder}.", {"model": str(folder)}
    folder = export_model(
        options.checkpoint,
        options.output,
        version=options.model_version,
        averaged_with=options.averaged_with,
        name=options.name or Path(options.output).resolve().name,
        figures=_figures(Path(options.figures)) if options.figures else None,
    )
    return f"Wrote {folder}.", {"model": str(folder)}


def _trust(*paths: object) -> None:
    """Remember the user's consent for those of these that are models, by name, folder or file."""
    from USMRISynthesisLib.models import store as weights

    for path in paths:
        if isinstance(path, str) and path:
            try:
                weights.trust(path)
            except Failed as error:
                if error.kind != "no-model":  # a new folder, or nothing: whoever needs it says so
                    raise


def _support_figures(path: Path) -> dict[str, str]:
    """The support map's figures from an evaluation's JSON. Raises Refused for anything else."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        value, low, high = result["support_auc"]
        return {
            "auc": f"{value:.3f} [{low:.3f}, {high:.3f}]",
            **{key: f"{result[f'support_{key}']:.3f}" for key in ("wrong_share", "error_rho")},
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused(
            "figures",
            f"{path} is not what an evaluation of a model with a support map printed.",
            "Give what `usmri evaluate synthesis --json` wrote.",
        ) from error


def _judged(path: Path) -> bool:
    """Whether an evaluation's JSON has a support map's figures."""
    return "support_auc" in json.loads(path.read_text(encoding="utf-8"))


def _figures(path: Path) -> dict[str, str]:
    """The card's figures from an evaluation's JSON. Raises Refused for anything else."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        command = f"usmri evaluate synthesis --split {result['split']} --through {result['through']}"
        values = {key: f"{mean:.3f} [{low:.3f}, {high:.3f}]" for key, (mean, low, high) in result["values"].items()}
        return {"printed_by": command, "cases": str(result["cases"]), **values}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused(
            "figures", f"{path.name} is no evaluation.", "Give what `usmri evaluate synthesis --json` printed."
        ) from error


def _plain_figures(path: Path) -> dict[str, float]:
    """The numbers of `usmri evaluate normalisation|spacing --json`; a method's own as "psnr ours". Raises Refused."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        tables = {
            f"{key} {name}": value
            for key, table in result.items()
            if isinstance(table, dict)
            for name, value in table.items()
        }
        return {key: value for key, value in {**result, **tables}.items() if isinstance(value, float)}
    except (OSError, ValueError, AttributeError) as error:
        raise Refused(
            "figures", f"{path.name} is no evaluation.", "Give what `usmri evaluate --json` printed."
        ) from error


def evaluate(options: Namespace) -> Outcome:
    """`usmri evaluate synthesis|normalisation|mr-normalisation|simulator|spacing`: figures, as text and as values."""
    if options.trust_model:
        _trust(options.model)
    if options.subject == "mr-normalisation":
        from USMRISynthesisLib.evaluation.alignment import mr as mr_normalisation

        figures = mr_normalisation.evaluate(
            Path(options.data), Path(options.cases or "data/sim"), progress=console.progress(options)
        )
        return mr_normalisation.table(figures), figures
    if options.subject == "simulator":
        return _evaluate_simulator(options)
    if options.subject == "spacing":
        from USMRISynthesisLib.cli.spacing import evaluate_spacing

        return evaluate_spacing(options)
    if options.subject == "normalisation":
        from USMRISynthesisLib.evaluation.alignment.frames import evaluate_frames

        if _has_alignment(options):
            from USMRISynthesisLib.evaluation.alignment import evaluate as normalisation

            model = "alignment" if options.model == "default" else options.model
            figures = normalisation.evaluate(
                Path(options.cases or "data/sim"),
                options.split,
                Path(options.data),
                model,
                poses=options.poses,
                limit=options.limit,
                pictures=Path(options.pictures) if options.pictures else None,
                progress=console.progress(options),
            )
            return normalisation.table(figures), figures
        folder = Path(options.data) / "hc18"
        if not (folder / "index.csv").is_file():
            raise Refused("data", "There are no HC18 frames.", "Give the folder that holds hc18/ with --data.")
        values = evaluate_frames(Path(options.data), limit=options.limit)
        lines = ["head ellipse on real HC18 frames"]
        lines += [f"{key:36s} {value:8.3f}" for key, value in values.items() if isinstance(value, float)]
        return "\n".join(lines), values
    from USMRISynthesisLib.cli.methods import evaluate_synthesis

    return evaluate_synthesis(options)


def _evaluate_simulator(options: Namespace) -> Outcome:
    """Figures of the simulator, of so many new heads or of a folder of cases, and the picture that mixes its frames."""
    from USMRISynthesisLib.evaluation.pictures import simulated as simulated_pictures
    from USMRISynthesisLib.evaluation.simulator import evaluate as simulator
    from USMRISynthesisLib.evaluation.simulator import frames

    data, cases = Path(options.data), options.cases or str(simulator.HEADS)
    target = _picture(options.picture) if options.picture else None
    if not cases.isdecimal() and not Path(cases).is_dir():
        raise Refused("cases", f"{cases!r} is neither a number of heads nor a folder.", "Give --cases one of them.")
    real, progress = frames.real_frames(data), console.progress(options)
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
    from USMRISynthesisLib.models import store

    if options.model != "default":
        return True
    named = {folder.name for folder in store.installed_models()}
    return "alignment" in named and Path(options.cases or "data/sim").is_dir()
