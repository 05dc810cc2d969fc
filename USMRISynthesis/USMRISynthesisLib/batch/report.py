"""A table of many results as one web page: sorted, filtered and printed in any browser, without a network.

    write_report(rows, Path("out"), Path("out/report.html"))

A row is what a ledger says of a case. The page shows the case's name and what became of it; paths and all other keys
stay out. Names and sentences reach the page as data, never as markup.
"""

from __future__ import annotations

import datetime
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from USMRISynthesisLib import __version__
from USMRISynthesisLib.batch.report_page import PAGE, SCRIPT, STYLE
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.outputs import STAGING, check, place_all, unwritten
from USMRISynthesisLib.io.png import SIGNATURE
from USMRISynthesisLib.io.synthetic import MADE_BY, SYNTHETIC
from USMRISynthesisLib.io.web_page import as_data, filled, held_text, source_hash

# Key of a row, or of its quality, and the heading; figures are sorted as numbers.
COLUMNS: tuple[tuple[str, str, bool], ...] = (
    ("name", "Case", False),
    ("state", "State", False),
    ("note", "Messages and warnings", False),
    ("score", "Alignment score", True),
    ("answer", "Frame shows", False),
    ("brain", "Probability of a brain", True),
    ("reliability_mean", "Reliability, mean", True),
    ("reliability_p10", "Reliability, 10th percentile", True),
    ("roughness", "Roughness", True),
    ("expected_error", "Expected error", True),
    ("seconds", "Seconds", True),
)
# Bytes of thumbnails inside the page; with more a browser takes too long to open it. The others are linked.
EMBEDDED_BYTES = 32_000_000
_LARGEST_THUMBNAIL = 1_000_000
_MARK = f'<meta name="generator" content="{MADE_BY}">'
_BEGINNING = 4096


def write_report(
    rows: Sequence[Mapping[str, Any]], folder: Path, path: Path, *, embedded_bytes: int = EMBEDDED_BYTES
) -> None:
    """Write the page, all or nothing.

    Args:
        rows: a case each: name, state (done, failed, refused, skipped, ...), message, remedy, seconds, quality (as
            `quality.measure` gives it, or None), warnings (a sentence or several, where quality has none), thumbnail
            (path of a PNG, relative to `folder`). Any may be missing.
        folder: of the results.
        path: of the page; its name ends in .html.
        embedded_bytes: of thumbnails inside the page, those of cases that need attention first.

    Raises:
        Refused: another ending, or a file is in the way that is no such report. Failed: it cannot be written.
    """
    check_report(path)
    try:
        with tempfile.TemporaryDirectory(prefix=STAGING, dir=path.parent) as working:
            name = Path(working) / path.name
            with open(name, "w", encoding="utf-8", newline="\n") as file:
                file.writelines(page_parts(rows, folder, path.parent, embedded_bytes=embedded_bytes))
            place_all([(name, path)], ours={path: is_report})
    except OSError as error:
        raise unwritten(path.name, error) from error


def check_report(path: Path, *, output: Path | None = None) -> None:
    """See, before any work, that a report may be written. output: the folder of results, which the work makes.

    Raises Refused, Failed.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise Refused("format", f"A report cannot be written as {path.name}.", "Use a name that ends in .html.")
    if output is None or output.exists() or path.resolve().parent != output.resolve():
        check([path], sidecars=False, ours={path: is_report})


def is_report(path: Path) -> bool:
    """Whether a file is such a page, which another one may replace."""
    try:
        with open(path, "rb") as file:
            return _MARK.encode() in file.read(_BEGINNING)
    except OSError:
        return False


def page_parts(
    rows: Sequence[Mapping[str, Any]], folder: Path, beside: Path, *, embedded_bytes: int = EMBEDDED_BYTES
) -> Iterator[str]:
    """The page's text in pieces; `beside` is the folder that it will lie in."""
    shown = [_shown(row) for row in rows]
    thumbnails = {
        number: file
        for number, row in enumerate(rows)
        if (file := _thumbnail(row.get("thumbnail"), folder)) is not None
    }
    inside = _embedded(shown, thumbnails, embedded_bytes)
    linked = 0
    for number, file in thumbnails.items():
        if number in inside:
            shown[number]["picture"] = f"#{number}"
        elif (link := _link(file, beside)) is not None:
            shown[number]["picture"], linked = link, linked + 1
    data = {"columns": COLUMNS, "rows": shown, "linked": linked}
    values = {
        "MARK": _MARK,
        "NOTICE": SYNTHETIC,
        "MADE": f"{MADE_BY} {__version__}, {datetime.date.today().isoformat()}",
        "STYLE_HASH": source_hash(STYLE),
        "SCRIPT_HASH": source_hash(SCRIPT),
        "STYLE": STYLE,
        "SCRIPT": SCRIPT,
        "DATA": as_data(data),
    }
    before, after = PAGE.split("@THUMBNAILS@")
    yield filled(before, values)
    for number in sorted(inside):
        try:
            content = thumbnails[number].read_bytes()
        except OSError:  # gone since it was found: the page shows none
            continue
        yield held_text(f"t{number}", content)
    yield filled(after, values)


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """The values of one row by column; an empty one is left out."""
    quality = row.get("quality")
    values = {**(quality if isinstance(quality, Mapping) else {}), **{k: row.get(k) for k in ("name", "seconds")}}
    warnings = values.get("warnings") or row.get("warnings") or ""
    warnings = warnings if isinstance(warnings, str) else " ".join(map(str, warnings))
    complaint = " ".join(str(row[key]) for key in ("message", "remedy") if row.get(key))
    values |= {"state": str(row.get("state") or "unknown"), "note": " ".join(filter(None, (complaint, warnings)))}
    found: dict[str, Any] = {}
    for key, _, is_number in COLUMNS:
        value = values.get(key)
        if is_number:
            if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
                found[key] = value
        elif value is not None and value != "":
            found[key] = str(value)
    return found | ({"warned": True} if warnings else {})


def _thumbnail(name: object, folder: Path) -> Path | None:
    """The file of a thumbnail inside a folder; None for anything else."""
    if not isinstance(name, str) or not name or ".." in PurePosixPath(name).parts or Path(name).is_absolute():
        return None
    path = folder / name
    try:
        if path.stat().st_size > _LARGEST_THUMBNAIL:
            return None
        with open(path, "rb") as file:
            return path if file.read(len(SIGNATURE)) == SIGNATURE else None
    except (OSError, ValueError):
        return None


def _embedded(rows: Sequence[Mapping[str, Any]], thumbnails: Mapping[int, Path], budget: int) -> set[int]:
    """Which thumbnails are put into the page: those with warnings first, then those of low scores."""
    wanted = sorted(thumbnails, key=lambda n: (not rows[n].get("warned"), rows[n].get("score", 0.0), n))
    inside: set[int] = set()
    for number in wanted:
        budget -= thumbnails[number].stat().st_size
        if budget < 0:
            break
        inside.add(number)
    return inside


def _link(file: Path, beside: Path) -> str | None:
    """The way from the page to a file in its folder or below it; None for any other place, which a copy would lose."""
    try:
        return quote(file.resolve().relative_to(beside.resolve()).as_posix())
    except ValueError:
        return None
