"""`usmri`: the command line. Exit 0 done, 1 failed or cancelled, 2 refused input (or a wrong command line).

What went wrong is one sentence on stderr, with the remedy; `--verbose` adds the details. `--json` prints one JSON
object on stdout, whatever happens. argparse, because `usmri` must also run under PythonSlicer, where nothing but the
standard library, numpy, scipy, SimpleITK and torch may be expected. None of these is loaded before a command runs.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from USMRISynthesisLib import __version__
from USMRISynthesisLib.cli import (
    batch,
    console,
    evaluate,
    export,
    infer,
    info,
    process,
    reader_study,
    simulate,
    train,
)
from USMRISynthesisLib.cli.options import Parser, Shown, add_common
from USMRISynthesisLib.errors import Cancelled, Failed, Refused, USMRIError, memory_shortage
from USMRISynthesisLib.io.strict_json import dumps
from USMRISynthesisLib.io.synthetic import SYNTHETIC

DONE, FAILED, REFUSED = 0, 1, 2
# What a package is called where it is installed from, by the name under which it is imported.
_PACKAGES = {
    "PIL": "pillow",
    "SimpleITK": "SimpleITK",
    "lightning_fabric": "lightning-fabric",
    "numpy": "numpy",
    "pydicom": "pydicom",
    "scipy": "scipy",
    "torch": "torch",
    "torchmetrics": "torchmetrics",
}


def build_parser() -> Parser:
    """The whole command line."""
    parser = Parser(prog="usmri", description=f"MR-like images from fetal head ultrasound. {SYNTHETIC}.")
    parser.add_argument("--version", action="version", version=f"usmri {__version__}")
    add_common(parser, False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in (infer, batch, info, simulate, train, evaluate, reader_study, export):
        module.add_commands(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Without arguments those of this process are taken, which is then ours."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json, verbose = "--json" in words, "--verbose" in words
    try:
        options = build_parser().parse_args(words)
        options.arguments = words
        _start_log(verbose)
        if arguments is None:
            process.begin_work(silent=options.silent and not verbose)
        with _signals(ours=arguments is None):
            text, result = options.run(options)
    except Shown as shown:
        return _answer(dumps({"status": "done", "text": str(shown)}) if as_json else str(shown), DONE)
    except (KeyboardInterrupt, Exception) as error:
        if verbose and not isinstance(error, (USMRIError, KeyboardInterrupt)):
            console.say(traceback.format_exc().rstrip())
        return _report(_as_sentence(error), as_json=as_json, verbose=verbose)
    # A batch ends in its own status: some of its cases may have failed, or have been refused.
    code = {"failed": FAILED, "refused": REFUSED}.get(result.get("status", ""), DONE)
    if options.json:
        return _answer(dumps({"status": "done", **result}), code)
    return _answer(text, code) if text and not options.quiet else code


def _as_sentence(error: BaseException) -> USMRIError:
    """Any error as one for the user."""
    if isinstance(error, USMRIError):
        return error
    if isinstance(error, KeyboardInterrupt) or process.interrupted():  # an import turns it into errors of its own
        return Cancelled()
    if short := memory_shortage(error):
        return short
    if isinstance(error, ModuleNotFoundError):
        package = _PACKAGES.get((error.name or "").split(".")[0])
        return Failed(
            "package",
            f"This command needs the Python package {error.name!r}, which is not installed.",
            f"Install it: pip install {package}." if package else "Install the program again, with all that it needs.",
        )
    return Failed(
        "internal",
        f"An unexpected fault stopped it ({type(error).__name__}).",
        "Run it again with --verbose and report what that prints.",
    )


def _report(error: USMRIError, *, as_json: bool, verbose: bool) -> int:
    """One sentence on stderr; with --json the same on stdout for a program."""
    status = "refused" if isinstance(error, Refused) else "cancelled" if isinstance(error, Cancelled) else "failed"
    if verbose and error.__cause__ is not None:
        console.say("".join(traceback.format_exception(error.__cause__)).rstrip())
    console.say(" ".join(str(error).split()))
    if as_json:
        content: dict[str, Any] = {"status": status, "kind": error.kind, "message": error.message}
        console.answer(dumps({**content, "remedy": error.remedy}))
    return REFUSED if isinstance(error, Refused) else FAILED


def _answer(text: str, code: int) -> int:
    """Print the answer; returns the exit code."""
    fault = console.answer(text)
    if fault is None:
        return code
    console.say(f"The answer could not be written: {fault}. Send the output of the command elsewhere.")
    return code or FAILED


def _start_log(verbose: bool) -> None:
    level = logging.DEBUG if verbose else logging.CRITICAL
    logging.basicConfig(level=level, stream=sys.stderr, format="%(name)s: %(message)s")
    logging.getLogger("PIL").setLevel(logging.WARNING)  # it tells every chunk of every picture
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: see worker/environment.py


@contextmanager
def _signals(*, ours: bool) -> Iterator[None]:
    """End on SIGTERM as on Ctrl-C: nothing half-written stays. Only the main thread can; a guest puts it back."""
    if ours:
        try:
            yield
        finally:
            process.end_work()
        return
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGTERM"):
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
