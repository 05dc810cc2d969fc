"""`usmri evaluate real` and `usmri evaluate normal`: what decides, on images that nothing was trained on."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from USMRISynthesisLib.cli import console
from USMRISynthesisLib.cli.options import Outcome
from USMRISynthesisLib.cli.pictures import pictures
from USMRISynthesisLib.errors import Refused


def evaluate_real(options: Namespace) -> Outcome:
    """Measures on real ultrasound; `--quick` takes fewer images."""
    from USMRISynthesisLib.cli.evaluate_synthesis import planes_of
    from USMRISynthesisLib.evaluation.real import evaluate as real

    data, simulated = Path(options.data), Path(options.simulated) if options.simulated else None
    if simulated is not None and not simulated.is_dir():
        raise Refused("cases", f"There is no folder {simulated.name}.", "Give the folder of simulated cases.")
    progress = console.progress(options)
    with pictures(options.pictures) as folder:
        figures, poses = real.evaluate(
            data,
            model=options.model,
            device=options.device,
            planes=planes_of(options),
            sizes=real.Sizes.quick() if options.quick else None,
            simulated=simulated,
            progress=progress,
        )
        if folder is not None:
            from USMRISynthesisLib.evaluation.pictures import real as drawn
            from USMRISynthesisLib.evaluation.real.cases import heads_3d

            drawn.draw_volumes(data, heads_3d(data), poses, folder)
            drawn.draw_frames(
                data, folder / "frames.png", model=options.model, device=options.device, progress=progress
            )
    return real.table(figures), figures


def evaluate_normal(options: Namespace) -> Outcome:
    """The product on heads simulated from normal averages, with the bundled weights and those of `--models`."""
    from USMRISynthesisLib.cli.evaluate_synthesis import planes_of
    from USMRISynthesisLib.cli.options import remember_trust
    from USMRISynthesisLib.evaluation.normal import evaluate as normal
    from USMRISynthesisLib.models.manifest import MANIFEST

    folders = [Path(name) for name in options.models]
    if options.trust_model:
        remember_trust(*(str(path.parent) for folder in folders for path in sorted(folder.glob(f"*/{MANIFEST}"))))
    figures = normal.evaluate(
        Path(options.data),
        Path(options.config),
        folders=folders,
        model=options.model,
        device=options.device,
        planes=planes_of(options),
        limit=options.limit,
        progress=console.progress(options),
    )
    return normal.table(figures), figures
