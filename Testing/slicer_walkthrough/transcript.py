"""The transcript of a walkthrough, without times, paths and addresses, so that two machines can be compared."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PASSED, FAILED, NOT_TRIED = "passed", "failed", "not tried"
_PLAIN = (
    (r"0x[0-9a-fA-F]+", "<address>"),
    (r"\b\d+(\.\d+)? (s|min)\b", "N s"),
    (r"file://\S+", "<path>"),
    (r"(?<![\w<>])(?:[A-Za-z]:)?(?:[\\/][\w.+ -]+){2,}[\\/]?", "<path>"),
)


class NotTried(Exception):
    """A step needs something that is not installed; the text names it."""


class Transcript:
    """Steps in their order. `events` collects what happens meanwhile; each step takes what came during it."""

    def __init__(self, application: dict[str, Any]) -> None:
        self.application = application  # versions and the like, which are not compared
        self.steps: list[dict[str, Any]] = []
        self.events: list[str] = []

    @contextmanager
    def step(self, name: str) -> Iterator[dict[str, Any]]:
        """The state that the step writes is kept; an exception makes it failed, and the next step is tried."""
        state: dict[str, Any] = {}
        self.events.clear()
        outcome, reason = PASSED, ""
        try:
            yield state
        except NotTried as missing:
            outcome, reason = NOT_TRIED, str(missing)
        except Exception as error:  # whatever it is: it is what the transcript is for
            outcome, reason = FAILED, f"{type(error).__name__}: {error}"
        entry = {"step": name, "outcome": outcome, "reason": reason, "state": state, "events": list(self.events)}
        self.steps.append(plain(entry))
        print(f"{outcome:9} {name} {reason}".rstrip(), flush=True)

    @property
    def failed(self) -> list[str]:
        return [one["step"] for one in self.steps if one["outcome"] == FAILED]

    def write(self, path: Path) -> None:
        content = {"application": self.application, "steps": self.steps}
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def plain(value: Any) -> Any:
    """The same without what differs between two runs: times, paths, addresses, digits beyond the fourth."""
    if isinstance(value, str):
        for pattern, word in _PLAIN:
            value = re.sub(pattern, word, value)
        return value
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value


def differences(one: dict[str, Any], other: dict[str, Any]) -> tuple[list[str], list[str]]:
    """(what differs, which steps were not tried on a side) in sentences, by the names of the steps."""
    steps = [{step["step"]: step for step in transcript["steps"]} for transcript in (one, other)]
    found, untried = [], []
    for name in dict.fromkeys([*steps[0], *steps[1]]):
        pair = [side.get(name) for side in steps]
        if None in pair:
            found.append(f"{name}: only in the {'second' if pair[0] is None else 'first'}")
            continue
        skipped = [step["reason"] for step in pair if step and step["outcome"] == NOT_TRIED]
        if skipped:
            untried.append(f"{name}: not tried ({skipped[0]})")
            continue
        for key in ("outcome", "reason", "state", "events"):
            found += [f"{name}: {line}" for line in _unlike(key, pair[0][key], pair[1][key])]  # type: ignore[index]
    return found, untried


def _unlike(path: str, one: Any, other: Any) -> list[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        return [
            line
            for key in dict.fromkeys([*one, *other])
            for line in _unlike(f"{path}.{key}", one.get(key), other.get(key))
        ]
    return [] if one == other else [f"{path} is {one!r} and {other!r}"]
