"""The configuration of a simulated data set: which heads, in which splits.  Refused by name and reason.

A split is a rule, `{"cases": 8, "atlases": [...], "views": [...], "anomalies": [...]}` (each list in turn; views
and anomalies may be left out, null is a normal head), or a list, `{"heads": [{"atlas", "seed", "view", "anomaly"}]}`.
Either may hold `"acquisition": {"frequency_mhz": [5, 6]}`: other ranges than `AcquisitionRanges`' own; several pairs,
`[[2, 2.5], [5, 6]]`, are drawn from as one range with a gap.  `"randomised": true` draws anatomy, echogenicities and
boundaries from wider ranges (`scanner/randomised.py`); `"scatter_model": "points"` is the model that nothing is trained
on.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.simulation.anatomy.atlas import week_of
from USMRISynthesisLib.simulation.anatomy.ranges import ANOMALIES
from USMRISynthesisLib.simulation.scanner.volume import USUAL, VIEWS, AcquisitionRanges, Machine

SCATTER_MODELS = ("speckle", "points")
_KEYS = ("splits", "seed", "frames", "frames_a_head")
_MACHINE_KEYS = ("acquisition", "randomised", "scatter_model")
_RULE_KEYS = ("cases", "atlases", "views", "anomalies", *_MACHINE_KEYS)
_HEAD_KEYS = ("atlas", "seed", "view", "anomaly")
_SPLIT_SEEDS = 100_000


@dataclass(frozen=True)
class Head:
    """One case: atlas folder, seed, probe view (None: drawn), anomaly (None: a normal head), ranges of the settings."""

    atlas: str
    seed: int
    view: str | None = None
    anomaly: str | None = None
    ranges: AcquisitionRanges | None = None
    machine: Machine = USUAL


@dataclass(frozen=True)
class DatasetConfig:
    """What `usmri simulate` makes: heads by split, 2D frames with each of them, and whether HC18 is prepared."""

    splits: dict[str, tuple[Head, ...]] = field(default_factory=dict)
    seed: int = 0
    frames: bool = True
    frames_a_head: int = 0

    @classmethod
    def read(cls, path: Path, known: list[str]) -> DatasetConfig:
        """Read a JSON configuration; known: the atlas folders there are.  Raises Refused naming key and reason."""
        try:
            raw: Any = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise Refused("bad-configuration", f"{path.name} is no readable JSON ({error}).", "Correct it.") from error
        return _Reader(path.name, known).configuration(raw)


@dataclass(frozen=True)
class _Reader:
    name: str
    known: list[str]

    def configuration(self, raw: Any) -> DatasetConfig:
        self._keys(raw, _KEYS, "")
        seed = self._whole(raw.get("seed", 0), "seed", 0)
        frames_a_head = self._whole(raw.get("frames_a_head", 0), "frames_a_head", 0)
        frames = raw.get("frames", True)
        if not isinstance(frames, bool):
            raise self._bad("frames", "must be true or false")
        given = raw.get("splits")
        if not isinstance(given, dict) or not given:
            raise self._bad("splits", "is missing")
        splits = {}
        weeks: dict[int, str] = {}
        for index, (split, values) in enumerate(given.items()):
            if not split.replace("-", "").replace("_", "").isalnum():
                raise self._bad(f"splits.{split}", "must be a plain name: it becomes a folder")
            listed = isinstance(values, dict) and "heads" in values
            heads = self._list(values, split) if listed else self._rule(values, split, seed + _SPLIT_SEEDS * index)
            ranges, machine = self._ranges(values.get("acquisition"), split), self._machine(values, split)
            for head in heads:
                week = week_of(head.atlas)
                if weeks.setdefault(week, split) != split:
                    raise self._bad(f"splits.{split}", f"holds week {week}, which is in {weeks[week]} too")
            splits[split] = tuple(replace(head, ranges=ranges, machine=machine) for head in heads)
        return DatasetConfig(splits, seed, frames, frames_a_head)

    def _rule(self, values: Any, split: str, seed: int) -> list[Head]:
        key = f"splits.{split}"
        self._keys(values, _RULE_KEYS, key)
        cases = self._whole(values.get("cases"), f"{key}.cases", 1)
        folders = self._names(values.get("atlases"), f"{key}.atlases", self.known, "atlas folders")
        views = self._names(values.get("views", [None]), f"{key}.views", [None, *VIEWS], "views")
        anomalies = self._names(values.get("anomalies", [None]), f"{key}.anomalies", [None, *ANOMALIES], "anomalies")
        return [
            Head(folders[n % len(folders)], seed + n, views[n % len(views)], anomalies[n % len(anomalies)])
            for n in range(cases)
        ]

    def _list(self, values: Any, split: str) -> list[Head]:
        key = f"splits.{split}.heads"
        self._keys(values, ("heads", *_MACHINE_KEYS), f"splits.{split}")
        rows = values["heads"]
        if not isinstance(rows, list) or not rows:
            raise self._bad(key, "must list at least one head")
        heads = []
        for n, row in enumerate(rows):
            place = f"{key}[{n}]"
            self._keys(row, _HEAD_KEYS, place)
            folder = self._names([row.get("atlas")], f"{place}.atlas", self.known, "atlas folders")[0]
            view = self._names([row.get("view")], f"{place}.view", [None, *VIEWS], "views")[0]
            anomaly = self._names([row.get("anomaly")], f"{place}.anomaly", [None, *ANOMALIES], "anomalies")[0]
            heads.append(Head(folder, self._whole(row.get("seed"), f"{place}.seed", 0), view, anomaly))
        return heads

    def _machine(self, values: dict[str, Any], split: str) -> Machine:
        randomised, scatter = values.get("randomised", False), values.get("scatter_model", SCATTER_MODELS[0])
        if not isinstance(randomised, bool):
            raise self._bad(f"splits.{split}.randomised", "must be true or false")
        if scatter not in SCATTER_MODELS:
            raise self._bad(f"splits.{split}.scatter_model", f"must be one of {', '.join(SCATTER_MODELS)}")
        return Machine(randomised, scatter)

    def _ranges(self, values: Any, split: str) -> AcquisitionRanges | None:
        if values is None:
            return None
        key = f"splits.{split}.acquisition"
        self._keys(values, [item.name for item in fields(AcquisitionRanges) if item.name != "t2_probability"], key)
        changes: dict[str, Any] = {}
        for name, given in values.items():
            several = isinstance(given, list) and bool(given) and all(isinstance(v, list) for v in given)
            ranges = given if several else [given]
            for limits in ranges:
                good = isinstance(limits, list) and len(limits) == 2 and all(type(v) in (int, float) for v in limits)
                if not good or limits[0] > limits[1]:
                    raise self._bad(f"{key}.{name}", "must be two numbers, the lower first, or a list of such pairs")
            changes[name] = tuple(float(value) for limits in ranges for value in limits)
        return replace(AcquisitionRanges(), **changes)

    def _keys(self, raw: Any, allowed: Collection[str], key: str) -> None:
        if not isinstance(raw, dict):
            raise self._bad(key or "the whole", "must be a JSON object")
        for name in sorted(set(raw) - set(allowed)):
            raise self._bad(f"{key}.{name}" if key else name, f"is not a known key ({', '.join(allowed)})")

    def _whole(self, value: Any, key: str, least: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self._bad(key, f"must be a whole number of at least {least}")
        return value

    def _names(self, values: Any, key: str, known: Collection[Any], what: str) -> list[Any]:
        good = isinstance(values, list) and values and all(v is None or isinstance(v, str) for v in values)
        if not good or not set(values) <= set(known):
            raise self._bad(key, f"must name {what} among {', '.join(str(name) for name in known if name)}")
        return list(values)

    def _bad(self, key: str, reason: str) -> Refused:
        return Refused("bad-configuration", f"In {self.name}, {key} {reason}.", "Correct the configuration.")
