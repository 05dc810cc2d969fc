"""The training loop of slice spacing: a VAE of thick slices, then super resolution of what it synthesised (Xuan 2021).

    usmri train configs/spacing.toml

A step's batch depends on the seed and the step's number alone, so that a stopped run goes on exactly. The synthesised
fine stacks are no part of a checkpoint: the VAE makes the same ones again.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from USMRISynthesisLib.errors import Cancelled, Failed, Refused
from USMRISynthesisLib.spacing.latent import synthesise
from USMRISynthesisLib.spacing.network import SliceVAE, SuperResolution
from USMRISynthesisLib.training.common import checkpoint as checkpoints
from USMRISynthesisLib.training.common.run import average, opened, prepared, stop_signals
from USMRISynthesisLib.training.spacing.config import (
    SpacingConfig,
    read_spacing_configuration,
    spacing_configuration_from,
)
from USMRISynthesisLib.training.spacing.data import Stack, load_stacks, pair_batch, slice_batch
from USMRISynthesisLib.training.synthesis.monitoring import Log, progress_line


def train_spacing(
    config_path: str | Path,
    *,
    resume: bool = True,
    minutes: float | None = None,
    cancel: Callable[[], bool] | None = None,
    report: Callable[[str], None] = print,
) -> Path:
    """Train as the TOML file says; arguments, files and errors as those of `training.loop.train`."""
    config = read_spacing_configuration(config_path)
    limit_s = 60 * (config.minutes if minutes is None else minutes)
    output = Path(config.output)
    saved, state = opened(config, spacing_configuration_from, resume=resume)
    device, half = prepared(threads=config.threads, precision=config.precision, seed=config.seed)
    stacks = load_stacks(config.data, config.seed)
    report(f"{len(stacks)} stacks, {sum(len(stack.slices) for stack in stacks)} thick slices")

    networks: dict[str, nn.Module] = {
        "vae": SliceVAE(config.vae_width, config.latent).to(device),
        "super_resolution": SuperResolution(config.width).to(device),
    }
    if config.vae and state is None:
        networks["vae"].load_state_dict(_given_vae(config))
    averaged = {name: copy.deepcopy(network).eval().requires_grad_(False) for name, network in networks.items()}
    optimisers = {name: torch.optim.Adam(network.parameters(), lr=config.rate) for name, network in networks.items()}
    # switched: (step, seconds) at which stage 2 began
    step, elapsed_s, switched = 0, 0.0, (0, 0.0) if config.vae else None
    latest: dict[str, float] = {}
    if state is not None:
        for name in networks:
            networks[name].load_state_dict(state["networks"][name])
            averaged[name].load_state_dict(state["averaged"][name])
            optimisers[name].load_state_dict(state["optimisers"][name])
        step, elapsed_s, latest = state["step"], state["elapsed_s"], dict(state["latest"])
        switched = tuple(state["switched"]) if state["switched"] else None
        report(f"going on from step {step}")

    def save() -> None:
        checkpoints.save(saved, {
            "task": config.task, "config": config.to_json(), "step": step, "elapsed_s": elapsed_s, "latest": latest,
            "switched": list(switched) if switched else [], "cases": [stack.name for stack in stacks],
            "networks": {n: network.state_dict() for n, network in networks.items()},
            "averaged": {n: network.state_dict() for n, network in averaged.items()},
            "optimisers": {n: optimiser.state_dict() for n, optimiser in optimisers.items()},
        })  # fmt: skip

    log = Log(output / "log.csv", step)
    fine: list[np.ndarray] = []
    with stop_signals() as stopped:
        began, logged = time.perf_counter() - elapsed_s, (step, elapsed_s)
        while step < config.steps and not (limit_s and elapsed_s >= limit_s):
            if switched is None and (step >= config.vae_steps or (limit_s and elapsed_s >= config.vae_share * limit_s)):
                switched = (step, elapsed_s)
                report(f"stage 2 from step {step}: super resolution of synthesised fine slices")
            if switched is not None and not fine and config.in_plane < 1:
                fine = [fine_stack(averaged["vae"], stack, device) for stack in stacks]
            name = "vae" if switched is None else "super_resolution"
            network, optimiser = networks[name], optimisers[name]
            share = _share(config, step, elapsed_s, limit_s, switched)
            rate = config.rate * min(1.0, 2 * (1 - share)) * min(1.0, (step - (switched or (0,))[0] + 1) / 50)
            for group in optimiser.param_groups:
                group["lr"] = rate
            rng = np.random.default_rng([config.seed, 22, step])
            if switched is None:
                terms = vae_terms(network, slice_batch(stacks, rng, config).to(device), config, step, half)
            else:
                pairs = pair_batch(fine, stacks, rng, config)
                with torch.autocast(device.type, torch.bfloat16, enabled=half):
                    made = network(pairs.x.to(device), pairs.conditions.to(device))
                terms = pair_terms(made.float(), pairs.x.to(device), pairs.truth.to(device))
            total = terms["l1"] + (config.kl * terms["kl"] if "kl" in terms else terms["square"])
            if not bool(torch.isfinite(total)):
                raise Failed("diverged", f"The loss is no number at step {step}.", "Lower rate.")
            optimiser.zero_grad(set_to_none=True)
            total.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            trained = step + 1 - (switched[0] if switched else 0)
            average(averaged[name], network, min(config.ema, (1 + trained) / (10 + trained)))
            for term, value in terms.items():
                latest[f"{name}_{term}"] = _mean(latest.get(f"{name}_{term}"), float(value.detach()))
            step += 1
            elapsed_s = time.perf_counter() - began
            ending = step == config.steps or bool(limit_s and elapsed_s >= limit_s)
            if step % config.log_every == 0 or ending:
                row = {
                    key: latest.get(key, float("nan"))
                    for key in ("vae_l1", "vae_kl", "super_resolution_l1", "super_resolution_square")
                }
                log.write({"step": step, "elapsed_s": elapsed_s, "rate": rate} | row)
                seconds = (elapsed_s - logged[1]) / (step - logged[0])
                logged = (step, elapsed_s)
                left_s = (config.steps - step) * seconds
                left_s = min(left_s, limit_s - elapsed_s) if limit_s else left_s
                shown = {k: v for k, v in row.items() if v == v}
                report(progress_line(step, config.steps, seconds, max(left_s, 0.0), shown))
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


def vae_terms(vae: nn.Module, x: Tensor, config: SpacingConfig, step: int, half: bool) -> dict[str, Tensor]:
    """L1 of the reconstruction from a drawn latent, and the latent's divergence from N(0, 1) a latent value."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
        mean, logarithm = vae.encode(x)  # type: ignore[operator]
        drawn = torch.randn(mean.shape, generator=torch.Generator().manual_seed(config.seed * 1_000_003 + step))
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


def _share(
    config: SpacingConfig, step: int, elapsed_s: float, limit_s: float, switched: tuple[int, float] | None
) -> float:
    """How much of the present stage is over, by steps or by time, whichever is more."""
    if switched is None:
        return min(1.0, max(step / config.vae_steps, elapsed_s / (config.vae_share * limit_s) if limit_s else 0.0))
    by_steps = (step - switched[0]) / max(1, config.steps - switched[0])
    return min(1.0, max(by_steps, (elapsed_s - switched[1]) / (limit_s - switched[1]) if limit_s else 0.0))


def _given_vae(config: SpacingConfig) -> dict[str, Any]:
    try:
        weights: dict[str, Any] = checkpoints.load(config.vae)["averaged"]["vae"]
    except KeyError as error:
        raise Refused("checkpoint", f"{config.vae} holds no VAE.", "Give a slice-spacing checkpoint.") from error
    return weights


def _mean(before: float | None, now: float) -> float:
    """Running mean, so that a log row is not one batch's luck."""
    return now if before is None else 0.95 * before + 0.05 * now
