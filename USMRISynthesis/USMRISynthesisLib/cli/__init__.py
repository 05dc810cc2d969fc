"""The command `usmri`; `python -m USMRISynthesisLib.cli` is the same."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Imports the command line when it is called."""
    from USMRISynthesisLib.cli.command_line import main as run

    return run(arguments)
