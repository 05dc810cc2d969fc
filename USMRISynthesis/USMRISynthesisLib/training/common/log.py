"""What a run writes of itself: CSV files with one row a line, and progress lines."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path


class Log:
    """A CSV file with one row a line; on resume the rows after the checkpoint's step are dropped."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.reader(file) if row]
            kept = rows[:1] + [row for row in rows[1:] if int(row[0]) <= step]
            if step == 0:
                kept = []
            with path.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows(kept)

    def write(self, row: Mapping[str, float | int]) -> None:
        """Append a row whose first key is "step"; the first row ever writes the header."""
        new = not self.path.is_file() or self.path.stat().st_size == 0
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(row)
            writer.writerow(f"{v:.6g}" if isinstance(v, float) else v for v in row.values())


def progress_line(step: int, steps: int, seconds_a_step: float, left_s: float, terms: Mapping[str, float]) -> str:
    """For example: step 1200/20000, 0.21 s a step, 1 h 05 min left: lat 0.120, supervised 0.083."""
    minutes = round(left_s / 60)
    left = f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
    values = ", ".join(f"{name} {value:.3f}" for name, value in terms.items())
    return f"step {step}/{steps}, {seconds_a_step:.3f} s a step, {left} left: {values}"
