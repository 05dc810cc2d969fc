"""`usmri train CONFIG`: the training that a configuration is for, from its file to the last checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from USMRISynthesisLib.training.alignment.config import AlignmentConfig
from USMRISynthesisLib.training.alignment.loop import AlignmentTraining
from USMRISynthesisLib.training.common.config import RunConfig, read_table, task_of
from USMRISynthesisLib.training.common.distributed import processes
from USMRISynthesisLib.training.common.session import Session, Training
from USMRISynthesisLib.training.content.config import ContentTrainingConfig
from USMRISynthesisLib.training.content.loop import ContentTraining
from USMRISynthesisLib.training.fusion.config import FusionConfig
from USMRISynthesisLib.training.fusion.loop import FusionTraining
from USMRISynthesisLib.training.outline.config import OutlineConfig
from USMRISynthesisLib.training.outline.loop import OutlineTraining
from USMRISynthesisLib.training.reliability.config import ReliabilityConfig
from USMRISynthesisLib.training.reliability.loop import ReliabilityTraining
from USMRISynthesisLib.training.spacing.config import SpacingConfig
from USMRISynthesisLib.training.spacing.loop import SpacingTraining
from USMRISynthesisLib.training.synthesis.config import TrainingConfig
from USMRISynthesisLib.training.synthesis.loop import SynthesisTraining

_TRAININGS: dict[type[RunConfig], Callable[[Session[Any]], Training[Any]]] = {
    TrainingConfig: SynthesisTraining,
    AlignmentConfig: AlignmentTraining,
    OutlineConfig: OutlineTraining,
    ContentTrainingConfig: ContentTraining,
    SpacingConfig: SpacingTraining,
    FusionConfig: FusionTraining,
    ReliabilityConfig: ReliabilityTraining,
}
CONFIGURATIONS = {kind.TASK: kind for kind in _TRAININGS}


def read_run(path: str | Path) -> RunConfig:
    """The configuration in a TOML file, for the task that it names, the synthesis if none. Raises Refused."""
    table = read_table(path)
    return CONFIGURATIONS[task_of(table, tuple(CONFIGURATIONS))].from_json(table)


def train(
    config: str | Path | RunConfig,
    *,
    resume: bool = True,
    minutes: float | None = None,
    cancel: Callable[[], bool] | None = None,
    report: Callable[[str], None] = print,
) -> Path:
    """Train as the configuration, or its TOML file, says; returns the path of the last checkpoint.

    Goes on from the output folder's checkpoint if there is one (`resume`); without `resume` it refuses to write
    over it. `minutes` replaces the configuration's limit, counted over all sittings of the run. `cancel`,
    called at every step, Ctrl-C and SIGTERM save a checkpoint and raise Cancelled.

    Raises Refused (configuration, data), Failed (model, the loss is no number any more), Cancelled.
    """
    if not isinstance(config, RunConfig):
        config = read_run(config)
    together = processes() if isinstance(config, TrainingConfig) else None  # the others know one process only
    session = Session(config, resume=resume, minutes=minutes, cancel=cancel, report=report, together=together)
    return session.run(_TRAININGS[type(config)](session))
