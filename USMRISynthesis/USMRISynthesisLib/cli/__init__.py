"""The command `usmri`; `python -m USMRISynthesisLib.cli` is the same."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code.

    Args:
        arguments: the words after `usmri`. Without them the command is this process's own, which then handles signals,
            the environment and what libraries print; with them it is a guest, and leaves all that alone.
    """
    from USMRISynthesisLib.cli import process

    if arguments is None:
        process.take_over()
    from USMRISynthesisLib.cli.command_line import main as run

    code = run(arguments)
    if arguments is None:
        process.leave(code)
    return code
