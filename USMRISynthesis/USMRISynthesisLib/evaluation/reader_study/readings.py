"""Readers' files and the key of their study, checked field by field: one bad file must not spoil a study's figures."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.evaluation.reader_study.form import FORMAT, GROUP_OF, KEY_FORMAT, SCORES, TEST, VERSION

_LARGEST = 1 << 26
_EXPORT = "Give the files that the study's page saved, as they are."
_KEY = "Give the key that was written beside the study's page, with --key."


@dataclass(frozen=True)
class Key:
    """Which image is which: item -> (method, case). size: of the images, (width, height) in pixels."""

    study: str
    title: str
    size: tuple[int, int]
    items: Mapping[str, tuple[str, str]]


@dataclass(frozen=True)
class Rating:
    """One answer. marks: (x, y) in image pixels. position: when it came, from 0. seconds: that it took."""

    item: str
    score: int
    marks: tuple[tuple[float, float], ...]
    position: int
    seconds: float


@dataclass(frozen=True)
class Reading:
    """One reader's answers, in the order in which the images came."""

    reader: str
    kind: str
    years: float
    complete: bool
    ratings: tuple[Rating, ...]


def read_key(path: Path) -> Key:
    """The key of a study. Raises Refused."""
    content = _json(path, _KEY)
    if content.get("format") != KEY_FORMAT or content.get("version") != VERSION:
        raise Refused("key", f"{path.name} is no key of a reader study.", _KEY)
    try:
        items = {str(name): (str(one["method"]), str(one["case"])) for name, one in content["items"].items()}
        width, height = (int(one) for one in content["image_size"])
        return Key(str(content["study"]), str(content["title"]), (width, height), items)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Refused("key", f"The key {path.name} is damaged.", _KEY) from error


def read_readings(paths: Sequence[Path], key: Key) -> list[Reading]:
    """All readers' answers.

    Raises Refused: a file is none, is damaged or of another study, a reader comes twice, or answers of people who only
    tested the page are mixed with readers'.
    """
    found: dict[str, tuple[Path, Reading]] = {}
    for path in paths:
        reading = read_reading(path, key)
        if reading.reader in found:
            other = found[reading.reader][0]
            raise Refused(
                "twice", f"{path.name} and {other.name} are of the same reader.", "Give each reader's last file only."
            )
        found[reading.reader] = path, reading
    readings = [one for _, one in found.values()]
    tests = [path.name for path, one in found.values() if one.kind == TEST]
    if tests and len(tests) < len(readings):
        raise Refused("test", f"{tests[0]} comes from somebody who only tested the page.", "Leave it out.")
    return readings


def read_reading(path: Path, key: Key) -> Reading:
    """One reader's answers. Raises Refused."""
    content = _json(path, _EXPORT)
    if content.get("format") != FORMAT or content.get("version") != VERSION:
        raise Refused("reading", f"{path.name} is no reading of a study.", _EXPORT)
    if content.get("study") != key.study:
        raise Refused(
            "study", f"{path.name} is of another study than the key.", "Score each study's files with its own key."
        )
    if isinstance(content.get("readings"), dict):
        raise Refused(
            "progress",
            f"{path.name} is saved progress, not a finished reading.",
            "Load it in the study's page, finish, and save the reading.",
        )
    reader = content.get("reader")
    if not isinstance(reader, dict) or content.get("consent") is not True:
        raise _damaged(path, "the reader's consent, profession and years")
    kind, years, name = reader.get("kind"), reader.get("years"), reader.get("id")
    if kind not in GROUP_OF or not _is_number(years, 0, 70) or not isinstance(name, str) or not name:
        raise _damaged(path, "the reader's consent, profession and years")
    ratings = content.get("readings")
    if not isinstance(ratings, list) or not ratings:
        raise _damaged(path, "any rating")
    rated = tuple(sorted((_rating(path, one, key) for one in ratings), key=lambda one: one.position))
    if len({one.item for one in rated}) < len(rated) or len({one.position for one in rated}) < len(rated):
        raise Refused("reading", f"{path.name} rates an image twice under one name.", _EXPORT)
    return Reading(name, kind, float(years), len(rated) == len(key.items), rated)


def _rating(path: Path, value: Any, key: Key) -> Rating:
    if not isinstance(value, dict) or value.get("item") not in key.items:
        raise Refused("reading", f"{path.name} rates an image that is not in the study.", _EXPORT)
    score, position, marks = value.get("score"), value.get("position"), value.get("marks")
    if score not in SCORES or isinstance(score, (bool, float)):
        raise Refused("reading", f"{path.name} has a rating that is not from {SCORES[0]} to {SCORES[-1]}.", _EXPORT)
    if not isinstance(position, int) or isinstance(position, bool) or not 0 <= position < len(key.items):
        raise _damaged(path, "the order of the images")
    width, height = key.size
    if not isinstance(marks, list) or not all(
        isinstance(one, dict) and _is_number(one.get("x"), 0, width) and _is_number(one.get("y"), 0, height)
        for one in marks
    ):
        raise Refused("reading", f"{path.name} has marks that lie in no image.", _EXPORT)
    seconds = value.get("seconds")
    if not _is_number(seconds, 0, math.inf):
        raise _damaged(path, "how long the ratings took")
    return Rating(value["item"], score, tuple((float(m["x"]), float(m["y"])) for m in marks), position, float(seconds))


def _damaged(path: Path, what: str) -> Refused:
    return Refused("reading", f"{path.name} is damaged: it lacks {what}.", _EXPORT)


def _is_number(value: Any, low: float, high: float) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _json(path: Path, remedy: str) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST:
            raise Refused("size", f"{path.name} is too large for this.", remedy)
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Refused("missing", f"{path.name} cannot be read: {error.strerror or 'unknown'}.", remedy) from error
    except (ValueError, RecursionError) as error:
        raise Refused("reading", f"{path.name} is not JSON.", remedy) from error
    if not isinstance(content, dict):
        raise Refused("reading", f"{path.name} holds no object.", remedy)
    return content
