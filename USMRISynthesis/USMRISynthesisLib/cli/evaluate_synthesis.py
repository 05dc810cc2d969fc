"""`usmri evaluate synthesis`: a model against truth, baselines and real frames; methods measured side by side."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from USMRISynthesisLib.cli import console
from USMRISynthesisLib.cli.options import Outcome
from USMRISynthesisLib.cli.pictures import check_picture, picture
from USMRISynthesisLib.geometry.planes import chosen_planes

if TYPE_CHECKING:
    from USMRISynthesisLib.evaluation.synthesis.evaluate import Predict

KEPT = "build/evaluation"  # the segmenter, once trained


def evaluate_synthesis(options: Namespace) -> Outcome:
    """`usmri evaluate synthesis`: a model against truth, baselines and real frames; `--quick`: its own figures only."""
    from USMRISynthesisLib.evaluation.metrics import lpips, segmenter
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
    from USMRISynthesisLib.simulation.anatomy import atlas

    if options.picture:
        check_picture(Path(options.picture))
    if not options.quick:
        import torchmetrics  # noqa: F401 - where it is not installed, fail now, not after minutes of work

        lpips.perceptual()  # likewise, where its weights are others
    folder = Path(options.cases or "data/sim")
    train, *also = [Path(name) for name in options.train] or [folder / "train"]
    make = synthesis.pipeline_prediction if options.pose == "estimated" else synthesis.canonical_prediction
    planes = planes_of(options)
    predict, progress = make(options.model, options.device, planes), console.progress(options)
    data = Path(options.data)
    fitted = synthesis.fitted_prediction(data) if (data / atlas.FOLDER).is_dir() else None
    result = synthesis.evaluate(
        folder,
        predict,
        split=options.split,
        train=train,
        predict_frame=frame_prediction(options.model, options.device),
        fitted=fitted,
        progress=progress,
    )
    result |= {"pose": options.pose, "planes": planes}
    frames = train.parent / "hc18.npz"
    if options.picture:
        with picture(Path(options.picture)) as name:
            real_frames.draw(frames, frame_prediction(options.model, options.device), name)
    text = synthesis.table(result)
    if options.quick:
        return text, result
    methods = {
        Path(options.model).name: predict,
        "2d": synthesis.single_slices_prediction(options.model, options.device),
    }
    if fitted is not None:
        methods["fitted atlas"] = fitted
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
        text += f"\nLPIPS is not among them: its weights are not installed ({lpips.INSTALL})."
    believed = support.evaluate(folder / options.split, options.model, options.device, planes=planes, progress=progress)
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


def planes_of(options: Namespace) -> str:
    """The planes to measure with: those given, else what the product takes for this model. Raises Failed: no model."""
    from USMRISynthesisLib.models import store

    return chosen_planes(options.planes, store.read_manifest(store.find_model(options.model)).input.planes)


def _studied(config: str | None) -> dict[str, Predict]:
    """The methods of a study that are trained to their end, by name."""
    from USMRISynthesisLib.training.study import study as studies
    from USMRISynthesisLib.training.study import table as study_table

    methods = () if config is None else studies.trained(studies.read_study(config))
    return {study_table.row(method, methods): study_table.prediction(method) for method in methods}
