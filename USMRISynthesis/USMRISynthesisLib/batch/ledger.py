"""What became of every case: one JSON line a case, appended to a file that belongs to one process alone.

    ledger = Ledger(Path("out"))
    ledger.append({"name": "a/head.nrrd", "state": "done", ...})
    ledger.close()
    rows = fold(Path("out"))           # the newest line of every case, from the files of all processes

Nothing is ever rewritten, so a case costs the same whether it is the first or the ten thousandth, and a process that is
killed in the middle of a line spoils that line and no other. `batch.json`, which earlier versions kept instead, is read
as well. The lines hold the names of image files: keep them only where these may be kept.

Fields of a line: name, input, output, state (done, failed, refused, skipped), kind, message, remedy, seconds, worker,
models, settings, quality, thumbnail, warnings, time. Paths are relative to the output, or to the input's folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import socket
import threading
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from USMRISynthesisLib.io.marks import is_ledger
from USMRISynthesisLib.io.strict_json import dumps

FOLDER = ".usmri"
THUMBNAILS = "thumbnails"
STATUS_FILE = "batch.json"
DONE, FAILED, REFUSED, SKIPPED = "done", "failed", "refused", "skipped"
STATES = (DONE, FAILED, REFUSED, SKIPPED)
FIELDS = ("name", "input", "output", "state", "kind", "message", "remedy", "seconds", "worker", "models", "settings",
          "quality", "thumbnail", "warnings", "time")  # fmt: skip
_EMPTY: dict[str, Any] = {"output": None, "kind": "", "message": "", "remedy": "", "seconds": None, "worker": "",
                          "models": {}, "settings": {}, "quality": {}, "thumbnail": None, "warnings": []}  # fmt: skip
# As an earlier version says it; "waiting", "running" and "cancelled" say nothing that a person has to know.
_EARLIER = {"done": DONE, "kept": DONE, "failed": FAILED, "refused": REFUSED}


class Ledger:
    """The file of one process. Safe for threads."""

    def __init__(self, output: Path) -> None:
        self._folder = output / FOLDER / "ledger"
        self._descriptor: int | None = None
        self._unwritten = b""
        self._lock = threading.Lock()

    def append(self, line: Mapping[str, Any]) -> bool:
        """Add a line, on the disk when this returns; its time is added.

        Where the disk takes nothing, the line waits for the next one, and False is returned: a full disk must not end
        a batch that reports it.
        """
        content = {**_EMPTY, **line, "time": line.get("time") or now()}
        content["input"] = content.get("input") or content["name"]
        with self._lock:
            self._unwritten += dumps({key: content[key] for key in FIELDS}).encode("ascii") + b"\n"
            return self._write()

    def close(self) -> None:
        """Write what still waits, if the disk takes it now."""
        with self._lock:
            self._write()
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                os.close(descriptor)

    def _write(self) -> bool:
        if not self._unwritten:
            return True
        try:
            if self._descriptor is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}.jsonl"
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
                self._descriptor = os.open(self._folder / name, flags, 0o666)
            written = os.write(self._descriptor, self._unwritten)
            if written < len(self._unwritten):  # the half of a line stays there: the whole one follows on its own
                self._unwritten = b"\n" + self._unwritten[self._unwritten.rfind(b"\n", 0, written) + 1 :]
                return False
            self._unwritten = b""
            os.fsync(self._descriptor)
        except OSError:
            return not self._unwritten
        return True


def now() -> str:
    """The time in UTC, to the microsecond: later is greater as text, too."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


def fold(output: Path | str) -> list[dict[str, Any]]:
    """The newest line of every case, by name; `FIELDS` are its keys. Empty where there is no ledger.

    A line that is no JSON, as a killed process leaves one, is left out. "skipped" (its result was there already)
    replaces nothing.
    """
    output = Path(output)
    rows = {row["name"]: row for row in _earlier(output / STATUS_FILE)}
    for line in sorted(_lines(output / FOLDER / "ledger"), key=lambda line: str(line["time"])):
        if line["state"] != SKIPPED or line["name"] not in rows:
            rows[line["name"]] = line
    return [rows[name] for name in sorted(rows)]


def thumbnail_of(output: Path, name: str) -> Path:
    """Where the picture of a case lies."""
    plain = "".join(sign if sign.isalnum() or sign in "-_." else "_" for sign in name)
    key = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]  # "a/b" and "a_b" are two cases
    return output / FOLDER / THUMBNAILS / f"{plain[-180:]}-{key}.png"


def _lines(folder: Path) -> list[dict[str, Any]]:
    found = []
    for file in sorted(folder.glob("*.jsonl")):
        try:
            text = file.read_bytes()
        except OSError:
            continue
        for one in text.splitlines():
            try:
                line = json.loads(one)
            except ValueError:
                continue
            if isinstance(line, dict) and isinstance(line.get("name"), str) and line.get("state") in STATES:
                found.append({"input": line["name"], "time": "", **_EMPTY, **line})
    return found


def _earlier(file: Path) -> list[dict[str, Any]]:
    """The cases of a `batch.json`."""
    if not is_ledger(file):
        return []
    content = json.loads(file.read_text(encoding="utf-8"))
    time = datetime.fromtimestamp(file.stat().st_mtime, timezone.utc).isoformat(timespec="microseconds")
    rows = []
    for name, case in content["cases"].items():
        state = _EARLIER.get(str(case.get("status"))) if isinstance(case, dict) else None
        if state is None:
            continue
        kept = {key: case[key] for key in ("output", "kind", "message", "remedy", "seconds", "warnings") if key in case}
        score = {"score": case["score"]} if "score" in case else {}
        settings = content.get("settings") or {}
        row = {"name": name, "input": name, "state": state, **_EMPTY, **kept}
        rows.append({**row, "settings": settings, "quality": score, "time": time})
    return rows
