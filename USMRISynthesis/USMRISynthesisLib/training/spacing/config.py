"""The configuration of a slice-spacing run: TOML with `task = "spacing"`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from USMRISynthesisLib.training.common.config import RunConfig, require


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
        require(not self.masks or len(self.masks) == len(self.volumes), "data.masks must be as many as data.volumes")
        require(bool(self.volumes or (self.atlas and self.weeks)), "data needs volumes, or atlas and weeks")
        require(self.copies > 0, "data.copies must be positive")


@dataclass(frozen=True)
class AcquisitionConfig:
    """What befell the thick slices of stage 2 beside the slice profile (`spacing.acquisition`); targets stay clean.

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
        require(0 <= self.share <= 1, "acquisition.share must lie in 0..1")
        least = min(self.motion, self.rotation, self.gain, self.noise)
        require(least >= 0, "acquisition's motion, rotation, gain and noise must be 0 or more")
        narrow, wide = self.profile
        require(0.2 <= narrow <= wide <= 2, "acquisition.profile must be two widths in 0.2..2, the narrower one first")


@dataclass(frozen=True, kw_only=True)
class SpacingConfig(RunConfig):
    """Everything a slice-spacing run depends on.

    vae_steps, steps: of stage 1, and of both together. vae_share: of `minutes`, where there are, stage 1 ends then at
    the latest. vae: a checkpoint whose VAE is taken instead of training one; stage 1 is left out then.
    kl: weight of the latent's divergence, small, because a VAE blurs. in_plane: share of stage 2's batches whose
    targets are sharp in-plane images of the thick slices themselves; 0 is the paper's method, synthesised targets
    alone. every_axis: synthesised fine stacks are degraded along each of their axes in turn, not along the slices'
    alone: what was interpolated there is smooth; their in-plane detail is what there is to learn from (our addition).
    size: pixels of a patch's side, a multiple of 4. rate: constant over the first half of a stage, then linearly to 0.
    """

    TASK: ClassVar[str] = "spacing"
    task: str = TASK
    data: SpacingDataConfig = field(default_factory=SpacingDataConfig)
    acquisition: AcquisitionConfig = field(default_factory=AcquisitionConfig)
    vae: str = ""
    vae_steps: int = 4000
    steps: int = 12000
    vae_share: float = 0.4
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

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("vae_steps", "batch", "rate", "width", "vae_width", "latent")
        require(0 <= self.in_plane <= 1 and 0 < self.vae_share < 1, "in_plane and vae_share must lie in 0..1")
        require(self.size >= 32 and self.size % 4 == 0, "size must be a multiple of 4, 32 or more")
        require(self.kl >= 0, "kl must be 0 or more")
        require(
            bool(self.vae) or self.steps > self.vae_steps, "steps counts both stages and must be larger than vae_steps"
        )
