"""The configuration of a synthesis run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar

from USMRISynthesisLib.synthesis.generator import GeneratorConfig
from USMRISynthesisLib.training.common.config import RunConfig, require
from USMRISynthesisLib.training.synthesis.augmentation import AugmentationConfig
from USMRISynthesisLib.training.synthesis.objective import ObjectiveConfig


@dataclass(frozen=True)
class DataConfig:
    """Where the data are. Paths are relative to the working directory.

    folder: simulated cases, in `train/` and `val/`; their T2 in `mr/`, if there is one, is what the discriminators see
    as real MR, else that of other training cases. mr_weeks: only of these gestational weeks; empty for all. frames: the
    real frames' .npz, or "" for none; also_frames: further ones to learn from; marked_frames: those on which fluid is
    marked (`datasets/marked_frames.py`), or "". also: further folders whose `train/` is learnt from as well. shrink:
    slices are averaged over so many pixels each way: methods are compared sooner, and what comes of it is no model for
    use. scans: real ultrasound volumes, which have no truth, and mr: MR volumes instead of the simulated T2; both as
    `usmri train --us DIR --mr DIR` prepares them. "" = none.
    """

    folder: str = ""
    also: tuple[str, ...] = ()
    shrink: int = 1
    frames: str = ""
    also_frames: tuple[str, ...] = ()
    marked_frames: str = ""
    mr_weeks: tuple[int, ...] = ()
    scans: str = ""
    mr: str = ""

    def __post_init__(self) -> None:
        require(self.shrink > 0, "shrink must be positive")


@dataclass(frozen=True)
class BatchConfig:
    """Samples a step: slices of simulated volumes and simulated frames, which have a truth; slices of real volumes
    (scanned) and real frames, which have none; marked: real frames on which fluid is marked.

    axial: share of axial slices among those of volumes, where the generator takes several planes; the others share
    the rest alike.
    """

    simulated: int = 4
    framed: int = 0
    real: int = 1
    axial: float = 0.5
    scanned: int = 0
    marked: int = 0

    def __post_init__(self) -> None:
        counts = self.simulated, self.framed, self.real, self.scanned, self.marked
        require(min(counts) >= 0, "simulated, framed, real, scanned and marked must be 0 or more")
        require(sum(counts) > 0, "simulated, framed, real, scanned and marked cannot all be 0")
        require(0 <= self.axial <= 1, "axial is a share, 0 to 1")

    @property
    def samples(self) -> int:
        """How many there are in a batch."""
        return self.simulated + self.framed + self.real + self.scanned + self.marked


@dataclass(frozen=True)
class InputConfig:
    """Random changes to the generator's input; the geometric ones move the truth along. 0 = off.

    gain, offset: 8-bit intensities times 1 +- gain, plus +- offset * 255. gamma: exponent, e ** +- gamma.
    noise: standard deviation in [-1, 1] units, drawn from 0 to this. blur: Gaussian's sigma in pixels, drawn from 0
    to this for half of the samples: a volume that was resampled has softer speckle. disturbance: strength of
    `disturbance.py`, what another machine or user does. rotation_deg, translation_mm,
    scale: in-plane, +- these. warp_mm: standard deviation of a smooth in-plane displacement with nodes 32 pixels apart:
    the sizes and folds of a few heads are soon known by heart. flip, turn: probabilities of a left-right flip and, for
    frames, whose direction is not known, of half a turn. centre_only: probability that the centre slice stands in for
    its neighbours, as in a frame.
    location_jitter_mm, frame_location_jitter_mm: standard deviations, simulated slices and real frames.
    """

    gain: float = 0.3
    offset: float = 0.05
    gamma: float = 0.35
    noise: float = 0.04
    blur: float = 0.0
    rotation_deg: float = 10.0
    translation_mm: float = 4.0
    scale: float = 0.08
    warp_mm: float = 0.0
    disturbance: float = 0.0
    flip: float = 0.5
    turn: float = 0.5
    centre_only: float = 0.3
    location_jitter_mm: float = 1.5
    frame_location_jitter_mm: float = 3.0

    def __post_init__(self) -> None:
        for name in ("flip", "turn", "centre_only"):
            require(0 <= getattr(self, name) <= 1, f"{name} is a probability, 0 to 1")
        for name in ("gain", "scale"):
            require(0 <= getattr(self, name) < 1, f"{name} must lie in 0..1")
        for setting in dataclasses.fields(self):
            require(getattr(self, setting.name) >= 0, f"{setting.name} must be 0 or more")


@dataclass(frozen=True)
class OptimiserConfig:
    """Adam for both sides; the rate is constant over the first half of the run, then falls linearly to 0."""

    rate: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)

    def __post_init__(self) -> None:
        require(self.rate > 0, "rate must be positive")
        require(all(0 <= beta < 1 for beta in self.betas), "betas must lie in 0..1")


@dataclass(frozen=True)
class DiscriminatorConfig:
    """width: channels of the first layer. spectral: spectral norm instead of instance norm."""

    width: int = 16
    spectral: bool = False

    def __post_init__(self) -> None:
        require(self.width > 0, "width must be positive")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(RunConfig):
    """Everything a run of the synthesis depends on.

    unpaired_every: the terms that need discriminators, D or E are computed at every such step only; their
    weights are not scaled up for it. backward_skips: D-E skip levels. history: size of the pool of past
    fakes, 0 = off.
    initial: checkpoint whose averaged generator a new run starts from, or an installed model's name; "" = random
    weights. evaluate_every: in steps.
    """

    TASK: ClassVar[str] = "synthesis"
    task: str = TASK
    data: DataConfig
    initial: str = ""
    steps: int = 30000
    threads: int = 2
    ema: float = 0.999
    history: int = 50
    unpaired_every: int = 1
    backward_skips: tuple[int, ...] = ()
    evaluate_every: int = 1000
    evaluation_slices: int = 24
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    discriminators: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    input: InputConfig = field(default_factory=InputConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("unpaired_every", "evaluate_every")
        require(min(self.history, self.evaluation_slices) >= 0, "history and evaluation_slices must be 0 or more")
        top = self.generator.levels - 1
        require(
            all(0 <= level < top for level in self.backward_skips),
            f"backward_skips must lie in 0..{top - 1}",
        )
        require(not self.batch.real or bool(self.data.frames), "batch.real needs data.frames")
        require(
            not (self.batch.simulated or self.batch.framed) or bool(self.data.folder),
            "data.folder is missing, which batch.simulated and batch.framed need",
        )
        require(not self.batch.marked or bool(self.data.marked_frames), "batch.marked needs data.marked_frames")
        require(not self.batch.scanned or bool(self.data.scans), "batch.scanned needs data.scans")
        require(bool(self.data.folder or self.data.mr), "without data.folder there must be data.mr")
