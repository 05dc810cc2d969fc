"""A process that is the command's own: Ctrl-C at any moment, and libraries that print by themselves.

`take_over` comes first, before anything heavy is imported: an interrupt then ends the process on the spot, with one
line, as nothing is on the disk yet. `begin_work` makes it a KeyboardInterrupt, so that what is half-written is
removed. Imports go on while the work runs, and libraries turn an interrupt into errors of their own, or swallow it:
`interrupted` says that there was one.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

_SENTENCE = b"Cancelled. Nothing was changed.\n"
_ANSWER = b'{"status": "cancelled", "kind": "cancelled", "message": "Cancelled.", "remedy": "Nothing was changed."}\n'
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK", "SIGHUP") if hasattr(signal, name)]
_state = {"interrupted": False}


def take_over() -> None:
    """Make this process the command's own. Standard library only."""
    for descriptor in (0, 1, 2):  # a file that is opened where a stream was closed would get what is printed
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for number in _SIGNALS:
        _handle(number, _end_at_once)
    from USMRISynthesisLib.worker.environment import prepare

    prepare(show_warnings="--verbose" in sys.argv)
    sys.unraisablehook = lambda _: None  # "Exception ignored in ...": nothing that a user can act on
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def begin_work(*, silent: bool) -> None:
    """From here on an interrupt is raised where the work is.

    silent: what libraries print past Python, on stdout and stderr, goes nowhere; else it goes to stderr.
    """
    for number in _SIGNALS:
        _handle(number, _interrupt)
    sys.stdout = _kept(sys.stdout, 1, None if silent else 2)
    if silent:
        sys.stderr = _kept(sys.stderr, 2, None)


def end_work() -> None:
    """The work is done: an interrupt comes too late to change anything."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def leave(code: int) -> None:
    """After an interrupt: end with this exit code at once.

    Python would end by the signal where a library ran into the interrupt, although it was dealt with.
    """
    if not _state["interrupted"]:
        return
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass
    os._exit(code)


def interrupted() -> bool:
    """Whether an interrupt came, even if a library swallowed it; `cancel` of long work."""
    return _state["interrupted"]


def _handle(number: int, act: Callable[[int, FrameType | None], None]) -> None:
    """Act on a signal, except on a hang-up that whoever started us wants ignored (nohup)."""
    if number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) is signal.SIG_IGN:
        return
    signal.signal(number, act)


def _end_at_once(number: int, frame: FrameType | None) -> None:
    for descriptor, line in ((2, _SENTENCE), (1, _ANSWER)):
        if descriptor == 2 or "--json" in sys.argv:
            try:
                os.write(descriptor, line)
            except OSError:
                pass
    os._exit(1)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _state["interrupted"] = True
    raise KeyboardInterrupt


def _kept(stream: Any, descriptor: int, rest: int | None) -> Any:
    """A stream to where `descriptor` leads now; what is written to the descriptor itself goes to `rest` from now on."""
    try:
        stream.flush()
        copy = os.dup(descriptor)
        kept = open(copy, "w", encoding=stream.encoding, errors=stream.errors, buffering=1)
        elsewhere = os.open(os.devnull, os.O_WRONLY) if rest is None else rest
        os.dup2(elsewhere, descriptor)
        if rest is None:
            os.close(elsewhere)
    except (OSError, AttributeError, ValueError):  # closed, or none at all
        return stream
    return kept
