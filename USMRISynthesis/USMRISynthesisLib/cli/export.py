"""`usmri export`: a model folder from a training checkpoint."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from USMRISynthesisLib.cli.options import Outcome, add_command, add_trust, remember_trust
from USMRISynthesisLib.errors import Failed, Refused, USMRIError


def add_commands(commands: Any) -> None:
    """The command's parser."""
    exported = add_command(commands, "export", "make a model folder from a training checkpoint", export)
    exported.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="or a model folder, whose weights are kept and exported as this version runs them",
    )
    exported.add_argument("output", metavar="OUT", help="the model folder to write")
    exported.add_argument("--name", help="the model's name (the folder's)")
    exported.add_argument(
        "--figures", metavar="FILE", help="what `usmri evaluate synthesis --json` printed, for the card"
    )
    exported.add_argument(
        "--averaged-with",
        metavar="FILE",
        help="synthesis: export the mean of these weights and those of an earlier stage",
    )
    exported.add_argument("--model-version", default="1", metavar="V", help="the model's version (1)")
    exported.add_argument(
        "--plain",
        action="store_true",
        help="of a model folder: leave its TorchScript files as they are, and write the plain weights beside them",
    )
    add_trust(exported)


def export(options: Namespace) -> Outcome:
    """`usmri export CHECKPOINT OUT`: a model folder from a checkpoint, or from a model folder, for today's networks."""
    from USMRISynthesisLib.training.alignment.export import export_alignment
    from USMRISynthesisLib.training.common import checkpoint
    from USMRISynthesisLib.training.common.export import export_checkpoint
    from USMRISynthesisLib.training.content.export import export_content
    from USMRISynthesisLib.training.outline.export import export_outline
    from USMRISynthesisLib.training.spacing.export import export_spacing
    from USMRISynthesisLib.training.synthesis.export import export as export_model

    inputs = (options.checkpoint, options.figures, options.averaged_with)
    _check_folder(Path(options.output), [Path(name) for name in inputs if name])
    if options.trust_model:
        remember_trust(options.checkpoint, options.averaged_with, options.output)
    if Path(options.checkpoint).is_dir():
        from USMRISynthesisLib.training.synthesis.reexport import reexport

        if options.name or options.averaged_with or options.model_version != "1":
            raise Refused(
                "arguments",
                "A model folder keeps its name, version and weights.",
                "Leave --name, --averaged-with and --model-version, or export a checkpoint.",
            )
        figures = Path(options.figures) if options.figures else None
        folder = reexport(
            options.checkpoint,
            options.output,
            figures=_figures(figures) if figures else None,
            support_figures=_reliability_figures(figures) if figures and _has_reliability(figures) else None,
            plain=options.plain,
        )
        return f"Wrote {folder}, with the weights that {options.checkpoint} has.", {"model": str(folder)}
    if options.plain:
        raise Refused("arguments", "--plain is for a model folder.", "Leave it: a checkpoint's export has both forms.")
    content = checkpoint.load(options.checkpoint)
    exporters = {
        "alignment": export_alignment,
        "content": export_content,
        "frames": export_outline,
        "spacing": export_spacing,
    }
    if content.get("task") == "support":
        from USMRISynthesisLib.training.reliability.export import add_reliability

        reliability_figures = _reliability_figures(Path(options.figures)) if options.figures else None
        folder = add_reliability(content, options.output, reliability_figures)
        return f"Wrote the reliability map into {folder}.", {"model": str(folder)}
    if content.get("task") == "fusion":
        from USMRISynthesisLib.training.fusion.export import add_fusion

        folder = add_fusion(content, options.output)
        return f"Wrote the fusion of planes into {folder}.", {"model": str(folder)}
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


def _reliability_figures(path: Path) -> dict[str, str]:
    """The reliability map's figures from an evaluation's JSON. Raises Refused for anything else."""
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
            f"{path} is not what an evaluation of a model with a reliability map printed.",
            "Give what `usmri evaluate synthesis --json` wrote.",
        ) from error


def _has_reliability(path: Path) -> bool:
    """Whether an evaluation's JSON has a reliability map's figures."""
    return "support_auc" in json.loads(path.read_text(encoding="utf-8"))


def _figures(path: Path) -> dict[str, str]:
    """The card's figures from an evaluation's JSON. Raises Refused for anything else."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        # Earlier versions printed how the pose was found under another name.
        pose = result["pose"] if "pose" in result else {"network": "true", "product": "estimated"}[result["through"]]
        command = f"usmri evaluate synthesis --split {result['split']} --pose {pose}"
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


def _check_folder(folder: Path, inputs: list[Path]) -> None:
    """The model folder to write, before any work: new, empty, or a model's already. Raises Refused, Failed."""
    from USMRISynthesisLib.io.outputs import check, foreign
    from USMRISynthesisLib.models import store
    from USMRISynthesisLib.training.common.export import CARD, MANIFEST, PLAIN

    if folder.exists() and not folder.is_dir():
        raise Failed("write", f"{folder.name} is no folder.", "Give the name of a folder.")
    if not folder.is_dir():
        return
    names = [folder / name for name in (MANIFEST, CARD, *PLAIN, *PLAIN.values())]
    try:
        store.read_manifest(folder)
    except USMRIError:
        found = next((path for path in names if path.exists()), None)
        if found is not None:
            raise foreign(found) from None
    check(
        names, [path for path in inputs if not path.is_dir()], sidecars=False, ours=dict.fromkeys(names, Path.is_file)
    )
