"""What a benchmark measured, as a record for `make results`: the same form as `usmri evaluate --record` writes."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from USMRISynthesisLib import __version__


def write(target: str, title: str, command: str, figures: Mapping[str, Any]) -> None:
    """Write or replace a record; command: without where the record goes."""
    record = {
        "title": title,
        "command": command,
        "date": datetime.date.today().isoformat(),
        "version": __version__,
        "result": {key: round(value, 4) if isinstance(value, float) else value for key, value in figures.items()},
    }
    Path(target).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
