"""A run's configuration: a TOML file read into dataclasses, checked key by key, and what every run has in it."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.models import schema

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PRECISIONS = ("auto", "fp32", "bf16")
MAY_CHANGE_ON_RESUME = ("steps", "minutes", "output")
Config = TypeVar("Config", bound="RunConfig")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every run depends on; the training of each task adds its own settings.

    task: which training it is. output: the run's folder. minutes: time limit, 0 for none. precision: "auto" takes bf16
    where the machine computes in it natively. ema: decay of the networks' moving average. log_every, checkpoint_every:
    in steps.
    """

    output: str
    task: str
    steps: int
    minutes: float = 0.0
    seed: int = 0
    precision: str = "auto"
    threads: int = 1
    ema: float = 0.998
    log_every: int = 50
    checkpoint_every: int = 500

    TASK: ClassVar[str]

    def __post_init__(self) -> None:
        require(self.task == self.TASK, f"task must be {self.TASK!r}")
        require(self.precision in PRECISIONS, f"precision must be one of {', '.join(PRECISIONS)}")
        require(0 <= self.ema < 1, "ema must lie in 0..1")
        self.require_positive("steps", "threads", "log_every", "checkpoint_every")
        require(min(self.minutes, self.seed) >= 0, "minutes and seed must be 0 or more")

    def require_positive(self, *names: str) -> None:
        """Raise ValueError that names the first of these settings that is 0 or less."""
        for name in names:
            require(getattr(self, name) > 0, f"{name} must be positive")

    def to_json(self) -> dict[str, Any]:
        """Nested plain values, as a checkpoint and a manifest keep them."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain

    @classmethod
    def from_json(cls: type[Config], table: dict[str, Any]) -> Config:
        """Build it from nested plain values. Raises Refused that names the key and the reason."""
        config: Config = build(cls, table)
        return config

    @classmethod
    def read(cls: type[Config], path: str | Path) -> Config:
        """Read a TOML file. Raises Refused that names the key and the reason."""
        return cls.from_json(read_table(path))


def require(condition: bool, reason: str) -> None:
    """Raise ValueError with the reason unless the condition holds."""
    if not condition:
        raise ValueError(reason)


def task_of(table: dict[str, Any], tasks: Sequence[str]) -> str:
    """Which of the trainings a table is for; the first one where it names none. Raises Refused for another."""
    task = table.get("task", tasks[0])
    if task not in tasks:
        raise Refused("configuration", f"Configuration: task {task!r} is not known.", f"Use one of {', '.join(tasks)}.")
    return str(task)


def read_table(path: str | Path) -> dict[str, Any]:
    """A TOML file's nested plain values. Raises Refused."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise Refused(
            "configuration", f"The configuration cannot be read ({error.strerror}).", "Check the path."
        ) from error
    except ValueError as error:
        raise Refused("configuration", f"The configuration is not TOML: {error}.", "Mend it.") from error


def build(kind: Any, table: dict[str, Any]) -> Any:
    """A configuration dataclass of any kind from nested plain values; keys and types are checked alike."""
    return schema.build(kind, table, _refused)


def changed_keys(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Dotted names of the keys that differ, without those that may change when a run is resumed."""
    old, new = _flat(before), _flat(now)
    return sorted(
        key for key in old.keys() | new.keys() if old.get(key) != new.get(key) and key not in MAY_CHANGE_ON_RESUME
    )


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return flat


def _refused(name: str, reason: str, remedy: str) -> Refused:
    return Refused("configuration", f"Configuration: {name or 'the run'} {reason}.", remedy)
