"""`usmri evaluate biometry` and `usmri evaluate expected-error`: how right the numbers beside an image are."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from USMRISynthesisLib.cli import console
from USMRISynthesisLib.cli.options import Outcome


def evaluate(options: Namespace) -> Outcome:
    """Figures as text and as values. Raises Refused, Failed."""
    return _biometry(options)


def _biometry(options: Namespace) -> Outcome:
    """HC18's frames; with --cases simulated volumes, too."""
    from USMRISynthesisLib.evaluation.biometry import evaluate as measured

    cases = Path(options.cases) if options.cases else None
    found = measured.evaluate(Path(options.data), limit=options.limit, cases=cases, progress=console.progress(options))
    return measured.table(found), found
