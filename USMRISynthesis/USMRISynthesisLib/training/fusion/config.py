"""The configuration of a fusion's run: TOML with `task = "fusion"`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from USMRISynthesisLib.synthesis.fusion import REACH, WIDTH
from USMRISynthesisLib.training.common.config import RunConfig, require


@dataclass(frozen=True, kw_only=True)
class FusionConfig(RunConfig):
    """Everything such a run depends on.

    model: the generator's model, by name or folder. learn: folders of simulated heads to learn from, which may hold
    heads that the generator was trained on. hold_out: folders of heads that neither saw, to measure on. most: of each
    folder's heads, 0 for all. size: of a block, voxels. edge: weight of the gradients' difference beside the grey's.
    """

    TASK: ClassVar[str] = "fusion"
    task: str = TASK
    learn: tuple[str, ...]
    hold_out: tuple[str, ...]
    most: int = 0
    model: str = "default"
    width: int = WIDTH
    steps: int = 3000
    batch: int = 4
    size: int = 32
    rate: float = 3e-3
    decay: float = 1e-4
    edge: float = 1.0
    ema: float = 0.99
    evaluate_every: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("batch", "rate", "width", "evaluate_every")
        require(bool(self.learn and self.hold_out), "learn and hold_out must name a folder")
        require(self.size > 2 * REACH, f"size must be more than {2 * REACH}")
        require(self.edge >= 0 and self.most >= 0, "edge and most must be 0 or more")
