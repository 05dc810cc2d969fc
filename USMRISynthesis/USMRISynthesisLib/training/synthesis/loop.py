"""The training of the synthesis.

    usmri train configs/default.toml

Each step: one batch; A, B, C, D, E once; the networks' step on every term; the discriminators' step on the
same fakes, detached. On a CPU with a fixed number of threads a run with the same seed repeats bit by bit, also
when it was stopped and resumed in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from USMRISynthesisLib.synthesis.generator import Generator
from USMRISynthesisLib.training.common.checkpoint import RandomState
from USMRISynthesisLib.training.common.networks import averaged_copy, update_ema
from USMRISynthesisLib.training.common.session import Evaluation, Session, Training
from USMRISynthesisLib.training.synthesis import baselines
from USMRISynthesisLib.training.synthesis.augmentation import augment
from USMRISynthesisLib.training.synthesis.collapse import CollapseWatch, accuracies
from USMRISynthesisLib.training.synthesis.config import TrainingConfig
from USMRISynthesisLib.training.synthesis.data import Batch, Slices
from USMRISynthesisLib.training.synthesis.history import HistoryPool
from USMRISynthesisLib.training.synthesis.monitoring import draw_pictures, hold_out, measure, synthesised
from USMRISynthesisLib.training.synthesis.networks import BackwardPath, Discriminators, EdgeNet, PatchContrast
from USMRISynthesisLib.training.synthesis.objective import (
    BASELINE_TERMS,
    PAIRED_TERMS,
    TERMS,
    UNPAIRED_TERMS,
    ObjectiveConfig,
    Real,
    Synthesised,
    discriminator_terms,
    generator_terms,
    weighted_sum,
)
from USMRISynthesisLib.training.synthesis.sources import WITHOUT_PAIRS, load_sources
from USMRISynthesisLib.training.synthesis.warm_start import start_from

Network = TypeVar("Network", bound=nn.Module)
_TAUGHT_FROM = 1500  # steps from nothing; before, the averaged generator knows less than the one that learns
_DISCRIMINATORS = "d"  # their share of a batch


class Fakes(NamedTuple):
    """What the networks made in a step: of the ultrasound, of the MR where a baseline needs it, and beside what."""

    synthesised: Synthesised
    from_mr: baselines.FromMR | None
    real: Real


class SynthesisTraining(Training[Batch]):
    """Generator, way back and discriminators, and the slices that they learn from. Raises Refused (data, `initial`)."""

    def __init__(self, session: Session[TrainingConfig]) -> None:
        self.session, self.config = session, session.config
        config, device = self.config, session.device
        # On a CPU instance norm copies channels_last images, which costs what the convolutions gain.
        self.layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
        self.rng = np.random.default_rng(config.seed)
        sources = load_sources(config.data)
        self.slices = Slices(
            sources.training, sources.seen, self.rng, batch=config.batch, changes=config.input,
            generator=config.generator, mr=sources.mr, mr_weeks=config.data.mr_weeks, scans=sources.scans,
            marked=sources.marked, shrink=config.data.shrink,
        )  # fmt: skip
        self.held = hold_out(sources, config.evaluation_slices, config.generator, config.data.shrink)
        self.cases = sources.names
        if sources.scans and not (config.batch.simulated or config.batch.framed):
            session.report(WITHOUT_PAIRS)
        session.report(f"{sources}, {len(sources.seen or ())} real frames")

        channels = config.generator.channels
        self.generator = self._placed(Generator(config.generator))
        if config.initial and session.state is None:
            start_from(self.generator, config.initial)
        self.averaged = averaged_copy(self.generator)
        self.first = self._first_generator()
        self.backward = self._placed(BackwardPath(channels, skips=config.backward_skips))
        self.discriminators = self._placed(
            Discriminators(channels[-1], config.discriminators.width, spectral=config.discriminators.spectral)
        )
        self.edge_net = EdgeNet().to(device)
        self.contrast = self._placed(PatchContrast(channels)) if config.objective.nce else None
        contrast = self.contrast.parameters() if self.contrast else ()
        self.parameters = [*self.generator.parameters(), *self.backward.parameters(), *contrast]
        rate, betas = config.optimiser.rate, config.optimiser.betas
        self.optimiser = torch.optim.Adam(self.parameters, lr=rate, betas=betas)
        self.discriminator_optimizer = torch.optim.Adam(self.discriminators.parameters(), lr=rate, betas=betas)
        self.pools = {"mr": HistoryPool(config.history), "us": HistoryPool(config.history)}
        self.parts = {  # "judges" is what checkpoints have always called that optimiser
            "generator": self.generator, "averaged": self.averaged, "backward": self.backward,
            "discriminators": self.discriminators, "optimiser": self.optimiser, "judges": self.discriminator_optimizer,
            "pool_mr": self.pools["mr"], "pool_us": self.pools["us"], "random": RandomState(self.rng),
        }  # fmt: skip
        if self.contrast:
            self.parts["contrast"] = self.contrast
        self.facts = {}
        self.watch = CollapseWatch()
        self.total_samples = config.batch.samples
        self.part = session.together.part(self.total_samples)  # of the whole batch, this process's samples

    def batch(self, number: int) -> Batch:
        return self.slices.draw()

    def step(self, batch: Batch) -> None:
        config, session, together = self.config, self.session, self.session.together
        session.set_rate(config.optimiser.rate, self.optimiser, self.discriminator_optimizer)
        objective = config.objective
        if session.step % config.unpaired_every:
            objective = objective.without_unpaired()
        every = (_DISCRIMINATORS, *TERMS, *BASELINE_TERMS)
        shares = together.shares(batch.has_truth, self.part, every, paired=PAIRED_TERMS, unpaired=UNPAIRED_TERMS)
        fakes, terms = self._forward(Batch(*(values[self.part] for values in batch)), objective)

        total = weighted_sum(terms, objective, shares)
        session.require_finite(together.mean(total), "optimiser.rate")
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        together.average_gradients(self.parameters)
        self.optimiser.step()
        update_ema(self.averaged, self.generator, min(config.ema, (1 + session.step) / (10 + session.step)))
        d_terms = self._step_discriminators(fakes, objective, shares)

        if shares is not None:
            terms = {name: together.mean(shares[name] * value.float()) for name, value in terms.items()}
            d_terms = {name: together.mean(shares[_DISCRIMINATORS] * v.float()) for name, v in d_terms.items()}
        session.latest |= _numbers(terms) | {f"d_{name}": value for name, value in _numbers(d_terms).items()}

    def _forward(self, batch: Batch, objective: ObjectiveConfig) -> tuple[Fakes, dict[str, Tensor]]:
        """What the networks make of a batch, and the terms of their own step."""
        device = self.session.device
        x = batch.x.to(device, memory_format=self.layout)
        known = (batch.us, batch.mr, batch.truth, batch.has_truth, batch.marks)
        real = Real(*(part.to(device) for part in known))
        with self.session.autocast():
            y, us, mr = self.generator.forward_training(x)
            made = Synthesised(y, us.float(), mr.float(), None, None, self._taught(batch, objective))
            made = made._replace(before=self._before(batch, objective))
            if objective.needs_backward_path:
                y_back, us_back = self.backward(mr)
                made = made._replace(y_back=y_back, us_back=us_back.float())
            if made.before is None:  # marks alone would paint all of a real frame bright
                objective = replace(objective, marks=0.0)
            self.discriminators.requires_grad_(False)
            terms = generator_terms(made, real, self.discriminators, self.edge_net, objective, self._augmented)
            other = None
            if objective.has_baseline_terms:
                other = baselines.from_mr(self.generator, self.backward, real.mr, x, objective)
                terms |= baselines.generator_terms(
                    made, other, real.mr, x, self.generator, self.discriminators, self.contrast, objective,
                    self._augmented,
                )  # fmt: skip
            self.discriminators.requires_grad_(True)
        return Fakes(made, other, real), terms

    def _taught(self, batch: Batch, objective: ObjectiveConfig) -> Tensor | None:
        """What the averaged generator makes of the undisturbed, mirrored samples without truth; None at first."""
        unknown = ~batch.has_truth
        if not objective.agree or self._is_untaught() or not bool(unknown.any()):
            return None
        taught = torch.zeros(len(unknown), 1, *batch.us.shape[2:], device=self.session.device)
        with torch.no_grad():
            mirrored = batch.plain[unknown].flip(-1).to(self.session.device, memory_format=self.layout)
            taught[unknown] = self.averaged(mirrored).float().flip(-1)
        return taught

    def _first_generator(self) -> nn.Module:
        """What `initial` names, for good; the averaged generator of a run from nothing."""
        if not self.config.initial or not self.config.objective.marks:
            return self.averaged
        first = self._placed(Generator(self.config.generator))
        start_from(first, self.config.initial)
        return first.eval().requires_grad_(False)

    def _before(self, batch: Batch, objective: ObjectiveConfig) -> Tensor | None:
        """What that generator makes of the undisturbed frames with marks; None where there are none, or too early."""
        marked = batch.marks.flatten(1).any(1)
        if not objective.marks or self._is_untaught() or not bool(marked.any()):
            return None
        before = torch.zeros(len(marked), 1, *batch.us.shape[2:], device=self.session.device)
        with torch.no_grad():
            plain = batch.plain[marked].to(self.session.device, memory_format=self.layout)
            before[marked] = self.first(plain).float()
        return before

    def _is_untaught(self) -> bool:
        return not self.config.initial and self.session.step < _TAUGHT_FROM

    def _step_discriminators(
        self, fakes: Fakes, objective: ObjectiveConfig, shares: Mapping[str, float] | None
    ) -> dict[str, Tensor]:
        """Their step on the same fakes; their terms."""
        made, other, real = fakes
        with self.session.autocast():
            terms = discriminator_terms(
                made, real, self.discriminators, self.edge_net, objective, self._augmented, self._from_history
            )
            if other is not None:
                terms |= baselines.discriminator_terms(
                    other, real, self.discriminators, objective, self._augmented, self._from_history
                )
        if terms:
            self.discriminator_optimizer.zero_grad(set_to_none=True)
            lost = torch.stack([value.float() for value in terms.values()]).sum()
            (lost if shares is None else lost * shares[_DISCRIMINATORS]).backward()
            self.session.together.average_gradients(self.discriminators.parameters())
            self.discriminator_optimizer.step()
        return terms

    def evaluation_is_due(self) -> bool:
        return self.session.step % self.config.evaluate_every == 0

    def evaluate(self) -> Evaluation:
        session, held = self.session, self.held
        predicted = synthesised(self.averaged, held.x, session.device)
        shown = predicted[:0] if held.frames is None else synthesised(self.averaged, held.frames, session.device)
        figures = measure(predicted, held)
        unseen = predicted if len(predicted) else shown
        found = accuracies(self.discriminators, self.edge_net, held.mr, unseen, self.config.objective)
        for line in self.watch.warnings(found):
            session.report(line)
        draw_pictures(session.output / f"step-{session.step:06d}.png", predicted, shown, held)
        title = "held out (simulated)" if figures else "held out"
        return Evaluation(figures, figures.get("residual_ncc", float("-inf")), title, beside=found)

    def _placed(self, network: Network) -> Network:
        return network.to(self.session.device).to(memory_format=self.layout)  # type: ignore[call-overload]

    def _augmented(self, images: Tensor) -> Tensor:
        return augment(images, self.config.augmentation, self.total_samples, self.part)

    def _from_history(self, name: str, fakes: Tensor) -> Tensor:
        whole = self.session.together.gathered(fakes, self.total_samples)
        return self.pools[name].exchange(whole)[self.part]


def _numbers(terms: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float(value.detach()) for name, value in terms.items()}
