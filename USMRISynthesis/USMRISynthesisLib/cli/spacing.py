"""What `usmri respace` and `usmri evaluate spacing` do. Each returns (text, result), as those of `commands.py`."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from USMRISynthesisLib.cli import console
from USMRISynthesisLib.cli.infer import output_path
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.synthetic import SYNTHETIC
from USMRISynthesisLib.io.volume import Volume

Outcome = tuple[str, dict[str, Any]]


def respace(options: Namespace) -> Outcome:
    """`usmri respace IN OUT`: thinner slices over the same extent, and their provenance beside them."""
    from USMRISynthesisLib.io.provenance import write_with_sidecar
    from USMRISynthesisLib.spacing.pipeline import respace as reduce_spacing

    source, target = Path(options.input), output_path(options)
    result = reduce_spacing(
        Volume.read(source, frame=options.frame),
        spacing=options.spacing,
        axis=options.axis,
        model=options.model,
        device=options.device,
        consistency=options.consistency,
        progress=console.progress(options),
        consent=lambda sha256, name: options.trust_model,
    )
    sidecar = write_with_sidecar(result.mr, result.provenance, target, source=source)
    slices = result.provenance["slices"]
    before, after = slices["spacing_mm"]
    seconds = sum(result.provenance["seconds"].values())
    text = (
        f"Wrote {target} ({SYNTHETIC}) and {sidecar.name} in {seconds:.1f} s: {slices['before']} slices of "
        f"{before:.3g} mm became {slices['after']} of {after:.3g} mm along {slices['axis']}; seen through the "
        f"slice profile they differ from the input by {result.consistency:.2%} of its range."
    )
    text = " ".join([text, *result.provenance["warnings"]])
    return text, {
        "output": str(target),
        "provenance": str(sidecar),
        "notice": SYNTHETIC,
        "slices": slices,
        "consistency": result.consistency,
        "device": result.provenance["device"],
        "seconds": result.provenance["seconds"],
        "warnings": result.provenance["warnings"],
    }


def evaluate_spacing(options: Namespace) -> Outcome:
    """`usmri evaluate spacing`: methods side by side on held-out MR, then on the real stacks."""
    from USMRISynthesisLib.evaluation.spacing import evaluate as spacing
    from USMRISynthesisLib.evaluation.spacing.peer import Peer
    from USMRISynthesisLib.training.spacing.single_stack import NAME, train_and_super_resolve

    data = Path(options.data)
    if not data.is_dir():
        raise Refused("data", f"There is no data folder {data.name}.", "Give the atlas's folder with --data.")
    if options.peer_cases < 1 or options.alone < 0:
        raise Refused(
            "peer",
            "What trains on every case needs at least one case, and minutes of 0 or more.",
            "Correct --peer-cases or --alone.",
        )
    rivals: dict[str, spacing.Rival] = {}
    if options.peer:
        peer = Peer(options.peer.split(), options.peer_patches)
        rivals[peer.name] = peer
    if options.alone:
        rivals[NAME] = lambda thick, factor, mm: train_and_super_resolve(thick, factor, mm, options.alone)
    model = "spacing" if options.model == "default" else options.model
    result = spacing.evaluate(
        data,
        options.split,
        model=model,
        device=options.device,
        rivals=rivals,
        rival_cases=options.peer_cases,
        limit=options.limit,
        pictures=Path(options.pictures) if options.pictures else None,
        progress=console.progress(options),
    )
    return spacing.table(result), result
