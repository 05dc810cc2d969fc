"""The configuration of a reliability map's run: TOML with `task = "support"`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from USMRISynthesisLib.training.common.config import RunConfig, require


@dataclass(frozen=True, kw_only=True)
class ReliabilityConfig(RunConfig):
    """Everything such a run depends on.

    model: the generator's model, by name or folder. folder: simulated cases; learn: the splits to learn from, which may
    hold heads that the generator was trained on (its errors there are smaller); calibrate: the splits whose heads it
    never saw, on which the probabilities are calibrated at the end. also, also_calibrate: further folders of heads for
    either. axial: further ones, labelled in axial slices alone, in a third of the time. frames, calibrate_frames:
    folders of heads with simulated frames (`frames_a_head` of a simulation's configuration) to learn from and to
    calibrate on; without them the network is not used for frames. size: weight of the error's size beside the
    cross-entropy. decay: of the weights, as AdamW's. dropout: share of every level's channels left out.
    """

    TASK: ClassVar[str] = "support"
    task: str = TASK
    folder: str
    model: str = "default"
    learn: tuple[str, ...] = ("train", "mr")
    calibrate: tuple[str, ...] = ("mr",)
    also: tuple[str, ...] = ()
    also_calibrate: tuple[str, ...] = ()
    axial: tuple[str, ...] = ()
    frames: tuple[str, ...] = ()
    calibrate_frames: tuple[str, ...] = ()
    size: float = 0.3
    steps: int = 4000
    batch: int = 16
    rate: float = 1e-3
    decay: float = 0.03
    dropout: float = 0.0
    ema: float = 0.995

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("batch", "rate")
        require(bool(self.learn and self.calibrate), "learn and calibrate must name a split")
        require(bool(self.frames) == bool(self.calibrate_frames), "frames and calibrate_frames belong together")
        require(self.size >= 0 and 0 <= self.dropout < 1, "size must be 0 or more, and dropout lie in 0..1")
