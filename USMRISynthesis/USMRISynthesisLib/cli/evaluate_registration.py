"""`usmri evaluate registration`: whether the synthesis helps to register ultrasound with MR."""

from __future__ import annotations

from argparse import Namespace
from contextlib import nullcontext
from pathlib import Path

from USMRISynthesisLib.cli import console
from USMRISynthesisLib.cli.options import Outcome
from USMRISynthesisLib.cli.pictures import check_picture, picture
from USMRISynthesisLib.errors import Failed, Refused


def evaluate_registration(options: Namespace) -> Outcome:
    """The heads of `--config`, or those of `--cases` and `--split`; then the real volumes. Raises Refused, Failed."""
    import torch

    from USMRISynthesisLib.cli.evaluate_synthesis import planes_of
    from USMRISynthesisLib.evaluation.registration import subjects, summary
    from USMRISynthesisLib.evaluation.registration.evaluate import Plan, evaluate
    from USMRISynthesisLib.evaluation.registration.settings import Settings

    data = Path(options.data)
    if options.starts < 1:
        raise Refused("starts", "At least one start is needed.", "Correct --starts.")
    target = check_picture(Path(options.picture)) if options.picture else None
    plan, folder = Plan.quick() if options.quick else Plan(options.starts), _folder(options.folder)
    how = {"model": options.model, "device": options.device, "planes": planes_of(options)}
    if options.cases:
        cases = Path(options.cases) / options.split
        sources = subjects.stored(data, cases, **how)
        measured_on = f"cases of {cases.parent.name}/{cases.name}"
    else:
        sources = subjects.simulated(data, Path(options.config), **how)
        measured_on = f"heads of {Path(options.config).name}"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the other engines
    try:
        progress = console.progress(options)
        heads = evaluate(sources, plan, settings=Settings(), folder=folder, limit=options.limit, progress=progress)
        if not options.quick:
            heads += evaluate(subjects.real(data, **how), plan, settings=Settings(), folder=folder, progress=progress)
    finally:
        torch.set_num_threads(threads)
    result = summary.summarise(heads, measured_on)
    with picture(target) if target else nullcontext() as name:
        if name is not None:
            from USMRISynthesisLib.evaluation.pictures import registration as drawn

            drawn.draw(heads, name)
    return summary.table(result), result


def _folder(name: str | None) -> Path | None:
    """The folder where results are kept, made if it is not there. Raises Failed."""
    if name is None:
        return None
    folder = Path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Failed(
            "write", f"The folder {folder.name} cannot be made: {error.strerror}.", "Give another one with --folder."
        ) from error
    return folder
