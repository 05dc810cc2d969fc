"""The configuration of a support map's run: TOML with `task = "support"`, read like those of the other trainings."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from USMRISynthesisLib.training.common.config import PRECISIONS, build, read_table

TASK = "support"


@dataclass(frozen=True)
class SupportConfig:
    """Everything such a run depends on. `output` is the run's folder; `minutes` 0 means no limit.

    model: the generator's model, by name or folder. folder: simulated cases; learn: the splits to learn from, which may
    hold heads that the generator was trained on (its errors there are smaller); calibrate: the splits whose heads it
    never saw, on which the probabilities are calibrated at the end. also, also_calibrate: further folders of heads for
    either. axial: further ones, judged in axial slices alone, in a third of the time. size: weight of the error's size
    beside the cross-entropy. decay: of the weights, as AdamW's. dropout: share of every level's channels left out.
    """

    output: str
    folder: str
    model: str = "default"
    task: str = TASK
    learn: tuple[str, ...] = ("train", "mr")
    calibrate: tuple[str, ...] = ("mr",)
    also: tuple[str, ...] = ()
    also_calibrate: tuple[str, ...] = ()
    axial: tuple[str, ...] = ()
    size: float = 0.3
    steps: int = 4000
    minutes: float = 0.0
    seed: int = 0
    precision: str = "auto"
    threads: int = 1
    batch: int = 16
    rate: float = 1e-3
    decay: float = 0.03
    dropout: float = 0.0
    ema: float = 0.995
    log_every: int = 50
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        if self.task != TASK:
            raise ValueError(f"task must be {TASK!r}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}")
        if not self.learn or not self.calibrate:
            raise ValueError("learn and calibrate must name a split")
        for name in ("steps", "threads", "batch", "rate", "log_every", "checkpoint_every"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive")
        if self.minutes < 0 or self.size < 0 or not 0 <= self.ema < 1 or not 0 <= self.dropout < 1:
            raise ValueError("minutes and size must be 0 or more, and ema and dropout lie in 0..1")

    def to_json(self) -> dict[str, Any]:
        """Nested plain values, as a checkpoint and a manifest keep them."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain


def read_support_configuration(path: str | Path) -> SupportConfig:
    """Read a TOML file. Raises Refused that names the key and the reason."""
    return support_configuration_from(read_table(path))


def support_configuration_from(table: dict[str, Any]) -> SupportConfig:
    config: SupportConfig = build(SupportConfig, table)
    return config
