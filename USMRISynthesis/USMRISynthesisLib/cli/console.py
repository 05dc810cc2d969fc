"""What the commands say: the answer on stdout; a counter, warnings and errors on stderr.

Nothing is lost because a name has letters that the terminal's code page lacks, or because nobody reads.
"""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from typing import Any

from USMRISynthesisLib.callbacks import Log, Progress


def progress(options: Namespace) -> Progress | None:
    """A counter on a terminal; a log file gets none."""
    if options.quiet or options.json or sys.stderr is None or not sys.stderr.isatty():
        return None

    def show(value: float, stage: str) -> None:
        say(f"\r{value:4.0%} {stage:<40}", end="\n" if value >= 1 else "")

    return show


def log(options: Namespace) -> Log:
    """Warnings always reach stderr; the rest with --verbose."""

    def tell(level: str, text: str) -> None:
        if level != "info" or options.verbose:
            say(f"{'Warning: ' if level != 'info' else ''}{text}")

    return tell


def say(text: str, *, end: str = "\n") -> None:
    """A line on stderr. That nobody reads it stops no work."""
    try:
        _write(sys.stderr, text + end)
    except (OSError, ValueError):
        pass


def answer(text: str) -> str | None:
    """A line on stdout; returns why it could not be written, or None. That its reader went away is no fault."""
    try:
        _write(sys.stdout, text + "\n")
    except BrokenPipeError:
        _discard_stdout()
    except (OSError, ValueError) as error:
        _discard_stdout()
        return getattr(error, "strerror", None) or "stdout is closed"
    return None


def _write(stream: Any, text: str) -> None:
    """Letters that the stream's encoding lacks are replaced. Raises OSError, ValueError (closed)."""
    if stream is None:
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "replace").decode(encoding, "replace"))
    stream.flush()


def _discard_stdout() -> None:
    """What is still held back for stdout goes nowhere, or Python would complain at its end."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError, AttributeError):
        pass
