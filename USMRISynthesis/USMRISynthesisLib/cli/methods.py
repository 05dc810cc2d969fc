"""What `usmri evaluate synthesis` and `usmri study` do: methods measured side by side."""

from __future__ import annotations

import dataclasses
import datetime
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from USMRISynthesisLib.cli import console

if TYPE_CHECKING:
    from USMRISynthesisLib.evaluation.synthesis.evaluate import Predict

Outcome = tuple[str, dict[str, Any]]
KEPT = "build/evaluation"  # the segmenter, once trained


def evaluate_synthesis(options: Namespace) -> Outcome:
    """`usmri evaluate synthesis`: a model against truth, baselines and real frames; `--quick`: its own figures only."""
    from USMRISynthesisLib.evaluation.metrics import lpips as perceptual
    from USMRISynthesisLib.evaluation.metrics import segmenter
    from USMRISynthesisLib.evaluation.synthesis import (
        baselines as comparison,
    )
    from USMRISynthesisLib.evaluation.synthesis import (
        evaluate as synthesis,
    )
    from USMRISynthesisLib.evaluation.synthesis import (
        real_frames,
    )
    from USMRISynthesisLib.evaluation.synthesis import (
        reliability as support,
    )
    from USMRISynthesisLib.evaluation.synthesis.frame_prediction import frame_prediction
    from USMRISynthesisLib.models import store

    if not options.quick:
        import torchmetrics  # noqa: F401 - where it is not installed that is said now, not after minutes of work

        perceptual.perceptual()  # likewise, where its weights are others
    folder = Path(options.cases or "data/sim")
    train, *also = [Path(name) for name in options.train] or [folder / "train"]
    make = synthesis.pipeline_prediction if options.through == "product" else synthesis.canonical_prediction
    predict, progress = make(options.model, options.device, options.planes), console.progress(options)
    result = synthesis.evaluate(
        folder,
        predict,
        split=options.split,
        train=train,
        predict_frame=frame_prediction(options.model, options.device),
        progress=progress,
    )
    result |= {"through": options.through, "planes": options.planes}
    frames = train.parent / "hc18.npz"
    if options.picture:
        real_frames.draw(frames, frame_prediction(options.model, options.device), Path(options.picture))
    text = synthesis.table(result)
    if options.quick:
        return text, result
    methods = {
        Path(options.model).name: predict,
        "2d": synthesis.single_slices_prediction(options.model, options.device),
    }
    methods |= {
        name: synthesis.canonical_prediction(name, options.device)
        for name in store.models_for("synthesis")
        if name not in methods
    } | _studied(options.study)
    result["methods"] = comparison.compare(
        folder, options.split, train, methods, kept=Path(KEPT), also=also, progress=progress
    )
    result |= comparison.shares(result)
    text += "\n\nmethods side by side (simulated)\n" + comparison.table(result["methods"])
    if comparison.PERCEPTUAL not in comparison.columns(result["methods"]):
        text += f"\nLPIPS is not among them: its weights are not installed ({perceptual.INSTALL})."
    believed = support.evaluate(
        folder / options.split, options.model, options.device, planes=options.planes, progress=progress
    )
    if believed is not None:
        result |= believed
        text += "\n\n" + support.table(believed)
    if frames.is_file():
        made = frame_prediction(options.model, options.device)
        result |= real_frames.evaluate(frames, made, limit=options.limit, progress=progress)
        known = segmenter.trained([train, *also], Path(KEPT))
        distances = real_frames.kernel_distances(
            frames, made, folder / options.split, train, known, limit=options.limit, progress=progress
        )
        result |= distances
        text += (
            "\n\nreal frames (HC18, fetuses held out; annotated pose; no truth)\n"
            + "\n".join(f"{key:32s} {result[key]:8.3f}" for key in real_frames.FIGURES)
            + "\n\n"
            + real_frames.distance_table(distances)
        )
    return text, result


def _studied(config: str | None) -> dict[str, Predict]:
    """The methods of a study that are trained to their end, by name."""
    from USMRISynthesisLib.training.study import study as studies
    from USMRISynthesisLib.training.study import table as study_table

    asked = () if config is None else studies.trained(studies.read_study(config))
    return {study_table.row(method, asked): study_table.prediction(method) for method in asked}


def study(options: Namespace) -> Outcome:
    """`usmri study CONFIG`: train every method that is not trained yet, measure all, write table and picture."""
    from USMRISynthesisLib.training.study import study as studies
    from USMRISynthesisLib.training.study import table as study_table

    def report(line: str) -> None:
        if not options.quiet:
            sys.stderr.write(f"{line}\n")

    asked = studies.read_study(options.config)
    if options.steps:
        asked = studies.shortened(asked, options.steps)
    if options.trained:
        asked = dataclasses.replace(asked, methods=studies.trained(asked))
    else:
        studies.run(asked, report=report)
    figures = study_table.measured(asked, options.split, progress=console.progress(options))
    notes = {
        "printed by": f"usmri study {options.config} --split {options.split}" + " --trained" * options.trained,
        "date": datetime.date.today().isoformat(),
        "data": f"simulated, {asked.methods[0].config.data.folder}, split {options.split}",
        "seeds": sorted({method.config.seed for method in asked.methods}),
    }
    table, picture = asked.output / "table.md", asked.output / "pictures.png"
    table.write_text(study_table.markdown(asked, figures, notes), encoding="utf-8")
    study_table.draw(asked, options.split, picture)
    return table.read_text(encoding="utf-8"), {"methods": figures, "table": str(table), "picture": str(picture)}
