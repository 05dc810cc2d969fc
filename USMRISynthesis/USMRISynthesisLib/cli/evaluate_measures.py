"""`usmri evaluate biometry` and `usmri evaluate expected-error`: how right the numbers beside an image are."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from USMRISynthesisLib.cli import console
from USMRISynthesisLib.cli.options import Outcome
from USMRISynthesisLib.errors import Failed, Refused


def evaluate(options: Namespace) -> Outcome:
    """Figures as text and as values. Raises Refused, Failed."""
    return _biometry(options) if options.subject == "biometry" else _expected_error(options)


def _biometry(options: Namespace) -> Outcome:
    """HC18's frames; with --cases simulated volumes, too."""
    from USMRISynthesisLib.evaluation.biometry import evaluate as measured

    cases = Path(options.cases) if options.cases else None
    found = measured.evaluate(Path(options.data), limit=options.limit, cases=cases, progress=console.progress(options))
    return measured.table(found), found


def _expected_error(options: Namespace) -> Outcome:
    """--train: folders to fit on, --calibration where to write the fit; --cases: folders to test on, with commas."""
    from USMRISynthesisLib.evaluation.expected_error import evaluate as measured
    from USMRISynthesisLib.io.outputs import unwritten
    from USMRISynthesisLib.models.store import find_model, read_manifest
    from USMRISynthesisLib.synthesis.expected_error import calibration_text, read_calibration

    folder = find_model(options.model)
    manifest = read_manifest(folder)
    target = Path(options.calibration) if options.calibration else None
    if target is not None and not options.train:
        raise Refused("arguments", "There is nothing to fit a calibration on.", "Give folders of cases with --train.")
    result: dict[str, object] = {"model": manifest.name}
    if options.train:
        folders = [Path(one) for one in options.train]
        heads = measured.measure(
            folders, options.model, options.device, limit=options.limit, progress=console.progress(options)
        )
        calibration = measured.fit(heads)
        result["fitted"] = measured.tested(heads, calibration)
        if target is not None:
            try:
                target.write_text(
                    calibration_text(calibration, manifest, f"{len(heads['one'])} simulated heads"), encoding="utf-8"
                )
            except OSError as error:
                raise unwritten(target.name, error) from error
    else:
        kept = read_calibration(folder, manifest)
        if kept is None:
            raise Failed(
                "calibration",
                f"There is no calibration of the expected error for the model {manifest.name!r}.",
                "Fit one with --train and --calibration.",
            )
        calibration = kept
    rows = {}
    for path in [Path(one) for one in (options.cases or "data/sim/test").split(",")]:
        heads = measured.measure(
            [path], options.model, options.device, limit=options.limit, progress=console.progress(options)
        )
        rows[f"{path.parent.name}/{path.name}"] = measured.tested(heads, calibration)
    result["tested"] = rows
    return measured.table({"tested": {"fitted on": result.get("fitted", {}), **rows}}), result
