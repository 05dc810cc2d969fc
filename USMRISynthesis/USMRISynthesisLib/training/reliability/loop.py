"""The training of a reliability map: where the generator errs, then calibration on heads that it never saw.

Beside the cross-entropy it learns the size of the error everywhere, as the scale of a Laplace distribution: a yes or
no carries little information, and a few heads have few wrong voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import optimize

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.synthesis.engine import load_generator
from USMRISynthesisLib.synthesis.reliability import ReliabilityNetwork, logits
from USMRISynthesisLib.training.common.checkpoint import RandomState
from USMRISynthesisLib.training.common.networks import averaged_copy, update_ema
from USMRISynthesisLib.training.common.session import Evaluation, Session, Training
from USMRISynthesisLib.training.reliability.config import ReliabilityConfig
from USMRISynthesisLib.training.reliability.data import (
    LABELS,
    LabelledHead,
    ReliabilityBatch,
    augmented,
    draw,
    label_all_frames,
    label_heads,
)

INPUTS = 2  # the batch's parts that the network sees


class ReliabilityTraining(Training[ReliabilityBatch]):
    """The network, and the heads whose errors it learns; the generator's output on each is kept in the run's folder.

    Raises Refused (data, other weights than the run began with), Failed (model).
    """

    def __init__(self, session: Session[ReliabilityConfig]) -> None:
        self.session, self.config = session, session.config
        config = self.config
        self.rng = np.random.default_rng(config.seed)
        generator = load_generator(config.model)
        of = generator.manifest.sha256
        if session.state is not None and session.state["model_sha256"] != of:
            raise Refused(
                "model",
                f"The run in {session.output} belongs to other weights of {config.model!r}.",
                "Choose another output.",
            )
        folder, kept = Path(config.folder), session.output / f"labels-{LABELS}-{of[:16]}"
        report = session.report
        learnt_from = [*(folder / name for name in config.learn), *map(Path, config.also)]
        self.heads = label_heads(generator, learnt_from, kept, report=report)
        self.heads += label_heads(generator, [Path(name) for name in config.axial], kept, axial=True, report=report)
        self.heads += label_all_frames(generator, [Path(name) for name in config.frames])
        calibrated_on = [*(folder / name for name in config.calibrate), *map(Path, config.also_calibrate)]
        self.held = label_heads(generator, calibrated_on, kept, report=report)
        self.held += label_all_frames(generator, [Path(name) for name in config.calibrate_frames])
        self.cases = [head.name for head in self.heads]
        network = ReliabilityNetwork(config.dropout).to(session.device)
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = averaged_copy(self.network)
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=config.rate, weight_decay=config.decay)
        self.parts = {
            "network": self.network, "averaged": self.averaged, "optimiser": self.optimiser,
            "random": RandomState(self.rng),
        }  # fmt: skip
        self.facts = {"model_sha256": of}

    def batch(self, number: int) -> ReliabilityBatch:
        return augmented(draw(self.heads, self.config.batch, self.rng), self.rng)

    def step(self, batch: ReliabilityBatch) -> None:
        session, config = self.session, self.config
        session.set_rate(config.rate, self.optimiser)
        with session.autocast():
            predicted = self.network.predictions(*(part.to(session.device) for part in batch[:INPUTS])).float()
        error_mask, error, inside = (part.to(session.device) for part in batch[INPUTS:])
        terms = {
            "wrong": _cross_entropy(predicted[:, :1], error_mask, inside),
            "size": _laplace(predicted[:, 1:], error, inside),
        }
        loss = terms["wrong"] + config.size * terms["size"]
        session.require_finite(loss)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        count = session.step + 1
        update_ema(self.averaged, self.network, min(config.ema, count / (10 + count)))
        session.latest.update({name: float(value.detach()) for name, value in ({"loss": loss} | terms).items()})

    def evaluate(self) -> Evaluation | None:
        """Calibrates, at the end."""
        calibrate(self.averaged, self.held)
        scale, offset = self.averaged.scale.tolist(), self.averaged.offset.tolist()
        self.session.report(f"calibrated: scale {scale}, offset {offset}")
        return None


def calibrate(network: ReliabilityNetwork, heads: Sequence[LabelledHead]) -> None:
    """Platt's scaling of the logits on these heads, in place: the probabilities become shares that are wrong.

    One scaling for what was made in one plane, frames among it, one for what was made in several; where there is none
    of the latter it takes the former's.
    """
    network.scale.fill_(1)
    network.offset.fill_(0)
    found = []
    for kind in range(2):
        predicted, wrong = [], []
        several = kind > 0 and any(len(head.predictions) > 1 for head in heads)
        for head in heads:
            if several and head.is_frame:
                continue
            n = min(kind, len(head.predictions) - 1)
            inside = head.inside == 255
            predicted.append(logits(network, head.head(n), inside, device=network.scale.device)[inside])
            wrong.append(head.predictions[n].error_mask[inside] / 255)
        found.append(_scaling(np.concatenate(predicted), np.concatenate(wrong)))
    for kind, (scale, offset) in enumerate(found):
        network.scale[kind], network.offset[kind] = scale, offset


def _scaling(predicted: np.ndarray, wrong: np.ndarray) -> tuple[float, float]:
    """Scale and offset with the least cross-entropy between these logits and shares."""
    x, y = predicted.astype(np.float64), wrong.astype(np.float64)

    def loss(values: np.ndarray) -> float:
        z = values[0] * x + values[1]
        return float((np.logaddexp(0, z) - y * z).mean())

    scale, offset = optimize.minimize(loss, [1.0, 0.0], method="Nelder-Mead").x
    return float(scale), float(offset)


def _cross_entropy(logits: torch.Tensor, error_mask: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Mean over the brain where the beam was; `error_mask` counts in every cell only what is inside."""
    share = (error_mask / inside.clamp(min=0.125)).clamp(max=1)
    return (F.binary_cross_entropy_with_logits(logits, share, reduction="none") * inside).sum() / inside.sum().clamp(1)


def _laplace(log_size: torch.Tensor, error: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of the error under a Laplace distribution of that scale, mean over brain in the beam."""
    log_size = log_size.clamp(-6, 1)
    return ((error * torch.exp(-log_size) + log_size) * inside).sum() / inside.sum().clamp(1)
