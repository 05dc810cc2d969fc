"""A training run's configuration: a TOML file read into plain dataclasses, checked key by key."""

from __future__ import annotations

import dataclasses
import json
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.synthesis.generator import GeneratorConfig
from USMRISynthesisLib.training.synthesis.augmentation import AugmentationConfig
from USMRISynthesisLib.training.synthesis.objective import ObjectiveConfig

PRECISIONS = ("auto", "fp32", "bf16")
MAY_CHANGE_ON_RESUME = ("steps", "minutes", "output")


@dataclass(frozen=True)
class DataConfig:
    """Where the data are. Paths are relative to the working directory.

    folder: simulated cases, in `train/` and `val/`; their T2 in `mr/`, if there is one, is what the
    discriminators see as real MR, else that of other training cases. mr_weeks: only of these gestational
    weeks; empty for all. frames: the real frames' .npz, or "" for none. also: further folders whose `train/` is
    learnt from as well. shrink: slices are averaged over so many pixels each way: methods are compared sooner, and what
    comes of it is no model for use. scans: real ultrasound volumes, which have no truth, and mr: MR volumes instead of
    the simulated T2; both as `usmri train --us DIR --mr DIR` prepares them. "" = none.
    """

    folder: str = ""
    also: tuple[str, ...] = ()
    shrink: int = 1
    frames: str = ""
    mr_weeks: tuple[int, ...] = ()
    scans: str = ""
    mr: str = ""

    def __post_init__(self) -> None:
        _require(self.shrink > 0, "shrink must be positive")


@dataclass(frozen=True)
class BatchConfig:
    """Samples a step: slices of simulated volumes and simulated frames, which have a truth; slices of real volumes
    (scanned) and real frames, which have none.

    axial: share of axial slices among those of volumes, where the generator takes several planes; the others share
    the rest alike.
    """

    simulated: int = 4
    framed: int = 0
    real: int = 1
    axial: float = 0.5
    scanned: int = 0

    def __post_init__(self) -> None:
        counts = self.simulated, self.framed, self.real, self.scanned
        _require(min(counts) >= 0, "simulated, framed, real and scanned must be 0 or more")
        _require(sum(counts) > 0, "simulated, framed, real and scanned cannot all be 0")
        _require(0 <= self.axial <= 1, "axial is a share, 0 to 1")

    @property
    def samples(self) -> int:
        """How many there are in a batch."""
        return self.simulated + self.framed + self.real + self.scanned


@dataclass(frozen=True)
class InputConfig:
    """Random changes to the generator's input; the geometric ones move the truth along. 0 = off.

    gain, offset: 8-bit intensities times 1 +- gain, plus +- offset * 255. gamma: exponent, e ** +- gamma.
    noise: standard deviation in [-1, 1] units, drawn from 0 to this. blur: Gaussian's sigma in pixels, drawn from 0
    to this for half of the samples: a volume that was resampled has softer speckle. rotation_deg, translation_mm,
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
    flip: float = 0.5
    turn: float = 0.5
    centre_only: float = 0.3
    location_jitter_mm: float = 1.5
    frame_location_jitter_mm: float = 3.0

    def __post_init__(self) -> None:
        for name in ("flip", "turn", "centre_only"):
            _require(0 <= getattr(self, name) <= 1, f"{name} is a probability, 0 to 1")
        for name in ("gain", "scale"):
            _require(0 <= getattr(self, name) < 1, f"{name} must lie in 0..1")
        for setting in dataclasses.fields(self):
            _require(getattr(self, setting.name) >= 0, f"{setting.name} must be 0 or more")


@dataclass(frozen=True)
class OptimiserConfig:
    """Adam for both sides; the rate is constant over the first half of the run, then falls linearly to 0."""

    rate: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)

    def __post_init__(self) -> None:
        _require(self.rate > 0, "rate must be positive")
        _require(all(0 <= beta < 1 for beta in self.betas), "betas must lie in 0..1")


@dataclass(frozen=True)
class DiscriminatorConfig:
    """width: channels of the first layer. spectral: spectral norm instead of instance norm."""

    width: int = 16
    spectral: bool = False

    def __post_init__(self) -> None:
        _require(self.width > 0, "width must be positive")


@dataclass(frozen=True)
class TrainingConfig:
    """Everything a run depends on. `output` is the run's folder; `minutes` 0 means no time limit.

    unpaired_every: the terms that need discriminators, D or E are computed at every such step only; their
    weights are not scaled up for it. backward_skips: D-E skip levels. history: size of the pool of past
    fakes, 0 = off.
    initial: checkpoint whose averaged generator a new run starts from; "" = random weights.
    precision: "auto" takes bf16 where the machine computes in it natively.
    """

    output: str
    data: DataConfig
    initial: str = ""
    steps: int = 30000
    minutes: float = 0.0
    seed: int = 0
    precision: str = "auto"
    threads: int = 2
    ema: float = 0.999
    history: int = 50
    unpaired_every: int = 1
    backward_skips: tuple[int, ...] = ()
    log_every: int = 50
    checkpoint_every: int = 500
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
        _require(self.precision in PRECISIONS, f"precision must be one of {', '.join(PRECISIONS)}")
        _require(0 <= self.ema < 1, "ema must lie in 0..1")
        for name in ("steps", "threads", "unpaired_every", "log_every", "checkpoint_every", "evaluate_every"):
            _require(getattr(self, name) > 0, f"{name} must be positive")
        for name in ("minutes", "seed", "history", "evaluation_slices"):
            _require(getattr(self, name) >= 0, f"{name} must be 0 or more")
        top = self.generator.levels - 1
        _require(
            all(0 <= level < top for level in self.backward_skips),
            f"backward_skips must lie in 0..{top - 1}",
        )
        _require(not self.batch.real or bool(self.data.frames), "batch.real needs data.frames")
        _require(
            not (self.batch.simulated or self.batch.framed) or bool(self.data.folder),
            "data.folder is missing, which batch.simulated and batch.framed need",
        )
        _require(not self.batch.scanned or bool(self.data.scans), "batch.scanned needs data.scans")
        _require(bool(self.data.folder or self.data.mr), "without data.folder there must be data.mr")

    def to_json(self) -> dict[str, Any]:
        """Nested plain values, as a checkpoint and a manifest keep them."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain


