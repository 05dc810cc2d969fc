"""The configuration of an alignment run: TOML with `task = "alignment"`, read like that of the synthesis."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from USMRISynthesisLib.alignment.volume.network import STAGES
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.training.alignment.losses import LossWeights
from USMRISynthesisLib.training.common.config import PRECISIONS, build, read_table

TASK = "alignment"
TRAININGS = ("synthesis", TASK, "frames", "spacing", "support")


@dataclass(frozen=True)
class AlignmentDataConfig:
    """Where the data are, relative to the working directory: `folder` holds simulated cases in `train/` and `val/`,
    each of `also` is a folder of more cases to train on."""

    folder: str
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class CycleConfig:
    """How many of each round's steps every stage gets."""

    locate: int = 2
    orient: int = 3
    refine: int = 3

    def stages(self) -> list[str]:
        """One round, the stages spread over it."""
        counts = {name: getattr(self, name) for name in STAGES}
        places = [((i + 0.5) / count, name) for name, count in counts.items() for i in range(count)]
        return [name for _, name in sorted(places)]


@dataclass(frozen=True)
class AlignmentConfig:
    """Everything an alignment run depends on. `output` is the run's folder; `minutes` 0 means no limit.

    batch: cubes a step. strength: of the disturbances of the images, 0 = off. The rate is constant over the first
    half, then falls linearly to 0.
    initial: an exported alignment model's file that a new run starts from; "" = random weights.
    evaluate_minutes: between evaluations; evaluation_poses: random poses for each validation head.
    """

    output: str
    data: AlignmentDataConfig
    task: str = TASK
    steps: int = 100000
    minutes: float = 0.0
    seed: int = 0
    initial: str = ""
    precision: str = "auto"
    threads: int = 2
    batch: int = 16
    rate: float = 2e-3
    ema: float = 0.998
    strength: float = 1.0
    log_every: int = 50
    checkpoint_every: int = 500
    evaluate_minutes: float = 6.0
    evaluation_poses: int = 3
    losses: LossWeights = field(default_factory=LossWeights)
    cycle: CycleConfig = field(default_factory=CycleConfig)

    def __post_init__(self) -> None:
        if self.task != TASK:
            raise ValueError(f"task must be {TASK!r}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}")
        for name in ("steps", "threads", "batch", "log_every", "checkpoint_every", "evaluation_poses", "rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive")
        if not 0 <= self.ema < 1:
            raise ValueError("ema must lie in 0..1")
        if set(self.cycle.stages()) != set(STAGES):
            raise ValueError("cycle must train every stage")

    def to_json(self) -> dict[str, Any]:
        """Nested plain values, as a checkpoint and a manifest keep them."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain


def task_of(path: str | Path) -> str:
    """Which training a file is for, one of `TRAININGS`. Raises Refused for one that cannot be read, or another."""
    task = read_table(path).get("task", "synthesis")
    if task not in TRAININGS:
        raise Refused(
            "configuration", f"Configuration: task {task!r} is not known.", f"Use one of {', '.join(TRAININGS)}."
        )
    return str(task)


def read_alignment_configuration(path: str | Path) -> AlignmentConfig:
    """Read a TOML file. Raises Refused that names the key and the reason."""
    return alignment_configuration_from(read_table(path))


def alignment_configuration_from(table: dict[str, Any]) -> AlignmentConfig:
    config: AlignmentConfig = build(AlignmentConfig, table)
    return config
