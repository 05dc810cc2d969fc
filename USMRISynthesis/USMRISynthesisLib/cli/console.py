"""What the commands say on stderr while they work: a counter, warnings."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable


def progress(options: Namespace) -> Callable[[float, str], None] | None:
    """A counter on a terminal; a log file gets none."""
    if options.quiet or options.json or not sys.stderr.isatty():
        return None

    def show(value: float, stage: str) -> None:
        sys.stderr.write(f"\r{value:4.0%} {stage:<40}" + ("\n" if value >= 1 else ""))
        sys.stderr.flush()

    return show


def log(options: Namespace) -> Callable[[str, str], None]:
    """Warnings always reach stderr; the rest with --verbose."""

    def say(level: str, text: str) -> None:
        if level != "info" or options.verbose:
            sys.stderr.write(f"{'Warning: ' if level != 'info' else ''}{text}\n")

    return say
