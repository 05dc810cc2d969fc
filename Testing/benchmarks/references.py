"""What the shipped path is held against: R0, R1 and the convolutions of this machine.

R0 is the paper's method taken literally: eager, batch 1, an N x N attention at full resolution, all of B. R1 is the
same with the attention at its real level. The limit is the best convolution rate in the precision of the shipped path.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from USMRISynthesisLib.geometry.canonical import SIZE
from USMRISynthesisLib.synthesis.attention import CrossModalAttention
from USMRISynthesisLib.synthesis.engine import BATCH
from USMRISynthesisLib.synthesis.generator import Generator, GeneratorConfig


class NaiveAttention(nn.Module):
    """The formula as it is printed, with the N x N matrix. Takes its embeddings from the real one."""

    def __init__(self, real: CrossModalAttention) -> None:
        super().__init__()
        self.delta, self.phi, self.g, self.eta = real.delta, real.phi, real.g, real.eta

    def forward(self, f_us: Tensor, f_mr: Tensor) -> Tensor:
        q, k, v = self.delta(f_us).flatten(2), self.phi(f_us).flatten(2), self.g(f_mr).flatten(2)
        return self.eta(attend_naive(q, k, v).view_as(f_mr)) + f_mr


def attend_naive(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(Q K^T / N) V for (B, C', N), through the N x N matrix."""
    return torch.bmm(torch.bmm(q.transpose(1, 2), k) / q.shape[2], v.transpose(1, 2)).transpose(1, 2)


def best(run: Callable[[], Any], times: int) -> float:
    """Seconds of the fastest of `times` runs, after one that warms up."""
    with torch.inference_mode():
        run()
        found = float("inf")
        for _ in range(times):
            start = time.perf_counter()
            run()
            found = min(found, time.perf_counter() - start)
    return found


def reference_seconds(config: GeneratorConfig, slices: int, *, full_resolution: bool) -> float:
    """Seconds that R0 (attention at full resolution, all of B) or R1 takes for 160 slices, from `slices`."""
    torch.manual_seed(0)
    generator = Generator(replace(config, attention_level=0) if full_resolution else config).eval()
    if isinstance(generator.attention, CrossModalAttention):
        generator.attention = NaiveAttention(generator.attention)
    x = torch.rand(1, config.in_channels, SIZE, SIZE) * 2 - 1
    run = generator.forward_training if full_resolution else generator
    return best(lambda: [run(x) for _ in range(slices)], 1 if full_resolution else 3) / slices * 160


def convolution_rate(dtype: torch.dtype, times: int) -> tuple[float, str]:
    """Best GFLOP/s of 3x3 convolutions of several shapes in this precision, and the shape."""
    found = []
    for channels, side in ((16, 160), (32, 160), (64, 80), (128, 40), (256, 40)):
        layer = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        layer = layer.to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = torch.rand(4, channels, side, side).to(dtype).contiguous(memory_format=torch.channels_last)
        seconds = best(lambda: layer(x), times)  # noqa: B023 - used at once
        found.append((2 * 9 * channels**2 * side**2 * 4 / seconds / 1e9, f"{channels} channels at {side}"))
    return max(found)


def gflop_a_slice(config: GeneratorConfig) -> float:
    """GFLOP of one slice on the inference path."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        Generator(config).eval()(torch.zeros(1, config.in_channels, SIZE, SIZE))
    return counter.get_total_flops() / 1e9


def convolutions_alone(config: GeneratorConfig, dtype: torch.dtype, times: int) -> list[tuple[str, int, float, float]]:
    """Each shape of convolution of the inference path by itself, as the engine runs it: what it is, how often it
    comes, GFLOP and seconds a slice. No norm, no ReLU, no pooling: the fastest that this architecture can be here.
    """
    seen: dict[tuple[int, ...], int] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer, nn.Conv2d)
        shape = (layer.in_channels, layer.out_channels, layer.kernel_size[0], output.shape[-1])
        seen[shape] = seen.get(shape, 0) + 1

    generator = Generator(config).eval()
    for module in generator.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note)
    with torch.inference_mode():
        generator(torch.zeros(1, config.in_channels, SIZE, SIZE))
    found = []
    for (before, after, kernel, side), count in seen.items():
        layer = nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False).to(dtype)
        layer = torch.jit.freeze(
            torch.jit.trace(
                layer.eval().to(memory_format=torch.channels_last), torch.zeros(1, before, side, side, dtype=dtype)
            )
        )
        x = torch.rand(BATCH["cpu"], before, side, side).to(dtype).contiguous(memory_format=torch.channels_last)
        # Twenty at a time: one is shorter than the clock of a shared machine is steady.
        seconds = best(lambda: [layer(x) for _ in range(20)], times) / 20 / BATCH["cpu"]  # noqa: B023 - used at once
        gflop = 2 * kernel**2 * before * after * side**2 / 1e9
        found.append((f"{kernel}x{kernel}, {before:3d} -> {after:3d} channels at {side}", count, gflop, seconds))
    return found
