"""The command `usmri`; `python -m USMRISynthesisLib.cli` is the same."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code.

    Args:
        arguments: the words after `usmri`. Without them the command is this process's own, which then handles signals,
            the environment and what libraries print; with them it is a guest, and leaves all that alone.
    """
    if arguments is None:
        from USMRISynthesisLib.cli.process import take_over

        take_over()
    from USMRISynthesisLib.cli.command_line import main as run

    return run(arguments)
