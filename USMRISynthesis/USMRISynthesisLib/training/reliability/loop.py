"""Training a support map: what it says is wrong against what is, then calibration on heads the generator never saw.

Beside the cross-entropy it learns the size of the error everywhere, as the scale of a Laplace distribution: a yes or no
says little of most voxels, and a few heads have few wrong ones.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import optimize

from USMRISynthesisLib.errors import Cancelled, Failed, Refused
from USMRISynthesisLib.synthesis.engine import load_generator
from USMRISynthesisLib.synthesis.reliability import ReliabilityNetwork, logits
from USMRISynthesisLib.training.common import checkpoint as checkpoints
from USMRISynthesisLib.training.common.run import average, opened, prepared, stop_signals
from USMRISynthesisLib.training.reliability.config import (
    TASK,
    SupportConfig,
    read_support_configuration,
    support_configuration_from,
)
from USMRISynthesisLib.training.reliability.data import JUDGED, Judged, changed, draw, judged
from USMRISynthesisLib.training.synthesis.monitoring import Log, progress_line

SEEN = 2  # the batch's parts that the network sees


def train_support(
    config: str | Path | SupportConfig,
    *,
    resume: bool = True,
    minutes: float | None = None,
    cancel: Callable[[], bool] | None = None,
    report: Callable[[str], None] = print,
) -> Path:
    """Train as the configuration, or its TOML file, says; returns the path of the checkpoint.

    A stopped run goes on exactly where it was. The generator's output on every head is kept in the run's folder.
    Raises Refused (configuration, data), Failed (model, the loss is no number any more), Cancelled.
    """
    if not isinstance(config, SupportConfig):
        config = read_support_configuration(config)
    limit_s = 60 * (config.minutes if minutes is None else minutes)
    output = Path(config.output)
    saved, state = opened(config, support_configuration_from, resume=resume)
    device, half = prepared(threads=config.threads, precision=config.precision, seed=config.seed)
    rng = np.random.default_rng(config.seed)

    generator = load_generator(config.model)
    of = generator.manifest.sha256
    if state is not None and state["model_sha256"] != of:
        raise Refused(
            "model", f"The run in {output} belongs to other weights of {config.model!r}.", "Choose another output."
        )
    folder, kept = Path(config.folder), output / f"judged-{JUDGED}-{of[:16]}"
    learnt = judged(
        generator, [*(folder / name for name in config.learn), *map(Path, config.also)], kept, report=report
    )
    learnt += judged(generator, [Path(name) for name in config.axial], kept, axial=True, report=report)
    held = judged(
        generator,
        [*(folder / name for name in config.calibrate), *map(Path, config.also_calibrate)],
        kept,
        report=report,
    )

    network = ReliabilityNetwork(config.dropout).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    averaged = copy.deepcopy(network).eval().requires_grad_(False)
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.rate, weight_decay=config.decay)
    kept_parts: dict[str, Any] = {"network": network, "averaged": averaged, "optimiser": optimiser}
    step, elapsed_s = 0, 0.0
    if state is not None:
        for name, part in kept_parts.items():
            part.load_state_dict(state[name])
        checkpoints.restore_random_state(state["random"], rng)
        step, elapsed_s = state["step"], state["elapsed_s"]
        report(f"going on from step {step}")

    def save() -> None:
        facts = {"task": TASK, "step": step, "elapsed_s": elapsed_s, "model_sha256": of, "config": config.to_json(),
                 "cases": [head.name for head in learnt], "random": checkpoints.random_state(rng)}  # fmt: skip
        checkpoints.save(saved, {name: part.state_dict() for name, part in kept_parts.items()} | facts)

    log = Log(output / "log.csv", step)
    with stop_signals() as stopped:
        began = time.perf_counter() - elapsed_s
        while step < config.steps and not (limit_s and elapsed_s >= limit_s):
            share = max(step / config.steps, elapsed_s / limit_s if limit_s else 0.0)
            for group in optimiser.param_groups:
                group["lr"] = config.rate * min(1.0, 2 * (1 - share))
            batch = changed(draw(learnt, config.batch, rng), rng)
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                said = network.predictions(*(part.to(device) for part in batch[:SEEN])).float()
            wrong, error, inside = (part.to(device) for part in batch[SEEN:])
            terms = {"wrong": _cross_entropy(said[:, :1], wrong, inside), "size": _laplace(said[:, 1:], error, inside)}
            loss = terms["wrong"] + config.size * terms["size"]
            if not bool(torch.isfinite(loss)):
                raise Failed("diverged", f"The loss is no number at step {step}.", "Lower rate.")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            step += 1
            average(averaged, network, min(config.ema, step / (10 + step)))
            elapsed_s = time.perf_counter() - began
            ending = step == config.steps or bool(limit_s and elapsed_s >= limit_s)
            if step % config.log_every == 0 or ending:
                row = {"loss": float(loss.detach())} | {name: float(term.detach()) for name, term in terms.items()}
                log.write({"step": step, "elapsed_s": elapsed_s, **row})
                report(progress_line(step, config.steps, elapsed_s / step, max(limit_s - elapsed_s, 0.0), row))
            if ending:
                calibrate(averaged, held)
                report(f"calibrated: scale {averaged.scale.tolist()}, offset {averaged.offset.tolist()}")
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


def calibrate(network: ReliabilityNetwork, heads: Sequence[Judged]) -> None:
    """Platt's scaling of the logits on these heads, in place: the probabilities become shares that are wrong.

    One scaling for what was made in one plane, one for what was made in several; where there is none of the latter it
    takes the former's.
    """
    network.scale.fill_(1)
    network.offset.fill_(0)
    found = []
    for kind in range(2):
        said, wrong = [], []
        for head in heads:
            n = min(kind, len(head.made) - 1)
            inside = head.inside == 255
            said.append(logits(network, head.head(n), inside, device=network.scale.device)[inside])
            wrong.append(head.made[n].wrong[inside] / 255)
        found.append(_scaling(np.concatenate(said), np.concatenate(wrong)))
    for kind, (scale, offset) in enumerate(found):
        network.scale[kind], network.offset[kind] = scale, offset


def _scaling(said: np.ndarray, wrong: np.ndarray) -> tuple[float, float]:
    """Scale and offset with the least cross-entropy between these logits and shares."""
    x, y = said.astype(np.float64), wrong.astype(np.float64)

    def loss(values: np.ndarray) -> float:
        z = values[0] * x + values[1]
        return float((np.logaddexp(0, z) - y * z).mean())

    scale, offset = optimize.minimize(loss, [1.0, 0.0], method="Nelder-Mead").x
    return float(scale), float(offset)


def _cross_entropy(logits: torch.Tensor, wrong: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Mean over the brain where the beam was; `wrong` counts in every cell only what is inside."""
    share = (wrong / inside.clamp(min=0.125)).clamp(max=1)
    return (F.binary_cross_entropy_with_logits(logits, share, reduction="none") * inside).sum() / inside.sum().clamp(1)


def _laplace(log_size: torch.Tensor, error: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of the error under a Laplace distribution of that scale, mean over brain in the beam."""
    log_size = log_size.clamp(-6, 1)
    return ((error * torch.exp(-log_size) + log_size) * inside).sum() / inside.sum().clamp(1)
