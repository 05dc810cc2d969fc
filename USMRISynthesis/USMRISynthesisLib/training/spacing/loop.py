"""The training of slice spacing: a VAE of thick slices, then super resolution of what it synthesised (Xuan 2021).

    usmri train configs/spacing.toml

A step's batch depends on the seed and the step's number alone, so that a stopped run goes on exactly. The synthesised
fine stacks are no part of a checkpoint: the VAE makes the same ones again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.spacing.latent import synthesise
from USMRISynthesisLib.spacing.network import SliceVAE, SuperResolution
from USMRISynthesisLib.training.common import checkpoint
from USMRISynthesisLib.training.common.networks import TrainedNetworks
from USMRISynthesisLib.training.common.session import Session, Training, running_mean
from USMRISynthesisLib.training.spacing.config import SpacingConfig
from USMRISynthesisLib.training.spacing.data import Pairs, Stack, load_stacks, pair_batch, slice_batch

_WARM_STEPS = 50
_TERMS = ("vae_l1", "vae_kl", "super_resolution_l1", "super_resolution_square")


class SpacingTraining(Training["Tensor | Pairs"]):
    """The two networks, and the stacks that they learn from. Raises Refused (data, `vae`).

    switched: the step and the seconds at which stage 2 began; empty in stage 1.
    """

    def __init__(self, session: Session[SpacingConfig]) -> None:
        self.session, self.config = session, session.config
        config = self.config
        self.stacks = load_stacks(config.data, config.seed)
        self.cases = [stack.name for stack in self.stacks]
        session.report(f"{len(self.stacks)} stacks, {sum(len(stack.slices) for stack in self.stacks)} thick slices")
        networks: dict[str, nn.Module] = {
            "vae": SliceVAE(config.vae_width, config.latent).to(session.device),
            "super_resolution": SuperResolution(config.width).to(session.device),
        }
        if config.vae and session.state is None:
            networks["vae"].load_state_dict(_given_vae(config))
        self.learnt = TrainedNetworks(
            networks, lambda weights: torch.optim.Adam(weights, lr=config.rate), ema=config.ema, largest_gradient=1.0
        )
        self.parts = {**self.learnt.parts()}
        self.facts = {"switched": [0, 0.0] if config.vae else []}
        self.fine: list[np.ndarray] = []

    def batch(self, number: int) -> Tensor | Pairs:
        config, session = self.config, self.session
        limit_s = config.vae_share * session.limit_s
        if not self.switched and (number >= config.vae_steps or (limit_s and session.elapsed_s >= limit_s)):
            self.facts["switched"] = [number, session.elapsed_s]
            session.report(f"stage 2 from step {number}: super resolution of synthesised fine slices")
        rng = np.random.default_rng([config.seed, 22, number])
        if not self.switched:
            return slice_batch(self.stacks, rng, config)
        if not self.fine and config.in_plane < 1:
            self.fine = [fine_stack(self.learnt.averaged["vae"], stack, session.device) for stack in self.stacks]
        return pair_batch(self.fine, self.stacks, rng, config)

    def step(self, batch: Tensor | Pairs) -> None:
        config, session = self.config, self.session
        name = "super_resolution" if self.switched else "vae"
        network, (share, done) = self.learnt.networks[name], self._progress()
        session.set_rate(config.rate, self.learnt.optimisers[name], share=share, warmth=(done + 1) / _WARM_STEPS)
        if isinstance(batch, Tensor):
            terms = vae_terms(network, batch.to(session.device), session)
            total = terms["l1"] + config.kl * terms["kl"]
        else:
            x, conditions, truth = (part.to(session.device) for part in (batch.x, batch.conditions, batch.truth))
            with session.autocast():
                predicted = network(x, conditions)
            terms = pair_terms(predicted.float(), x, truth)
            total = terms["l1"] + terms["square"]
        session.require_finite(total)
        self.learnt.step(total, [name])
        running_mean(session.latest, f"{name}_", terms)

    def log_row(self) -> dict[str, float]:
        return {name: self.session.latest.get(name, float("nan")) for name in _TERMS}

    def load(self, state: Mapping[str, Any]) -> None:
        begun = state["switched"][0] if state["switched"] else state["step"]
        counts = {"vae": begun, "super_resolution": state["step"] - begun}  # which older checkpoints do not have
        super().load({"trained": counts, **state})

    @property
    def switched(self) -> Sequence[float]:
        return list(self.facts["switched"])

    def _progress(self) -> tuple[float, float]:
        """How much of the present stage is over, by steps or by time, whichever is more; and its steps so far."""
        config, session = self.config, self.session
        first, since = self.switched or (0, 0.0)
        steps = max(1, config.steps - first) if self.switched else config.vae_steps
        limit_s = session.limit_s if self.switched else config.vae_share * session.limit_s
        done = session.step - first
        return min(1.0, max(done / steps, (session.elapsed_s - since) / (limit_s - since) if limit_s else 0.0)), done


def vae_terms(vae: nn.Module, x: Tensor, session: Session[SpacingConfig]) -> dict[str, Tensor]:
    """L1 of the reconstruction from a drawn latent, and the latent's divergence from N(0, 1) a latent value."""
    seed = session.config.seed * 1_000_003 + session.step
    with session.autocast():
        mean, logarithm = vae.encode(x)  # type: ignore[operator]
        drawn = torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed))
        made = vae.decode(mean + drawn.to(x.device, mean.dtype) * (0.5 * logarithm).exp())  # type: ignore[operator]
    mean, logarithm = mean.float(), logarithm.float()
    divergence = 0.5 * (mean**2 + logarithm.exp() - 1 - logarithm).mean()
    return {"l1": (made.float() - x).abs().mean(), "kl": divergence}


def pair_terms(made: Tensor, start: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """L1 and mean square of the error, each as a share of the linear estimate's: 1 is where the training starts.

    Shares, so that every factor counts alike. The paper has L1; its gradient is all but 0 at first, because most pixels
    need no correction, and the square (our addition) gets the network away from there.
    """
    error, before = made - truth, start - truth
    return {
        "l1": error.abs().mean() / before.abs().mean().clamp_min(1e-6),
        "square": error.square().mean() / before.square().mean().clamp_min(1e-10),
    }


def fine_stack(vae: nn.Module, stack: Stack, device: torch.device) -> np.ndarray:
    """What the VAE makes of a stack: (m, h, w) float32 with cubes for voxels."""
    return synthesise(vae, stack.slices, round(len(stack.slices) * stack.factor), device)


def _given_vae(config: SpacingConfig) -> dict[str, Any]:
    try:
        weights: dict[str, Any] = checkpoint.load(config.vae)["averaged"]["vae"]
    except KeyError as error:
        raise Refused("checkpoint", f"{config.vae} holds no VAE.", "Give a slice-spacing checkpoint.") from error
    return weights