def read_configuration(path: str | Path) -> TrainingConfig:
    """Read a TOML file. Raises Refused that names the key and the reason."""
    return configuration_from(read_table(path))


def read_table(path: str | Path) -> dict[str, Any]:
    """A TOML file's nested plain values. Raises Refused."""
    try:
        import tomllib
    except ImportError as error:
        raise Refused(
            "python", "Training reads TOML, which Python has from 3.11 on.", "Use Python 3.11 or newer."
        ) from error
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise Refused(
            "configuration", f"The configuration cannot be read ({error.strerror}).", "Check the path."
        ) from error
    except ValueError as error:
        raise Refused("configuration", f"The configuration is not TOML: {error}.", "Mend it.") from error
    return table


def configuration_from(table: dict[str, Any]) -> TrainingConfig:
    """Build the configuration from nested plain values. Raises Refused that names the key and the reason."""
    built: TrainingConfig = build(TrainingConfig, table)
    return built


def build(kind: Any, table: dict[str, Any]) -> Any:
    """A configuration dataclass of any kind from nested plain values; keys and types are checked alike."""
    return _build(kind, table, "")


def changed_keys(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Dotted names of the keys that differ, without those that may change when a run is resumed."""
    old, new = _flat(before), _flat(now)
    return sorted(
        key for key in old.keys() | new.keys() if old.get(key) != new.get(key) and key not in MAY_CHANGE_ON_RESUME
    )


def _build(kind: Any, table: dict[str, Any], prefix: str) -> Any:
    """One dataclass from one table, its nested dataclasses from the nested tables."""
    hints = typing.get_type_hints(kind)
    for key in table:
        if key not in hints:
            raise _refused(prefix + key, "is not known", f"Known here: {', '.join(hints)}.")
    values: dict[str, Any] = {}
    for setting in dataclasses.fields(kind):
        if setting.name in table:
            values[setting.name] = _converted(table[setting.name], hints[setting.name], prefix + setting.name)
        elif setting.default is setting.default_factory is dataclasses.MISSING:
            raise _refused(prefix + setting.name, "is missing", "Add it.")
    try:
        return kind(**values)
    except ValueError as error:
        raise _refused(prefix.rstrip(".") or "the run", f"cannot be: {error}", "Change it.") from error


def _converted(value: Any, hint: Any, name: str) -> Any:
    """The value as its type asks; TOML's arrays become tuples, and whole numbers may stand for floats."""
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise _refused(name, "must be a table", f"Write it as [{name}].")
        return _build(hint, value, name + ".")
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)
        length = None if inner[-1] is Ellipsis else len(inner)
        if not isinstance(value, list | tuple) or (length is not None and len(value) != length):
            raise _refused(name, f"must be a list{f' of {length}' if length else ''}", "Change it.")
        return tuple(_converted(item, inner[0], name) for item in value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
        raise _refused(name, f"must be {words[hint]}, not {value!r}", "Change it.")
    return value


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return flat


def _refused(name: str, reason: str, remedy: str) -> Refused:
    return Refused("configuration", f"Configuration: {name} {reason}.", remedy)


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise ValueError(reason)
