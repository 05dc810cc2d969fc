"""The training of the fusion: which of the planes to go by, block by block, on simulated heads.

    usmri train configs/fusion.toml

Beside the grey it learns the differences between neighbours in all three directions: an image that is right in them has
neither stripes in any view nor blurred edges. Voxels within the network's reach of a block's faces do not count.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.synthesis.engine import load_generator
from USMRISynthesisLib.synthesis.fusion import REACH, FusionNetwork, bordered
from USMRISynthesisLib.training.common.checkpoint import RandomState
from USMRISynthesisLib.training.common.networks import averaged_copy, update_ema
from USMRISynthesisLib.training.common.session import Evaluation, Session, Training, running_mean
from USMRISynthesisLib.training.fusion.config import FusionConfig
from USMRISynthesisLib.training.fusion.data import LABELS, FusionBatch, FusionHead, draw, fusion_heads


class FusionTraining(Training[FusionBatch]):
    """The network, and the heads that it learns from; the generator's output on each is kept in the run's folder.

    Raises Refused (data, other weights than the run began with, a generator of one plane), Failed (model).
    """

    def __init__(self, session: Session[FusionConfig]) -> None:
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
        kept = session.output / f"planes-{LABELS}-{of[:16]}"
        self.heads, self.held = (
            fusion_heads(generator, [Path(name) for name in folders], kept, most=config.most, report=session.report)
            for folders in (config.learn, config.hold_out)
        )
        self.cases = [head.name for head in self.heads]
        self.network = FusionNetwork(config.width).to(session.device)
        self.averaged = averaged_copy(self.network)
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=config.rate, weight_decay=config.decay)
        self.parts = {
            "network": self.network, "averaged": self.averaged, "optimiser": self.optimiser,
            "random": RandomState(self.rng),
        }  # fmt: skip
        self.facts = {"model_sha256": of, "figures": {}}

    def batch(self, number: int) -> FusionBatch:
        return draw(self.heads, self.config.batch, self.config.size, self.rng)

    def step(self, batch: FusionBatch) -> None:
        session, config = self.session, self.config
        session.set_rate(config.rate, self.optimiser, slope=1.5, warmth=(session.step + 1) / 50)
        parts = FusionBatch(*(part.to(session.device) for part in batch))
        terms = losses(self.network(parts.channels), parts)
        loss = terms["grey"] + config.edge * terms["edge"]
        session.require_finite(loss)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        count = session.step + 1
        update_ema(self.averaged, self.network, min(config.ema, count / (10 + count)))
        running_mean(session.latest, "", terms)

    def evaluation_is_due(self) -> bool:
        return self.session.step % self.config.evaluate_every == 0

    def evaluate(self) -> Evaluation:
        figures = measure(self.averaged, self.held)
        self.facts["figures"] = figures
        return Evaluation(figures, figures["ncc"])


def losses(image: Tensor, batch: FusionBatch) -> dict[str, Tensor]:
    """Mean squared difference from the truth: grey, of voxels; edge, of the steps between neighbours along each axis.

    Squared: the absolute difference is least at the median, which the network is to be ahead of.

    image: the network's output on the batch's channels. Only brain in the beam counts, away from the faces.
    """
    inner = (slice(None), slice(None), *[slice(REACH, -REACH)] * 3)
    border = batch.channels[:, -1:][inner]
    off = (image[inner] + 1) * border - 1 - batch.truth[inner]
    inside = batch.inside[inner]
    edges, weight = off.new_zeros(()), off.new_zeros(())
    for axis in (2, 3, 4):
        size = off.shape[axis]
        both = inside.narrow(axis, 1, size - 1) * inside.narrow(axis, 0, size - 1)
        steps = off.narrow(axis, 1, size - 1) - off.narrow(axis, 0, size - 1)
        edges, weight = edges + (steps.square() * both).sum(), weight + both.sum()
    return {"grey": (off.square() * inside).sum() / inside.sum().clamp(min=1), "edge": edges / weight.clamp(min=1)}


def measure(network: FusionNetwork, heads: list[FusionHead]) -> dict[str, float]:
    """Means over heads, of the fused image and of the median in the same border: normalised cross-correlation with the
    truth in the brain, and the mean absolute difference, of MR 0-1."""
    rows = []
    device = next(network.parameters()).device
    for head in heads:
        channels = head.channels.astype(np.float32)
        with torch.inference_mode():
            image = network(torch.from_numpy(channels)[None].to(device))[0, 0].cpu().numpy()
        truth = head.truth.astype(np.float32)[head.inside]
        images = [bordered(grey, channels[-1])[head.inside] for grey in (image, channels[3])]
        rows.append([measured for one in images for measured in (_ncc(one, truth), _apart(one, truth))])
    means = np.mean(rows, axis=0)
    return dict(zip(("ncc", "difference", "median_ncc", "median_difference"), map(float, means), strict=True))


def _ncc(one: np.ndarray, other: np.ndarray) -> float:
    a, b = one - one.mean(), other - other.mean()
    return float((a @ b) / max(float(np.sqrt((a @ a) * (b @ b))), 1e-9))


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).mean()) / 2
