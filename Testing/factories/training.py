"""A tiny data set and configuration for the training tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from USMRISynthesisLib.training.common import checkpoint
from USMRISynthesisLib.training.synthesis.config import InputConfig

SIZE = 32
STILL = InputConfig(**dict.fromkeys(InputConfig.__dataclass_fields__, 0.0))

TOML = """
output = "{output}"
steps = {steps}
seed = 3
precision = "{precision}"
threads = 1
history = 3
log_every = 2
checkpoint_every = 100
evaluate_every = 5
evaluation_slices = 2
{extra}
[data]
folder = "{data}"
frames = "{data}/hc18.npz"
[generator]
width = 2
multipliers = [1, 2, 2]
skips = [1]
reconstruction_skips = [1]
attention_level = 1
[objective]
supervised = 10
edge = 2
[discriminators]
width = 2
[batch]
simulated = 2
real = 1
"""


def simulated_case(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    k, j, i = np.indices((SIZE, SIZE, SIZE)) - SIZE / 2
    head = k**2 / 100 + j**2 / 140 + i**2 / 110 < 1
    t2 = np.where(head, 100 + 20 * rng.standard_normal(head.shape).cumsum(axis=2).clip(-4, 4), 0)
    fan = abs(i) < 14
    us = np.where(fan, (t2 / 2 + 30 * rng.random(head.shape)), 0)
    return {
        "us": us.astype(np.uint8), "t2": t2.astype(np.uint8), "labels": head.astype(np.uint8), "fan": fan,
        "week": 21 + seed % 4, "seed": seed, "parameters": "{}",
        "frames_us": us[15:17].astype(np.uint8), "frames_fan": fan[15:17], "frames_t2": t2[15:17].astype(np.uint8),
    }  # fmt: skip


def make_data(folder: Path) -> Path:
    """Three training cases with two simulated frames each, one for validation, and twelve real frames."""
    for part, seeds in (("train", (1, 2, 3)), ("val", (4,))):
        (folder / part).mkdir()
        for seed in seeds:
            np.savez_compressed(folder / part / f"case-{seed}.npz", **simulated_case(seed))
    rng = np.random.default_rng(0)
    us = rng.integers(0, 200, (12, SIZE, SIZE)).astype(np.uint8)
    fan = np.ones(us.shape, bool)
    fan[:, :, :3] = False
    np.savez(folder / "hc18.npz", us=us, fan=fan, split=np.array(["train"] * 8 + ["val"] * 4))
    return folder


def configure(tmp_path: Path, data: Path, *, steps=10, extra="", output="run", precision="fp32") -> Path:
    path = tmp_path / f"{output}.toml"
    text = TOML.format(output=tmp_path / output, data=data, steps=steps, extra=extra, precision=precision)
    path.write_text(text)
    return path


def same_weights(first: Path, second: Path) -> bool:
    a, b = checkpoint.load(first), checkpoint.load(second)
    parts = ("generator", "averaged", "backward", "discriminators")
    return all(torch.equal(a[part][name], b[part][name]) for part in parts for name in a[part])
