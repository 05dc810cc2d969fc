"""The configuration of a slice-spacing run: TOML with `task = "spacing"`, read like those of the other trainings."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from USMRISynthesisLib.training.common.config import PRECISIONS, build, read_table

TASK = "spacing"


@dataclass(frozen=True)
class SpacingDataConfig:
    """Thick-slice MR to learn from; paths are relative to the working directory.

    volumes: files, or folders of files (NRRD, NIfTI, MetaImage), stacked along any axis; one is enough. masks: as many
    files, each the part of its volume to learn from with a margin, or none. atlas: a folder that holds
    fetal-mr-atlas/, whose weeks `weeks` are deformed and thinned, so that no thin slice of them is seen; "" for none.
    copies: deformed copies of each week.
    """

    volumes: tuple[str, ...] = ()
    masks: tuple[str, ...] = ()
    atlas: str = ""
    weeks: tuple[str, ...] = ()
    copies: int = 3

    def __post_init__(self) -> None:
        if self.masks and len(self.masks) != len(self.volumes):
            raise ValueError("data.masks must be as many as data.volumes")
        if not self.volumes and not (self.atlas and self.weeks):
            raise ValueError("data needs volumes, or atlas and weeks")
        if self.copies < 1:
            raise ValueError("data.copies must be positive")


@dataclass(frozen=True)
class AcquisitionConfig:
    """What befell the thick slices of stage 2 beside the slice profile (`spacing_acquisition`); targets stay clean.

    share: of the batches; 0 is the paper's degradation alone. At most, drawn anew for every batch: motion, sd of the
    pixels by which slices moved on their own, along each axis; rotation, sd of degrees in their plane; gain, sd of the
    logarithm of a slice's gain; noise, sd as a share of the image's range. profile: narrowest and widest full width at
    half maximum, in distances of the slices.
    """

    share: float = 0.0
    motion: float = 2.5
    rotation: float = 4.0
    gain: float = 0.1
    noise: float = 0.06
    profile: tuple[float, float] = (0.7, 1.2)

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError("acquisition.share must lie in 0..1")
        if min(self.motion, self.rotation, self.gain, self.noise) < 0:
            raise ValueError("acquisition's motion, rotation, gain and noise must be 0 or more")
        if not 0.2 <= self.profile[0] <= self.profile[1] <= 2:
            raise ValueError("acquisition.profile must be two widths in 0.2..2, the narrower one first")


@dataclass(frozen=True)
class SpacingConfig:
    """Everything a slice-spacing run depends on. `output` is the run's folder; `minutes` 0 means no limit.

    vae_steps, steps: of stage 1, and of both together. vae_share: of `minutes`, where there are, stage 1 ends then at
    the latest. vae: a checkpoint whose VAE is taken instead of training one; stage 1 is left out then.
    kl: weight of the latent's divergence, small, because a VAE blurs. in_plane: share of stage 2's batches whose
    targets are sharp in-plane images of the thick slices themselves; 0 is the paper's method, synthesised targets
    alone. every_axis: synthesised fine stacks are degraded along each of their axes in turn, not along the slices'
    alone: what was interpolated there is smooth; their in-plane detail is what there is to learn from (our addition).
    size: pixels of a patch's side, a multiple of 4. rate: constant over the first half of a stage, then linearly to 0.
    """

    output: str
    data: SpacingDataConfig = field(default_factory=SpacingDataConfig)
    acquisition: AcquisitionConfig = field(default_factory=AcquisitionConfig)
    task: str = TASK
    vae: str = ""
    vae_steps: int = 4000
    steps: int = 12000
    minutes: float = 0.0
    vae_share: float = 0.4
    seed: int = 0
    precision: str = "auto"
    threads: int = 2
    batch: int = 16
    size: int = 64
    rate: float = 1e-3
    ema: float = 0.995
    kl: float = 1e-4
    in_plane: float = 0.0
    every_axis: bool = True
    width: int = 16
    vae_width: int = 24
    latent: int = 16
    log_every: int = 50
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        if self.task != TASK:
            raise ValueError(f"task must be {TASK!r}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}")
        for name in (
            "vae_steps",
            "steps",
            "threads",
            "batch",
            "rate",
            "width",
            "vae_width",
            "latent",
            "log_every",
            "checkpoint_every",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive")
        if not 0 <= self.ema < 1 or not 0 <= self.in_plane <= 1 or not 0 < self.vae_share < 1:
            raise ValueError("ema, in_plane and vae_share must lie in 0..1")
        if self.size < 32 or self.size % 4:
            raise ValueError("size must be a multiple of 4, 32 or more")
        if self.minutes < 0 or self.kl < 0:
            raise ValueError("minutes and kl must be 0 or more")
        if not self.vae and self.steps <= self.vae_steps:
            raise ValueError("steps counts both stages and must be larger than vae_steps")

    def to_json(self) -> dict[str, Any]:
        """Nested plain values, as a checkpoint and a manifest keep them."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain


def read_spacing_configuration(path: str | Path) -> SpacingConfig:
    """Read a TOML file. Raises Refused that names the key and the reason."""
    return spacing_configuration_from(read_table(path))


def spacing_configuration_from(table: dict[str, Any]) -> SpacingConfig:
    config: SpacingConfig = build(SpacingConfig, table)
    return config
