"""The configuration of the training of the head outline in 2D: TOML with `task = "frames"`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from USMRISynthesisLib.training.common.config import RunConfig
from USMRISynthesisLib.training.outline.losses import OutlineLossWeights


@dataclass(frozen=True)
class OutlineDataConfig:
    """Where the data are, relative to the working directory: `real` holds hc18/, `simulated` cases in `train/`; `also`:
    further folders of the latter kind.
    """

    real: str
    simulated: str
    also: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class OutlineConfig(RunConfig):
    """Everything a run depends on.

    real, simulated: frames of each kind a step, for the outline; faces: those for the face's end. strength: of
    the disturbances of the images, 0 = off. rate: of learning, constant over the first third, then falling linearly to
    0. decay: of the weights, a step's share of the rate. evaluate_minutes: between evaluations.
    """

    TASK: ClassVar[str] = "frames"
    task: str = TASK
    data: OutlineDataConfig
    steps: int = 100000
    real: int = 13
    simulated: int = 3
    faces: int = 24
    rate: float = 2e-3
    decay: float = 1e-2
    strength: float = 1.0
    log_every: int = 100
    evaluate_minutes: float = 6.0
    losses: OutlineLossWeights = field(default_factory=OutlineLossWeights)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("real", "simulated", "faces", "rate")
