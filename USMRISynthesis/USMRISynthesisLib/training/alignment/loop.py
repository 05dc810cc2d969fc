"""The training loop of the alignment: one function, from the configuration to the last checkpoint.

    usmri train configs/alignment.toml

Each step trains a network on one batch of one stage; a round of the cycle visits every stage. A step's batch depends on
the seed and the step's number alone, so it is made ahead on a thread of its own, and a run that was stopped goes on
exactly where it stood.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from USMRISynthesisLib.alignment.volume.network import Prediction
from USMRISynthesisLib.datasets.heads import Head, load_heads
from USMRISynthesisLib.errors import Cancelled, Failed
from USMRISynthesisLib.training.alignment.config import (
    AlignmentConfig,
    alignment_configuration_from,
    read_alignment_configuration,
)
from USMRISynthesisLib.training.alignment.export import build_networks, start_from
from USMRISynthesisLib.training.alignment.losses import losses, weighted
from USMRISynthesisLib.training.alignment.monitoring import evaluate
from USMRISynthesisLib.training.alignment.samples import Batch, draw
from USMRISynthesisLib.training.common import checkpoint as checkpoints
from USMRISynthesisLib.training.common.run import ahead, average, follow, opened, prepared, stop_signals
from USMRISynthesisLib.training.synthesis.monitoring import Log, progress_line

# The images are disturbed gently at first: what a head looks like is learnt before what hides it.
_GENTLE, _GENTLE_STEPS = 0.3, 1500


def train_alignment(
    config_path: str | Path,
    *,
    resume: bool = True,
    minutes: float | None = None,
    cancel: Callable[[], bool] | None = None,
    report: Callable[[str], None] = print,
) -> Path:
    """Train as the TOML file says; arguments, files and errors as those of `training.loop.train`."""
    config = read_alignment_configuration(config_path)
    limit_s = 60 * (config.minutes if minutes is None else minutes)
    output = Path(config.output)
    saved, state = opened(config, alignment_configuration_from, resume=resume)
    device, half = prepared(threads=config.threads, precision=config.precision, seed=config.seed)

    cycle = config.cycle.stages()
    folders = [Path(config.data.folder) / "train", *map(Path, config.data.also)]
    training = [head for folder in folders for head in load_heads(folder)]
    validation = load_heads(Path(config.data.folder) / "val")
    names = [head.name for head in training]
    report(f"{len(training)} training and {len(validation)} validation heads")

    networks = {
        name: network.to(device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        for name, network in build_networks().items()
    }
    if config.initial and state is None:
        start_from(networks, config.initial)
    averaged = {name: copy.deepcopy(network).eval().requires_grad_(False) for name, network in networks.items()}
    optimisers = {name: torch.optim.Adam(network.parameters(), lr=config.rate) for name, network in networks.items()}

    step, elapsed_s, best = 0, 0.0, float("-inf")
    latest: dict[str, float] = {}
    trained = dict.fromkeys(networks, 0)
    trust: dict[str, Any] = {}
    figures: dict[str, float] = {}
    if state is not None:
        for name in networks:
            networks[name].load_state_dict(state["networks"][name])
            averaged[name].load_state_dict(state["averaged"][name])
            optimisers[name].load_state_dict(state["optimisers"][name])
        step, elapsed_s, best = state["step"], state["elapsed_s"], state["best"]
        latest, trained, trust = dict(state["latest"]), dict(state["trained"]), dict(state["trust"])
        figures = dict(state.get("figures", {}))
        report(f"going on from step {step}")

    def content() -> dict[str, Any]:
        return {
            "task": config.task, "config": config.to_json(), "step": step, "elapsed_s": elapsed_s, "best": best,
            "averaged": {n: network.state_dict() for n, network in averaged.items()}, "cases": names, "trust": trust,
            "latest": latest, "trained": trained, "figures": figures,
        }  # fmt: skip

    def save() -> None:
        parts = {
            "networks": {n: network.state_dict() for n, network in networks.items()},
            "optimisers": {n: optimiser.state_dict() for n, optimiser in optimisers.items()},
        }
        checkpoints.save(saved, content() | parts)

    log, evaluations = Log(output / "log.csv", step), Log(output / "evaluation.csv", step)

    def make(number: int) -> Batch:
        return batch_of(config, cycle[number % len(cycle)], number, training)

    with stop_signals() as stopped, ahead(make, step) as batches:
        began, logged = time.perf_counter() - elapsed_s, (step, elapsed_s)
        evaluated_s = elapsed_s
        while step < config.steps and not (limit_s and elapsed_s >= limit_s):
            share = max(step / config.steps, elapsed_s / limit_s if limit_s else 0.0)
            rate = config.rate * min(1.0, 2 * (1 - share)) * min(1.0, (step + 1) / (20 * len(cycle)))
            stage = cycle[step % len(cycle)]
            batch = Batch(**{name: value.to(device) for name, value in vars(batches(step)).items()})
            network, optimiser = networks[stage], optimisers[stage]
            for group in optimiser.param_groups:
                group["lr"] = rate
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                said = Prediction(*network(batch.x))
            terms = losses(stage, said, batch)
            total = weighted(terms, config.losses)
            if not bool(torch.isfinite(total)):
                raise Failed("diverged", f"The loss is no number at step {step}.", "Lower rate.")
            optimiser.zero_grad(set_to_none=True)
            total.backward()
            norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            if bool(torch.isfinite(norm)):  # bf16 gradients of small volumes are no numbers now and then (torch 2.13)
                optimiser.step()
                trained[stage] += 1
                average(averaged[stage], network, min(config.ema, (1 + trained[stage]) / (10 + trained[stage])))

            follow(latest, f"{stage}_", terms)
            step += 1
            elapsed_s = time.perf_counter() - began
            ending = step == config.steps or bool(limit_s and elapsed_s >= limit_s)
            if (step % config.log_every == 0 and step >= len(cycle)) or ending:
                log.write({"step": step, "elapsed_s": elapsed_s, "rate": rate} | latest)
                seconds = (elapsed_s - logged[1]) / (step - logged[0])
                logged = (step, elapsed_s)
                left_s = (config.steps - step) * seconds
                left_s = min(left_s, limit_s - elapsed_s) if limit_s else left_s
                shown = {k: v for k, v in latest.items() if k.endswith("coordinates")}
                report(progress_line(step, config.steps, seconds, max(left_s, 0.0), shown))
            if ending or elapsed_s - evaluated_s >= 60 * config.evaluate_minutes:
                figures, calibration = evaluate(averaged, validation, config.evaluation_poses, config.seed)
                trust = calibration.to_json() if calibration is not None else trust
                evaluations.write({"step": step, **figures})
                report("held out (simulated): " + ", ".join(f"{n} {v:.3f}" for n, v in figures.items()))
                evaluated_s = elapsed_s = time.perf_counter() - began
                if -figures["rotation_deg_mean"] > best:
                    best = -figures["rotation_deg_mean"]
                    checkpoints.save(output / checkpoints.BEST, content())
            if step % config.checkpoint_every == 0 or ending:
                save()
            if not ending and (stopped() or (cancel is not None and cancel())):
                save()
                raise Cancelled(
                    "cancelled",
                    f"Training stopped at step {step}; a checkpoint was saved.",
                    "Run the same command to go on.",
                )
    return saved


def batch_of(config: AlignmentConfig, stage: str, step: int, heads: list[Head]) -> Batch:
    """The batch of one step: it depends on the configuration, the seed and the step's number alone."""
    rng = np.random.default_rng([config.seed, 3, step])
    strength = config.strength * min(1.0, _GENTLE + (1 - _GENTLE) * step / _GENTLE_STEPS)
    return draw(stage, heads, rng, config.batch, strength=strength)
