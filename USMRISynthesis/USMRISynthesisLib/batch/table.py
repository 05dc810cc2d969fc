"""A table that lists the images of a cohort: CSV (comma or semicolon) or TSV, a line an image.

Columns, in any order and with any others among them: `path` (of a file or a DICOM folder, relative to the table),
and where they are known `subject`, `session`, `gestational_age` (weeks) and `transform` (an ITK transform to canonical
space, relative to the table). Empty and "n/a" are the same.
"""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path, PurePosixPath

from USMRISynthesisLib.batch.cases import Item
from USMRISynthesisLib.errors import Refused

TABLES = (".csv", ".tsv")
_EMPTY = ("", "n/a", "na", "nan")
_LARGEST = 1 << 27


def table_rows(table: Path) -> list[Item]:
    """An item a row; a row that cannot be used has a `problem`. Raises Refused where the table cannot be read."""
    items = []
    for number, row in enumerate(_read(table), 2):
        path = row.get("path", "")
        if not any(row.values()):
            continue
        if not path:
            pathless = Refused("table", f"Line {number} of {table.name} has no path.", "Fill in its column path.")
            items.append(Item(Path(f"line-{number}"), table, problem=pathless))
            continue
        source = table.parent / path
        age, problem = _age(row.get("gestational_age", ""), number, table.name)
        transform = row.get("transform", "")
        items.append(
            Item(
                _inside(path),
                source,
                subject=row.get("subject", ""),
                session=row.get("session", ""),
                gestational_age=age,
                transform=table.parent / transform if transform else None,
                problem=problem,
            )
        )
    return items


def read_table(table: Path) -> list[dict[str, str]]:
    """The rows of a table, as `table_rows` takes them, whatever its columns; empty where it cannot be read."""
    try:
        return _rows(table)
    except Refused:
        return []


def _read(table: Path) -> list[dict[str, str]]:
    rows = _rows(table)
    if rows and "path" not in rows[0]:
        raise Refused(
            "table",
            f"{table.name} has no column path.",
            "Its first line names the columns: path, and where known subject, session, gestational_age, transform.",
        )
    return rows


def _rows(table: Path) -> list[dict[str, str]]:
    """Rows by column name in small letters; what stands for an empty cell is empty."""
    try:
        if table.stat().st_size > _LARGEST:
            raise Refused("table", f"{table.name} is too large for a table.", "Split it.")
        text = table.read_bytes().decode("utf-8-sig")
        first = text.splitlines()[0] if text.strip() else ""
        sign = "\t" if table.name.lower().endswith(".tsv") else ";" if first.count(";") > first.count(",") else ","
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=sign))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Refused(
            "table", f"{table.name} could not be read as a table.", "Save it as CSV or TSV, in UTF-8."
        ) from error
    if not lines:
        return []
    names = [name.strip().lower().replace(" ", "_") for name in lines[0]]
    rows = []
    for line in lines[1:]:
        cells = [cell.strip() for cell in line[: len(names)]] + [""] * (len(names) - len(line))
        values = ["" if cell.lower() in _EMPTY else cell for cell in cells]
        rows.append(dict(zip(names, values, strict=True)))
    return rows


def _age(text: str, number: int, name: str) -> tuple[float | None, Refused | None]:
    if not text:
        return None, None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isfinite(value):
        return value, None
    return None, Refused(
        "table", f"Line {number} of {name} has a gestational age that is no number.", "Give it in weeks, as 24.5."
    )


def _inside(path: str) -> Path:
    """A row's name: its path without what leads out of a folder."""
    parts = [part for part in PurePosixPath(path.replace("\\", "/")).parts if part not in ("/", ".", "..")]
    plain = parts if not Path(path).is_absolute() else parts[-1:]
    return Path(*[part.replace(":", "_") for part in plain]) if plain else Path("image")
