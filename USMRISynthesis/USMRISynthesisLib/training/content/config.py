"""The configuration of the training of the frame content network: TOML with `task = "content"`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from USMRISynthesisLib.datasets.frame_content import SOURCES
from USMRISynthesisLib.training.common.config import RunConfig, require


@dataclass(frozen=True, kw_only=True)
class ContentTrainingConfig(RunConfig):
    """Everything a run depends on.

    data: the folder that holds fetal-planes/, hc18/ and not-brain/. held_back: sources that are not trained on at all,
    to see how the network does on a source that it has never met. batch: frames a step. rate: of learning, constant
    over the first third, then falling linearly to 0. decay: of the weights, a step's share of the rate. smoothing:
    of the answers: 0 and 1 become so much more and less. strength: of the disturbances, 0 = off.
    """

    TASK: ClassVar[str] = "content"
    task: str = TASK
    data: str
    steps: int = 9000
    held_back: tuple[str, ...] = ()
    batch: int = 40
    rate: float = 2e-3
    decay: float = 5e-2
    smoothing: float = 0.02
    strength: float = 0.85
    evaluate_minutes: float = 6.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("batch", "rate")
        require(set(self.held_back) <= set(SOURCES), f"held_back must name some of {', '.join(SOURCES)}")
