"""The configuration of an alignment run: TOML with `task = "alignment"`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from USMRISynthesisLib.alignment.volume.network import STAGES
from USMRISynthesisLib.training.alignment.losses import LossWeights
from USMRISynthesisLib.training.common.config import RunConfig, require


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


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig(RunConfig):
    """Everything an alignment run depends on.

    batch: cubes a step. strength: of the disturbances of the images, 0 = off. rate: of learning, constant over the
    first half, then falling linearly to 0.
    initial: an exported alignment model's file that a new run starts from; "" = random weights.
    evaluate_minutes: between evaluations; evaluation_poses: random poses for each validation head.
    """

    TASK: ClassVar[str] = "alignment"
    task: str = TASK
    data: AlignmentDataConfig
    steps: int = 100000
    initial: str = ""
    threads: int = 2
    batch: int = 16
    rate: float = 2e-3
    strength: float = 1.0
    evaluate_minutes: float = 6.0
    evaluation_poses: int = 3
    losses: LossWeights = field(default_factory=LossWeights)
    cycle: CycleConfig = field(default_factory=CycleConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("batch", "evaluation_poses", "rate")
        require(set(self.cycle.stages()) == set(STAGES), "cycle must train every stage")
