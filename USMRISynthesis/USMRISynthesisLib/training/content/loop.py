"""The training of the network that says what a frame shows.

    usmri train configs/content.toml

A step's batch depends on the seed and the step's number alone, so it is made ahead on a thread of its own, and a run
that was stopped goes on exactly where it stood.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from USMRISynthesisLib.alignment.frame.content_network import ContentNetwork
from USMRISynthesisLib.datasets.frame_content import content_pictures, content_rows
from USMRISynthesisLib.training.common.checkpoint import TorchRandomState
from USMRISynthesisLib.training.common.networks import TrainedNetworks
from USMRISynthesisLib.training.common.session import Evaluation, Session, Training, running_mean
from USMRISynthesisLib.training.content.config import ContentTrainingConfig
from USMRISynthesisLib.training.content.monitoring import evaluate, held_views
from USMRISynthesisLib.training.content.samples import AXIAL_PLANES, UNKNOWN, ContentBatch, by_kind, draw

PART = "content"
_GENTLE, _GENTLE_STEPS = 0.3, 300
_WARM_STEPS = 100


class ContentTraining(Training[ContentBatch]):
    """The network, and the frames that it learns from. Raises Refused (data)."""

    prefetched = True

    def __init__(self, session: Session[ContentTrainingConfig]) -> None:
        self.session, self.config = session, session.config
        config = self.config
        rows = content_rows(Path(config.data))
        trained = [row for row in rows if row.split == "train" and row.source not in config.held_back]
        self.held = [row for row in rows if row.split == "val"]
        pictures = content_pictures(trained, session.output / "pictures.npz")
        self.groups = by_kind(pictures)
        self.held_views = held_views(self.held)
        self.cases = sorted({f"{row.source} {row.patient}" for row in trained})
        session.report(f"{len(pictures)} frames of {len(self.cases)} patients; {len(self.held)} of others held out")
        network = ContentNetwork().to(session.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.learnt = TrainedNetworks(
            {PART: network}, lambda weights: torch.optim.AdamW(weights, lr=config.rate, weight_decay=config.decay),
            ema=config.ema, largest_gradient=5.0,
        )  # fmt: skip
        self.parts = {**self.learnt.parts(), "torch": TorchRandomState()}  # the dropout's
        self.facts = {"figures": {}}

    def batch(self, number: int) -> ContentBatch:
        config = self.config
        rng = np.random.default_rng([config.seed, 7, number])
        strength = config.strength * min(1.0, _GENTLE + (1 - _GENTLE) * number / _GENTLE_STEPS)
        return draw(self.groups, rng, config.batch, strength)

    def step(self, batch: ContentBatch) -> None:
        session = self.session
        session.set_rate(
            self.config.rate, *self.learnt.optimisers.values(), slope=1.5, warmth=(session.step + 1) / _WARM_STEPS
        )
        x = batch.x.to(session.device).contiguous(memory_format=torch.channels_last)
        with session.autocast():
            logits = self.learnt.networks[PART](x)
        terms = losses(logits.float(), batch, self.config.smoothing)
        total = terms["brain"] + terms["plane"]
        session.require_finite(total)
        self.learnt.step(total, [PART])
        running_mean(session.latest, "", terms)

    def evaluation_is_due(self) -> bool:
        return self.session.elapsed_s - self.session.evaluated_s >= 60 * self.config.evaluate_minutes

    def evaluate(self) -> Evaluation:
        figures = evaluate(self.learnt.averaged[PART], self.held, self.held_views)
        self.facts |= {"figures": figures}
        score = -(figures["brain_refused_share"] + figures["no_brain_accepted_share"])
        return Evaluation(figures, score, title="held out")


def losses(logits: Tensor, batch: ContentBatch, smoothing: float) -> dict[str, Tensor]:
    """Whether there is a brain, of all; and which plane, of those where it is known, or known to be one of two."""
    target = batch.brain.to(logits.device) * (1 - 2 * smoothing) + smoothing
    brain = F.binary_cross_entropy_with_logits(logits[:, 0], target)
    plane, shares = batch.plane.to(logits.device), F.log_softmax(logits[:, 1:], dim=1)
    known, axial = plane >= 0, (plane == UNKNOWN) & (batch.brain.to(logits.device) > 0.5)
    costs = [-shares[known, plane[known]], -torch.logsumexp(shares[axial][:, AXIAL_PLANES], dim=1)]
    cost = torch.cat(costs)
    return {"brain": brain, "plane": cost.sum() / max(1, len(cost)) if len(cost) else brain * 0}
