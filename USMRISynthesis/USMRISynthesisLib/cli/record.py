"""Records of evaluations: what `--record FILE` writes, from which `make results` makes docs/results.md."""

from __future__ import annotations

import datetime
import json
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from USMRISynthesisLib.errors import Refused

_PLACES = ("--record", "--folder", "--picture", "--pictures", "--calibration")  # options that change no figure
KEYS = ("title", "command", "date", "version", "result")
TITLES = {
    "real": "Real ultrasound, no MR of it",
    "normal": "Heads simulated from normal averages, through the whole product",
    "content": "What real frames show: a brain, and which plane",
    "synthesis": "Synthesis, simulated ultrasound",
    "normalisation": "Alignment: simulated heads in random orientations, and head outlines on real frames",
    "mr-normalisation": "MR into canonical space",
    "simulator": "Simulator against real frames",
    "spacing": "Slice spacing",
    "biometry": "Biometry: the fitted skull against annotated circumferences",
    "expected-error": "Expected error of each slice, simulated heads",
    "registration": "Registration of ultrasound with MR, with and without the synthesis",
}


def check_record(target: Path) -> None:
    """A record to write, checked before any work is done for it. Raises Refused, Failed."""
    from USMRISynthesisLib.io.outputs import check

    if target.suffix.lower() != ".json":
        raise Refused("format", f"A record cannot be written as {target.name}.", "Use a name that ends in .json.")
    check([target], sidecars=False, ours={target: is_record})


def is_record(path: Path) -> bool:
    """Whether a file is a record, which may be replaced by another one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and all(key in content for key in KEYS)


def write_record(target: Path, options: Namespace, arguments: Sequence[str], result: dict[str, Any]) -> None:
    """Write what a command measured, with the command that did. Raises Failed."""
    from USMRISynthesisLib import __version__
    from USMRISynthesisLib.io.outputs import STAGING, place_all, unwritten
    from USMRISynthesisLib.io.strict_json import dumps

    content = {
        "title": TITLES[options.subject],
        "command": " ".join(("usmri", *_without_record(arguments))),
        "date": datetime.date.today().isoformat(),
        "version": __version__,
        "result": result,
    }
    try:
        with tempfile.TemporaryDirectory(prefix=STAGING, dir=target.parent) as folder:
            name = Path(folder) / target.name
            name.write_text(dumps(content, indent=1) + "\n", encoding="utf-8")
            place_all([(name, target)], ours={target: is_record})
    except OSError as error:
        raise unwritten(target.name, error) from error


def _without_record(arguments: Sequence[str]) -> list[str]:
    """The command line without where its files were put, and without how it was reported."""
    kept, skip = [], False
    for one in arguments:
        if skip:
            skip = False
        elif one in _PLACES:
            skip = True
        elif not one.startswith(tuple(f"{place}=" for place in _PLACES)) and one not in (
            "--json",
            "--quiet",
            "--verbose",
        ):
            kept.append(one)
    return kept
