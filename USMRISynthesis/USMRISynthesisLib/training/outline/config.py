"""The configuration of the frames' training: TOML with `task = "frames"`, read like that of the synthesis."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from USMRISynthesisLib.training.common.config import PRECISIONS, build, read_table
from USMRISynthesisLib.training.outline.losses import FrameLossWeights

TASK = "frames"


@dataclass(frozen=True)
class FrameDataConfig:
    """Where the data are, relative to the working directory: `real` holds hc18/, `simulated` cases in `train/`."""

    real: str
    simulated: str


@dataclass(frozen=True)
class FramesConfig:
    """Everything a run depends on. `output` is the run's folder; `minutes` 0 means no limit.

    real, simulated: frames of each kind a step, for the outline; faces: simulated ones for the face's end. strength: of
    the disturbances of the images, 0 = off. The rate is constant over the first third, then falls linearly to 0.
    decay: of the weights, a step's share of the rate.
    """

    output: str
    data: FrameDataConfig
    task: str = TASK
    steps: int = 100000
    minutes: float = 0.0
    seed: int = 0
    precision: str = "auto"
    threads: int = 1
    real: int = 13
    simulated: int = 3
    faces: int = 24
    rate: float = 2e-3
    decay: float = 1e-2
    ema: float = 0.998
    strength: float = 1.0
    log_every: int = 100
    checkpoint_every: int = 500
    evaluate_minutes: float = 6.0
    losses: FrameLossWeights = field(default_factory=FrameLossWeights)

    def __post_init__(self) -> None:
        if self.task != TASK:
            raise ValueError(f"task must be {TASK!r}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}")
        for name in ("steps", "threads", "real", "simulated", "faces", "log_every", "checkpoint_every", "rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive")
        if not 0 <= self.ema < 1:
            raise ValueError("ema must lie in 0..1")

    def to_json(self) -> dict[str, Any]:
        """Nested plain values, as a checkpoint and a manifest keep them."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain


def read_frames_configuration(path: str | Path) -> FramesConfig:
    """Read a TOML file. Raises Refused that names the key and the reason."""
    return frames_configuration_from(read_table(path))


def frames_configuration_from(table: dict[str, Any]) -> FramesConfig:
    config: FramesConfig = build(FramesConfig, table)
    return config
