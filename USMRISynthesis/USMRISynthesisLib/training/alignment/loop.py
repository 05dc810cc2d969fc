"""The training of the alignment.

    usmri train configs/alignment.toml

Each step trains a network on one batch of one stage; a round of the cycle visits every stage. A step's batch depends on
the seed and the step's number alone, so it is made ahead on a thread of its own, and a run that was stopped goes on
exactly where it stood.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from USMRISynthesisLib.alignment.volume.network import Prediction
from USMRISynthesisLib.datasets.heads import Head, load_heads
from USMRISynthesisLib.training.alignment.config import AlignmentConfig
from USMRISynthesisLib.training.alignment.export import build_networks, start_from
from USMRISynthesisLib.training.alignment.losses import losses
from USMRISynthesisLib.training.alignment.monitoring import evaluate
from USMRISynthesisLib.training.alignment.samples import Batch, draw
from USMRISynthesisLib.training.common.losses import weighted
from USMRISynthesisLib.training.common.networks import TrainedNetworks
from USMRISynthesisLib.training.common.session import Evaluation, Session, Training, running_mean

# The images are disturbed gently at first: what a head looks like is learnt before what hides it.
_GENTLE, _GENTLE_STEPS = 0.3, 1500
_WARM_ROUNDS = 20


class StageBatch(NamedTuple):
    """A batch and the stage that it is for."""

    stage: str
    samples: Batch


class AlignmentTraining(Training[StageBatch]):
    """The stages' networks, and the simulated heads that they learn from. Raises Refused (data, `initial`)."""

    prefetched = True

    def __init__(self, session: Session[AlignmentConfig]) -> None:
        self.session, self.config = session, session.config
        config = self.config
        self.cycle = config.cycle.stages()
        folders = [Path(config.data.folder) / "train", *map(Path, config.data.also)]
        self.heads = [head for folder in folders for head in load_heads(folder)]
        self.validation = load_heads(Path(config.data.folder) / "val")
        self.cases = [head.name for head in self.heads]
        session.report(f"{len(self.heads)} training and {len(self.validation)} validation heads")
        networks = {
            name: network.to(session.device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
            for name, network in build_networks().items()
        }
        if config.initial and session.state is None:
            start_from(networks, config.initial)
        self.learnt = TrainedNetworks(
            networks, lambda weights: torch.optim.Adam(weights, lr=config.rate), ema=config.ema, largest_gradient=5.0
        )
        self.parts = {**self.learnt.parts()}
        self.facts = {"trust": {}, "figures": {}}

    def batch(self, number: int) -> StageBatch:
        stage = self.cycle[number % len(self.cycle)]
        return StageBatch(stage, batch_of(self.config, stage, number, self.heads))

    def step(self, batch: StageBatch) -> None:
        session, (stage, samples) = self.session, batch
        session.set_rate(
            self.config.rate,
            self.learnt.optimisers[stage],
            warmth=(session.step + 1) / (_WARM_ROUNDS * len(self.cycle)),
        )
        samples = Batch(**{name: value.to(session.device) for name, value in vars(samples).items()})
        with session.autocast():
            predicted = Prediction(*self.learnt.networks[stage](samples.x))
        terms = losses(stage, predicted, samples)
        total = weighted(terms, self.config.losses)
        session.require_finite(total)
        self.learnt.step(total, [stage])
        running_mean(session.latest, f"{stage}_", terms)

    def log_row(self) -> dict[str, float]:
        """Empty in the first round, when some stages have no terms yet."""
        ready = self.session.step >= len(self.cycle) or self.session.is_over
        return self.session.latest if ready else {}

    def shown_terms(self, row: dict[str, float]) -> dict[str, float]:
        return {name: value for name, value in row.items() if name.endswith("coordinates")}

    def evaluation_is_due(self) -> bool:
        return self.session.elapsed_s - self.session.evaluated_s >= 60 * self.config.evaluate_minutes

    def evaluate(self) -> Evaluation:
        config = self.config
        figures, calibration = evaluate(self.learnt.averaged, self.validation, config.evaluation_poses, config.seed)
        self.facts |= {"figures": figures} | ({"trust": calibration.to_json()} if calibration is not None else {})
        return Evaluation(figures, -figures["rotation_deg_mean"])


def batch_of(config: AlignmentConfig, stage: str, step: int, heads: list[Head]) -> Batch:
    """The batch of one step: it depends on the configuration, the seed and the step's number alone."""
    rng = np.random.default_rng([config.seed, 3, step])
    strength = config.strength * min(1.0, _GENTLE + (1 - _GENTLE) * step / _GENTLE_STEPS)
    return draw(stage, heads, rng, config.batch, strength=strength)
