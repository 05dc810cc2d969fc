"""The training of the head outline in 2D frames.

    usmri train configs/frames.toml

Each step trains the outline on real and simulated frames, and the face's end on simulated ones, where it is known.
A step's batch depends on the seed and the step's number alone, so it is made ahead on a thread of its own, and a run
that was stopped goes on exactly where it stood.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from USMRISynthesisLib.alignment.common.confidence import FRAME_NAMES
from USMRISynthesisLib.alignment.frame.network import FaceNetwork, FrameNetwork
from USMRISynthesisLib.datasets.frames import real_pictures, simulated_pictures
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.training.common.checkpoint import TorchRandomState
from USMRISynthesisLib.training.common.losses import weighted
from USMRISynthesisLib.training.common.networks import TrainedNetworks
from USMRISynthesisLib.training.common.session import Evaluation, Session, Training, running_mean
from USMRISynthesisLib.training.outline.config import OutlineConfig
from USMRISynthesisLib.training.outline.losses import losses
from USMRISynthesisLib.training.outline.monitoring import evaluate
from USMRISynthesisLib.training.outline.samples import FrameBatch, draw, draw_faces

# The images are disturbed gently at first: what a head looks like is learnt before what hides it.
_GENTLE, _GENTLE_STEPS = 0.3, 1000
_WARM_STEPS = 100


class OutlineBatch(NamedTuple):
    """frames: for the outline. faces (N, 1, S, S) and whether the face's end is ahead (N,): for the face's network."""

    frames: FrameBatch
    faces: Tensor
    face_ahead: Tensor


class OutlineTraining(Training[OutlineBatch]):
    """The two networks, and the frames that they learn from. Raises Refused (data)."""

    prefetched = True

    def __init__(self, session: Session[OutlineConfig]) -> None:
        self.session, self.config = session, session.config
        config, data = self.config, self.config.data
        self.real = real_pictures(Path(data.real), "train")
        folders = [Path(folder) / "train" for folder in (data.simulated, *data.also)]
        self.simulated = [picture for folder in folders for picture in simulated_pictures(folder)]
        self.held = real_pictures(Path(data.real), "val")
        self.simulated_held = simulated_pictures(Path(data.simulated) / "val")
        if not self.simulated:
            raise Refused(
                "data",
                f"There are no simulated frames in {data.simulated}.",
                "Make them with `usmri simulate`; its configuration needs frames_a_head.",
            )
        self.cases = sorted({picture.group for picture in [*self.real, *self.simulated]})
        session.report(
            f"{len(self.real)} real and {len(self.simulated)} simulated frames; {len(self.held)} of other fetuses for "
            "validation"
        )
        networks = {
            name: network.to(session.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            for name, network in build_networks().items()
        }
        self.learnt = TrainedNetworks(
            networks, lambda weights: torch.optim.AdamW(weights, lr=config.rate, weight_decay=config.decay),
            ema=config.ema, largest_gradient=5.0,
        )  # fmt: skip
        self.parts = {**self.learnt.parts(), "torch": TorchRandomState()}  # the dropout's
        self.facts = {"trust": {}, "figures": {}}

    def batch(self, number: int) -> OutlineBatch:
        config = self.config
        rng = np.random.default_rng([config.seed, 3, number])
        strength = config.strength * min(1.0, _GENTLE + (1 - _GENTLE) * number / _GENTLE_STEPS)
        frames = draw(self.real, self.simulated, rng, (config.real, config.simulated), strength=strength)
        return OutlineBatch(frames, *draw_faces(self.simulated, rng, config.faces, real=self.real, strength=strength))

    def step(self, batch: OutlineBatch) -> None:
        session, networks = self.session, self.learnt.networks
        session.set_rate(
            self.config.rate, *self.learnt.optimisers.values(), slope=1.5, warmth=(session.step + 1) / _WARM_STEPS
        )
        frames = FrameBatch(**{name: value.to(session.device) for name, value in vars(batch.frames).items()})
        with session.autocast():
            fields = networks["outline"](frames.x.contiguous(memory_format=torch.channels_last))
            fronts = networks["face"](batch.faces.to(session.device).contiguous(memory_format=torch.channels_last))
        terms = losses(fields, frames)
        terms["face"] = F.binary_cross_entropy_with_logits(fronts.float(), batch.face_ahead.to(session.device))
        total = weighted(terms, self.config.losses)
        session.require_finite(total)
        self.learnt.step(total, list(networks))
        running_mean(session.latest, "", terms)

    def evaluation_is_due(self) -> bool:
        return self.session.elapsed_s - self.session.evaluated_s >= 60 * self.config.evaluate_minutes

    def evaluate(self) -> Evaluation:
        figures, calibration = evaluate(self.learnt.averaged, self.held, self.simulated_held, self.config.seed)
        fitted = {"trust": calibration.to_json(FRAME_NAMES)} if calibration is not None else {}
        self.facts |= {"figures": figures} | fitted
        return Evaluation(figures, -figures["difference_mm_mean"], title="held out")


def build_networks() -> dict[str, nn.Module]:
    """The two networks by their part, with random weights."""
    return {"outline": FrameNetwork(), "face": FaceNetwork()}
