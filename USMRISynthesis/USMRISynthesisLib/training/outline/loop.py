"""The training loop of the frames' networks: one function, from the configuration to the last checkpoint.

    usmri train configs/frames.toml

Each step trains the outline on real and simulated frames, and the face's end on simulated ones, where it is known.
A step's batch depends on the seed and the step's number alone, so it is made ahead on a thread of its own, and a run
that was stopped goes on exactly where it stood.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from USMRISynthesisLib.alignment.common.confidence import FRAME_NAMES
from USMRISynthesisLib.alignment.frame.network import FaceNetwork, FrameNetwork
from USMRISynthesisLib.datasets.frames import real_pictures, simulated_pictures
from USMRISynthesisLib.errors import Cancelled, Failed, Refused
from USMRISynthesisLib.training.common import checkpoint as checkpoints
from USMRISynthesisLib.training.common.run import ahead, average, follow, opened, prepared, stop_signals
from USMRISynthesisLib.training.outline.config import frames_configuration_from, read_frames_configuration
from USMRISynthesisLib.training.outline.losses import losses, weighted
from USMRISynthesisLib.training.outline.monitoring import evaluate
from USMRISynthesisLib.training.outline.samples import FrameBatch, draw, draw_faces
from USMRISynthesisLib.training.synthesis.monitoring import Log, progress_line

# The images are disturbed gently at first: what a head looks like is learnt before what hides it.
_GENTLE, _GENTLE_STEPS = 0.3, 1000
_WARM_STEPS = 100


def train_frames(
    config_path: str | Path,
    *,
    resume: bool = True,
    minutes: float | None = None,
    cancel: Callable[[], bool] | None = None,
    report: Callable[[str], None] = print,
) -> Path:
    """Train as the TOML file says; arguments, files and errors as those of `training.loop.train`."""
    config = read_frames_configuration(config_path)
    limit_s = 60 * (config.minutes if minutes is None else minutes)
    output = Path(config.output)
    saved, state = opened(config, frames_configuration_from, resume=resume)
    device, half = prepared(threads=config.threads, precision=config.precision, seed=config.seed)

    real = real_pictures(Path(config.data.real), "train")
    simulated = simulated_pictures(Path(config.data.simulated) / "train")
    held = real_pictures(Path(config.data.real), "val")
    simulated_held = simulated_pictures(Path(config.data.simulated) / "val")
    if not simulated:
        raise Refused(
            "data",
            f"There are no simulated frames in {config.data.simulated}.",
            "Make them with `usmri simulate`; its configuration needs frames_a_head.",
        )
    groups = sorted({picture.group for picture in [*real, *simulated]})
    report(f"{len(real)} real and {len(simulated)} simulated frames; {len(held)} of other fetuses to look at")

    networks = {
        name: network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for name, network in build_networks().items()
    }
    averaged = {name: copy.deepcopy(network).eval().requires_grad_(False) for name, network in networks.items()}
    optimisers = {
        name: torch.optim.AdamW(network.parameters(), lr=config.rate, weight_decay=config.decay)
        for name, network in networks.items()
    }

    step, elapsed_s, best = 0, 0.0, float("-inf")
    latest: dict[str, float] = {}
    trust: dict[str, Any] = {}
    figures: dict[str, float] = {}
    trained = dict.fromkeys(networks, 0)
    if state is not None:
        for name in networks:
            networks[name].load_state_dict(state["networks"][name])
            averaged[name].load_state_dict(state["averaged"][name])
            optimisers[name].load_state_dict(state["optimisers"][name])
        trained = dict(state["trained"])
        torch.set_rng_state(state["torch"])
        step, elapsed_s, best = state["step"], state["elapsed_s"], state["best"]
        latest, trust, figures = dict(state["latest"]), dict(state["trust"]), dict(state["figures"])
        report(f"going on from step {step}")

    def content() -> dict[str, Any]:
        return {
            "task": config.task, "config": config.to_json(), "step": step, "elapsed_s": elapsed_s, "best": best,
            "averaged": {n: network.state_dict() for n, network in averaged.items()}, "cases": groups, "trust": trust,
            "latest": latest, "figures": figures, "trained": trained,
        }  # fmt: skip

    def save() -> None:
        parts = {
            "networks": {n: network.state_dict() for n, network in networks.items()},
            "optimisers": {n: optimiser.state_dict() for n, optimiser in optimisers.items()},
            "torch": torch.get_rng_state(),
        }  # the dropout's
        checkpoints.save(saved, content() | parts)

    def make(number: int) -> tuple[FrameBatch, Tensor, Tensor]:
        rng = np.random.default_rng([config.seed, 3, number])
        strength = config.strength * min(1.0, _GENTLE + (1 - _GENTLE) * number / _GENTLE_STEPS)
        frames = draw(real, simulated, rng, (config.real, config.simulated), strength=strength)
        return frames, *draw_faces(simulated, rng, config.faces, strength=strength)

    log, evaluations = Log(output / "log.csv", step), Log(output / "evaluation.csv", step)
    with stop_signals() as stopped, ahead(make, step) as batches:
        began, logged = time.perf_counter() - elapsed_s, (step, elapsed_s)
        evaluated_s = elapsed_s
        while step < config.steps and not (limit_s and elapsed_s >= limit_s):
            share = max(step / config.steps, elapsed_s / limit_s if limit_s else 0.0)
            rate = config.rate * min(1.0, 1.5 * (1 - share)) * min(1.0, (step + 1) / _WARM_STEPS)
            frames, faces, ahead_of = batches(step)
            batch = FrameBatch(**{name: value.to(device) for name, value in vars(frames).items()})
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                said = networks["outline"](batch.x.contiguous(memory_format=torch.channels_last))
                fronts = networks["face"](faces.to(device).contiguous(memory_format=torch.channels_last))
            terms = losses(said, batch)
            terms["face"] = F.binary_cross_entropy_with_logits(fronts.float(), ahead_of.to(device))
            total = weighted(terms, config.losses)
            if not bool(torch.isfinite(total)):
                raise Failed("diverged", f"The loss is no number at step {step}.", "Lower rate.")
            for optimiser in optimisers.values():
                optimiser.zero_grad(set_to_none=True)
            total.backward()
            for name, network in networks.items():  # they share no weight: each has its own length of step
                for group in optimisers[name].param_groups:
                    group["lr"] = rate
                if bool(torch.isfinite(torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0))):
                    optimisers[name].step()
                    trained[name] += 1
                average(averaged[name], network, min(config.ema, (1 + trained[name]) / (10 + trained[name])))

            follow(latest, "", terms)
            step += 1
            elapsed_s = time.perf_counter() - began
            ending = step == config.steps or bool(limit_s and elapsed_s >= limit_s)
            if step % config.log_every == 0 or ending:
                log.write({"step": step, "elapsed_s": elapsed_s, "rate": rate} | latest)
                seconds = (elapsed_s - logged[1]) / (step - logged[0])
                logged = (step, elapsed_s)
                left_s = (config.steps - step) * seconds
                left_s = min(left_s, limit_s - elapsed_s) if limit_s else left_s
                report(progress_line(step, config.steps, seconds, max(left_s, 0.0), latest))
            if ending or elapsed_s - evaluated_s >= 60 * config.evaluate_minutes:
                figures, calibration = evaluate(averaged, held, simulated_held, config.seed)
                trust = calibration.to_json(FRAME_NAMES) if calibration is not None else trust
                evaluations.write({"step": step, **figures})
                report("held out: " + ", ".join(f"{n} {v:.3f}" for n, v in figures.items()))
                evaluated_s = elapsed_s = time.perf_counter() - began
                if -figures["difference_mm_mean"] > best:
                    best = -figures["difference_mm_mean"]
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


def build_networks() -> dict[str, nn.Module]:
    """The two networks by their part, with random weights."""
    return {"outline": FrameNetwork(), "face": FaceNetwork()}
