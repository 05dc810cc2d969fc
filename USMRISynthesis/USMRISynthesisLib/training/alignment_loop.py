"""The training loop of the alignment: one function, from the configuration to the last checkpoint.

    usmri train configs/alignment.toml

Each step trains a network on one batch of one stage; a round of the cycle visits every stage. A step's batch depends on
the seed and the step's number alone, so it is made ahead on a thread of its own, and a run that was stopped goes on
exactly where it stood.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import Cancelled, Failed, Refused
from ..normalisation.network import Prediction
from ..normalisation.stages import STAGES
from ..synthesis.device import native_half
from . import checkpoint as checkpoints
from .alignment_configuration import AlignmentConfig, alignment_configuration_from, read_alignment_configuration
from .alignment_data import Head, load_heads
from .alignment_export import build_networks
from .alignment_frames import Frame, draw_frames, load_real, slices_of, stored_frames
from .alignment_losses import losses, weighted
from .alignment_monitoring import evaluate
from .alignment_samples import Batch, draw
from .configuration import changed_keys
from .loop import _average, _keep_freed_memory, _stop_signals
from .monitoring import Log, progress_line

_AHEAD = 3
_SLICES_EACH = 4
_SQUARES = 3  # for a cube: a square costs less
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
    saved = output / checkpoints.CHECKPOINT
    if saved.is_file() and not resume:
        raise Refused("output", f"{output} already holds a run.", "Choose another output, or resume it.")
    state = checkpoints.load(saved) if saved.is_file() else None
    if state is not None:
        _refuse_changes(state, config)
    output.mkdir(parents=True, exist_ok=True)

    torch.set_num_threads(config.threads)
    _keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    half = config.precision == "bf16" or (config.precision == "auto" and native_half(device)[0] is not None)
    torch.manual_seed(config.seed)

    cycle = config.cycle.stages()
    training = load_heads(Path(config.data.folder) / "train")
    validation = load_heads(Path(config.data.folder) / "val")
    flat = any(STAGES[stage].dimensions == 2 for stage in cycle)
    real = load_real(Path(config.data.frames), "train") if config.data.frames and flat else []
    simulated = slices_of(training, _SLICES_EACH, config.seed) if flat else []
    simulated += stored_frames(Path(config.data.folder) / "train") if flat else []
    names = [head.name for head in training]
    report(f"{len(training)} training and {len(validation)} validation heads, {len(real)} real and "
           f"{len(simulated)} simulated frames")

    networks = {name: network.to(device)
                for name, network in build_networks(STAGES[stage].network for stage in cycle).items()}
    averaged = {name: copy.deepcopy(network).eval().requires_grad_(False) for name, network in networks.items()}
    optimisers = {name: torch.optim.Adam(network.parameters(), lr=config.rate) for name, network in networks.items()}

    step, elapsed_s, best = 0, 0.0, float("-inf")
    latest: dict[str, float] = {}
    trained = dict.fromkeys(networks, 0)
    trust: dict[str, Any] = {}
    if state is not None:
        for name in networks:
            networks[name].load_state_dict(state["networks"][name])
            averaged[name].load_state_dict(state["averaged"][name])
            optimisers[name].load_state_dict(state["optimisers"][name])
        step, elapsed_s, best = state["step"], state["elapsed_s"], state["best"]
        latest, trained, trust = dict(state["latest"]), dict(state["trained"]), dict(state["trust"])
        report(f"going on from step {step}")

    def content(figures: dict[str, float] | None = None) -> dict[str, Any]:
        return {
            "task": config.task, "config": config.to_json(), "step": step, "elapsed_s": elapsed_s, "best": best,
            "averaged": {n: network.state_dict() for n, network in averaged.items()}, "cases": names, "trust": trust,
            "latest": latest, "trained": trained, **({"figures": figures} if figures else {}),
        }  # fmt: skip

    figures: dict[str, float] = dict(state.get("figures", {})) if state is not None else {}

    def save() -> None:
        parts = {"networks": {n: network.state_dict() for n, network in networks.items()},
                 "optimisers": {n: optimiser.state_dict() for n, optimiser in optimisers.items()}}
        checkpoints.save(saved, content(figures) | parts)

    log, evaluations = Log(output / "log.csv", step), Log(output / "evaluation.csv", step)

    def make(number: int) -> Batch:
        return batch_of(config, cycle[number % len(cycle)], number, training, real, simulated)

    with _stop_signals() as stopped, _ahead(make, step) as batches:
        began, logged = time.perf_counter() - elapsed_s, (step, elapsed_s)
        evaluated_s = elapsed_s
        while step < config.steps and not (limit_s and elapsed_s >= limit_s):
            share = max(step / config.steps, elapsed_s / limit_s if limit_s else 0.0)
            rate = config.rate * min(1.0, 2 * (1 - share)) * min(1.0, (step + 1) / (10 * len(cycle)))
            stage = cycle[step % len(cycle)]
            batch = _placed(batches(step), device)
            part = STAGES[stage].network
            optimiser = optimisers[part]
            for group in optimiser.param_groups:
                group["lr"] = rate
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                said = Prediction(*networks[part](batch.x))
            terms = losses(said, batch)
            total = weighted(terms, config.losses)
            if not bool(torch.isfinite(total)):
                raise Failed("diverged", f"The loss is no number at step {step}.", "Lower rate.")
            optimiser.zero_grad(set_to_none=True)
            total.backward()
            torch.nn.utils.clip_grad_norm_(networks[part].parameters(), 20.0)
            optimiser.step()
            trained[part] += 1
            _average(averaged[part], networks[part], min(config.ema, (1 + trained[part]) / (10 + trained[part])))

            _follow(latest, stage, {name: float(value.detach()) for name, value in terms.items()})
            step += 1
            elapsed_s = time.perf_counter() - began
            ending = step == config.steps or bool(limit_s and elapsed_s >= limit_s)
            if (step % config.log_every == 0 and step >= len(cycle)) or ending:
                log.write({"step": step, "elapsed_s": elapsed_s, "rate": rate} | latest)
                seconds = (elapsed_s - logged[1]) / (step - logged[0])
                logged = (step, elapsed_s)
                left_s = (config.steps - step) * seconds
                left_s = min(left_s, limit_s - elapsed_s) if limit_s else left_s
                shown = {k: v for k, v in latest.items() if k.endswith(("plain", "upright", "masks"))}
                report(progress_line(step, config.steps, seconds, max(left_s, 0.0), shown))
            if ending or elapsed_s - evaluated_s >= 60 * config.evaluate_minutes:
                figures, calibration = evaluate(averaged, validation, config.evaluation_poses, config.seed)
                trust = calibration.to_json() if calibration is not None else trust
                evaluations.write({"step": step, **figures})
                report("held out (simulated): " + ", ".join(f"{n} {v:.3f}" for n, v in figures.items()))
                evaluated_s = elapsed_s = time.perf_counter() - began
                if -figures.get("rotation_deg_mean", 180.0) > best:
                    best = -figures["rotation_deg_mean"]
                    checkpoints.save(output / checkpoints.BEST, content(figures))
            if step % config.checkpoint_every == 0 or ending:
                save()
            if not ending and (stopped() or (cancel is not None and cancel())):
                save()
                raise Cancelled("cancelled", f"Training stopped at step {step}; a checkpoint was saved.",
                                "Run the same command to go on.")
    return saved


def batch_of(config: AlignmentConfig, stage: str, step: int, heads: list[Head], real: list[Frame],
             simulated: list[Frame]) -> Batch:
    """The batch of one step: it depends on the configuration, the seed and the step's number alone."""
    rng = np.random.default_rng([config.seed, 3, step])
    strength = config.strength * min(1.0, _GENTLE + (1 - _GENTLE) * step / _GENTLE_STEPS)
    if STAGES[stage].dimensions == 2:
        return draw_frames(stage, real, simulated, rng, _SQUARES * config.batch, share_real=config.real,
                           strength=strength)
    return draw(stage, heads, rng, config.batch, strength=strength)


