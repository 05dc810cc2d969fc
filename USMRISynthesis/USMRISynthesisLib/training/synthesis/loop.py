"""The training loop: one function, from the configuration to the last checkpoint.

    usmri train configs/default.toml

Each step: one batch; A, B, C, D, E once; the networks' step on every term; the discriminators' step on the
same fakes, detached. On a CPU with a fixed number of threads a run with the same seed repeats bit by bit, also
when it was stopped and resumed in between.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from USMRISynthesisLib.errors import Cancelled, Failed
from USMRISynthesisLib.synthesis.generator import Generator
from USMRISynthesisLib.training.common import checkpoint as checkpoints
from USMRISynthesisLib.training.common.config import TrainingConfig, configuration_from, read_configuration
from USMRISynthesisLib.training.common.distributed import processes
from USMRISynthesisLib.training.common.run import average, opened, prepared, stop_signals
from USMRISynthesisLib.training.synthesis import baselines as peers
from USMRISynthesisLib.training.synthesis.augmentation import augment
from USMRISynthesisLib.training.synthesis.backward import BackwardPath
from USMRISynthesisLib.training.synthesis.collapse import CollapseWatch, accuracies
from USMRISynthesisLib.training.synthesis.contrast import PatchContrast
from USMRISynthesisLib.training.synthesis.data import Batch, Slices
from USMRISynthesisLib.training.synthesis.discriminators import Discriminators
from USMRISynthesisLib.training.synthesis.edgenet import EdgeNet
from USMRISynthesisLib.training.synthesis.history import HistoryPool
from USMRISynthesisLib.training.synthesis.monitoring import (
    Log,
    draw_pictures,
    hold_out,
    measure,
    progress_line,
    synthesised,
)
from USMRISynthesisLib.training.synthesis.objective import (
    Real,
    Synthesised,
    discriminator_terms,
    generator_terms,
    weighted_sum,
)
from USMRISynthesisLib.training.synthesis.sources import WITHOUT_PAIRS, load_sources
from USMRISynthesisLib.training.synthesis.warm_start import start_from

Network = TypeVar("Network", bound=nn.Module)


def train(
    config: str | Path | TrainingConfig,
    *,
    resume: bool = True,
    minutes: float | None = None,
    cancel: Callable[[], bool] | None = None,
    report: Callable[[str], None] = print,
) -> Path:
    """Train as the configuration, or its TOML file, says; returns the path of the last checkpoint.

    Goes on from the output folder's checkpoint if there is one (`resume`); without `resume` it refuses to write
    over it. `minutes` replaces the configuration's limit, counted over all sittings of the run. `cancel`,
    asked at every step, Ctrl-C and SIGTERM save a checkpoint and raise Cancelled.

    Raises Refused (configuration, data), Failed (the loss is no number any more), Cancelled.
    """
    if not isinstance(config, TrainingConfig):
        config = read_configuration(config)
    limit_s = 60 * (config.minutes if minutes is None else minutes)
    output = Path(config.output)
    together = processes()
    if not together.is_first:
        report = _silent
    saved, state = opened(config, configuration_from, resume=resume)
    together.wait()  # or a late one would find what the first has begun to write

    # --- machine
    device, half = prepared(
        threads=config.threads, precision=config.precision, seed=config.seed, device=together.device
    )
    # On a CPU instance norm copies channels_last images, which costs what the convolutions gain.
    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format

    def placed(network: Network) -> Network:
        return network.to(device).to(memory_format=layout)  # type: ignore[call-overload]

    rng = np.random.default_rng(config.seed)

    # --- data
    sources = load_sources(config.data)
    slices = Slices(
        sources.training, sources.seen, rng, batch=config.batch, changes=config.input, generator=config.generator,
        mr=sources.mr, mr_weeks=config.data.mr_weeks, scans=sources.scans, shrink=config.data.shrink,
    )  # fmt: skip
    held = hold_out(sources, config.evaluation_slices, config.generator, config.data.shrink)
    names = sources.names
    if sources.scans and not (config.batch.simulated or config.batch.framed):
        report(WITHOUT_PAIRS)
    report(f"{sources}, {len(sources.seen or ())} real frames")

    # --- networks
    channels = config.generator.channels
    generator = placed(Generator(config.generator))
    if config.initial and state is None:
        start_from(generator, config.initial)
    averaged = copy.deepcopy(generator).eval().requires_grad_(False)
    backward = placed(BackwardPath(channels, skips=config.backward_skips))
    discriminators = placed(
        Discriminators(channels[-1], config.discriminators.width, spectral=config.discriminators.spectral)
    )
    edge_net = EdgeNet().to(device)
    contrast = placed(PatchContrast(channels)) if config.objective.nce else None
    networks = [*generator.parameters(), *backward.parameters(), *(contrast.parameters() if contrast else ())]
    rate, betas = config.optimiser.rate, config.optimiser.betas
    optimiser = torch.optim.Adam(networks, lr=rate, betas=betas)
    judges = torch.optim.Adam(discriminators.parameters(), lr=rate, betas=betas)
    pools = {"mr": HistoryPool(config.history), "us": HistoryPool(config.history)}
    kept: dict[str, Any] = {
        "generator": generator, "averaged": averaged, "backward": backward, "discriminators": discriminators,
        "optimiser": optimiser, "judges": judges, "pool_mr": pools["mr"], "pool_us": pools["us"],
    } | ({"contrast": contrast} if contrast else {})  # fmt: skip

    # --- where the run stands
    step, elapsed_s, best = 0, 0.0, float("-inf")
    latest: dict[str, float] = {}
    if state is not None:
        for name, part in kept.items():
            part.load_state_dict(state[name])
        checkpoints.restore_random_state(state["random"], rng)
        step, elapsed_s, best = state["step"], state["elapsed_s"], state["best"]
        latest = dict(state.get("latest", {}))
        report(f"going on from step {step}")
        if state["cases"] != names:
            report("the training cases have changed since the checkpoint: the run will not repeat exactly")

    def save() -> None:
        if not together.is_first:
            return
        content = {name: part.state_dict() for name, part in kept.items()}
        facts = {"step": step, "elapsed_s": elapsed_s, "best": best, "latest": latest, "cases": names}
        origin = {"config": config.to_json(), "random": checkpoints.random_state(rng)}
        checkpoints.save(saved, content | facts | origin)

    if together.is_first:
        log, evaluations = Log(output / "log.csv", step), Log(output / "evaluation.csv", step)

    watch = CollapseWatch()

    # --- the whole batch, and this process's part of it
    total_samples = config.batch.samples
    part = together.part(total_samples)

    def changed(images: Tensor) -> Tensor:
        return augment(images, config.augmentation, total_samples, part)

    def remembered(name: str, fakes: Tensor) -> Tensor:
        return pools[name].exchange(together.gathered(fakes, total_samples))[part]

    # --- the loop
    with stop_signals() as stopped:
        began, logged = time.perf_counter() - elapsed_s, (step, elapsed_s)
        while step < config.steps and not (limit_s and elapsed_s >= limit_s):
            share = max(step / config.steps, elapsed_s / limit_s if limit_s else 0.0)
            rate_now = rate * min(1.0, 2 * (1 - share))
            for group in (*optimiser.param_groups, *judges.param_groups):
                group["lr"] = rate_now

            objective = config.objective
            if step % config.unpaired_every:
                objective = objective.without_unpaired()
            whole = slices.draw()
            shares = together.shares(whole.has_truth, part)
            batch = Batch(*(values[part] for values in whole))
            x = batch.x.to(device, memory_format=layout)
            real = Real(*(part.to(device) for part in (batch.us, batch.mr, batch.truth, batch.has_truth)))

            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                y, us, mr = generator.forward_training(x)
                made = Synthesised(y, us.float(), mr.float(), None, None)
                if objective.needs_backward_path:
                    y_back, us_back = backward(mr)
                    made = made._replace(y_back=y_back, us_back=us_back.float())
                discriminators.requires_grad_(False)
                terms = generator_terms(made, real, discriminators, edge_net, objective, changed)
                if objective.has_peer_terms:
                    other = peers.make(generator, backward, real.mr, x, objective)
                    terms |= peers.generator_terms(
                        made, other, real.mr, x, generator, discriminators, contrast, objective, changed
                    )
                discriminators.requires_grad_(True)
            total = weighted_sum(terms, objective, shares)
            if not bool(torch.isfinite(together.mean(total))):
                raise Failed("diverged", f"The loss is no number at step {step}.", "Lower optimiser.rate.")
            optimiser.zero_grad(set_to_none=True)
            total.backward()
            together.average_gradients(networks)
            optimiser.step()
            average(averaged, generator, min(config.ema, (1 + step) / (10 + step)))

            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                judged = discriminator_terms(made, real, discriminators, edge_net, objective, changed, remembered)
                if objective.has_peer_terms:
                    judged |= peers.discriminator_terms(other, real, discriminators, objective, changed, remembered)
            if judged:
                judges.zero_grad(set_to_none=True)
                lost = torch.stack([value.float() for value in judged.values()]).sum()
                (lost if shares is None else lost * shares["d"]).backward()
                together.average_gradients(discriminators.parameters())
                judges.step()

            if shares is not None:
                terms = {name: together.mean(shares[name] * value.float()) for name, value in terms.items()}
                judged = {name: together.mean(shares["d"] * value.float()) for name, value in judged.items()}
            latest |= _numbers(terms) | {f"d_{name}": value for name, value in _numbers(judged).items()}
            step += 1
            elapsed_s, halted = together.agreed(
                (time.perf_counter() - began, stopped() or (cancel is not None and cancel()))
            )
            ending = step == config.steps or bool(limit_s and elapsed_s >= limit_s)
            if together.is_first and (step % config.log_every == 0 or ending):
                log.write({"step": step, "elapsed_s": elapsed_s, "rate": rate_now} | latest)
                seconds = (elapsed_s - logged[1]) / (step - logged[0])
                logged = (step, elapsed_s)
                left_s = (config.steps - step) * seconds
                left_s = min(left_s, limit_s - elapsed_s) if limit_s else left_s
                report(progress_line(step, config.steps, seconds, max(left_s, 0.0), latest))
            if together.is_first and (step % config.evaluate_every == 0 or ending):
                predicted = synthesised(averaged, held.x, device)
                shown = predicted[:0] if held.frames is None else synthesised(averaged, held.frames, device)
                figures = measure(predicted, held)
                unseen = predicted if len(predicted) else shown
                told = accuracies(discriminators, edge_net, held.mr, unseen, config.objective)
                for line in watch.warnings(told):
                    report(line)
                evaluations.write({"step": step, **figures, **told})
                text = ", ".join(f"{name} {value:.3f}" for name, value in (figures | told).items())
                report(f"held out{' (simulated)' if figures else ''}: {text or 'pictures only'}")
                draw_pictures(output / f"step-{step:06d}.png", predicted, shown, held)
                if figures.get("residual_ncc", float("-inf")) > best:
                    best = figures["residual_ncc"]
                    facts = {"step": step, "config": config.to_json(), "cases": names, "figures": figures}
                    checkpoints.save(output / checkpoints.BEST, {"averaged": averaged.state_dict(), **facts})
            if step % config.checkpoint_every == 0 or ending:
                save()
            if not ending and halted:
                save()
                raise Cancelled(
                    "cancelled",
                    f"Training stopped at step {step}; a checkpoint was saved.",
                    "Run the same command to go on.",
                )
    return saved


def _silent(text: str) -> None:
    """What processes other than the first report."""


def _numbers(terms: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float(value.detach()) for name, value in terms.items()}
