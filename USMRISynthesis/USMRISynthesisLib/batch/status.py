"""The ledger as a table: for a terminal, and as CSV for a spreadsheet."""

from __future__ import annotations

import csv
import io
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from USMRISynthesisLib.batch.ledger import STATES
from USMRISynthesisLib.io.outputs import STAGING, check, place_all, unwritten

COLUMNS = ("name", "state", "seconds", "output", "message", "remedy", "worker", "time", "model", "thumbnail")
_SHOWN = 200  # rows on a terminal; the CSV has all
_WIDEST = 48


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """One sentence: "12 cases: 9 done, 3 failed." """
    counts = Counter(str(row["state"]) for row in rows)
    parts = [f"{counts[state]} {state}" for state in STATES if counts[state]]
    cases = f"{len(rows)} case{'s' if len(rows) != 1 else ''}"
    return f"{cases}: {', '.join(parts)}." if parts else "No case has ended yet."


def as_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Columns: what is not done first, each with its reason and remedy; then the summary."""
    first = sorted(rows, key=lambda row: (row["state"] == "done", str(row["state"]), str(row["name"])))
    width = min(_WIDEST, max((len(str(row["name"])) for row in rows), default=0))
    lines = []
    for row in first[:_SHOWN]:
        seconds = f"{row['seconds']:.1f} s" if isinstance(row["seconds"], (int, float)) else ""
        name = str(row["name"])
        shown = name if len(name) <= width else f"...{name[3 - width :]}"
        text = " ".join(str(row[key]) for key in ("message", "remedy") if row[key]) or " ".join(row["warnings"])
        lines.append(f"{shown:<{width}}  {row['state']:<8}{seconds:>9}  {text}".rstrip())
    if len(first) > _SHOWN:
        lines.append(f"... and {len(first) - _SHOWN} more; --csv FILE has all.")
    return "\n".join([*lines, summary(rows)])


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line a case, with a column for every quality figure that some case has."""
    figures = sorted({key for row in rows for key in row["quality"]})
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow([*COLUMNS, *figures])
    for row in rows:
        plain = {**row, "model": row["models"].get("name", "")}
        cells = [plain.get(key) for key in COLUMNS] + [row["quality"].get(key) for key in figures]
        writer.writerow(["" if cell is None else _harmless(cell) for cell in cells])
    return file.getvalue()


def write_csv(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Write the CSV. A table that is there already is replaced where it is one of ours. Raises Refused, Failed."""
    check([file], sidecars=False, ours={file: _is_ours})
    try:
        with tempfile.TemporaryDirectory(prefix=STAGING, dir=file.parent) as folder:
            name = Path(folder) / file.name
            name.write_text(as_csv(rows), encoding="utf-8", newline="")
            place_all([(name, file)], ours={file: _is_ours})
    except OSError as error:
        raise unwritten(file.name, error) from error


def _is_ours(path: Path) -> bool:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.readline().startswith(",".join(COLUMNS))


def _harmless(cell: Any) -> Any:
    """A text that a spreadsheet would take for a formula gets a quote."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@") else cell