@contextmanager
def _ahead(make: Callable[[int], Batch], first: int) -> Iterator[Callable[[int], Batch]]:
    """Batches made on another thread, `_AHEAD` of them before they are asked for."""
    with ThreadPoolExecutor(1) as pool:
        waiting = {number: pool.submit(make, number) for number in range(first, first + _AHEAD)}

        def take(number: int) -> Batch:
            waiting[number + _AHEAD] = pool.submit(make, number + _AHEAD)
            return waiting.pop(number).result()

        try:
            yield take
        finally:
            for future in waiting.values():
                future.cancel()


def _placed(batch: Batch, device: torch.device) -> Batch:
    return batch if device.type == "cpu" else Batch(**{n: t.to(device) for n, t in vars(batch).items()})


def _follow(latest: dict[str, float], stage: str, terms: dict[str, float]) -> None:
    """Running means of every stage's terms, so that a log row holds them all; the same keys from the first on."""
    for name, value in terms.items():
        key = f"{stage}_{name}"
        latest[key] = value if key not in latest else 0.95 * latest[key] + 0.05 * value


def _refuse_changes(state: dict[str, Any], config: AlignmentConfig) -> None:
    try:
        before = alignment_configuration_from(state["config"]).to_json()
    except Refused:
        before = {"task": "another"}
    names = changed_keys(before, config.to_json())
    if names:
        raise Refused(
            "configuration",
            f"The run in {config.output} was started with another configuration: {', '.join(names)} changed.",
            "Undo the change, or choose another output.",
        )
