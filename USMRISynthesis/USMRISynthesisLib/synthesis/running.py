"""How a stack of canonical slices is run through a generator.

    mr = run_slices(generator.module, us, z_mm, neighbours=1, location=True, device=generator.device)

Small batches win on a CPU: two slices stay in the cache, sixteen cost page faults. Its threads take a batch each
(`models/parallel.py`). What comes out is the same whatever the batch: every slice is normalised by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from USMRISynthesisLib.callbacks import Cancel, Log, Progress
from USMRISynthesisLib.errors import Cancelled, Failed, memory_shortage
from USMRISynthesisLib.models.parallel import map_in_order, threads_on
from USMRISynthesisLib.synthesis.slices import assemble_input

BATCH = {"cpu": 2, "cuda": 16, "mps": 8}
BACKGROUND = -1.0


def run_slices(
    model: nn.Module,
    us: np.ndarray,
    z_mm: np.ndarray,
    *,
    neighbours: int,
    location: bool,
    plane: float | None = None,
    device: torch.device | str = "cpu",
    batch: int | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
    wanted: np.ndarray | None = None,
    dtype: torch.dtype = torch.float32,
    on_cpu: Callable[[], nn.Module] | None = None,
    log: Log | None = None,
) -> np.ndarray:
    """Run canonical slices through the generator.

    us: (K, H, W) in [-1, 1], -1 outside the fan; z_mm: (K,) in mm; plane: its code for a model of several planes
    (`planes.plane_code`). -> (K, H, W) float32 in [-1, 1].

    `wanted`, (K,) bool: the slices to synthesise; by default those that are not empty. The others
    come back as -1. On a CPU each thread takes a batch. `progress` and `cancel` are called after each batch. When the
    device runs out of memory the batch is halved, then one thread runs alone, then the module of `on_cpu()` is used;
    each step is written to `log`.
    Raises Cancelled, and Failed if the memory is still not enough.
    """
    use = _Use(
        model, torch.device(device), dtype, max(1, batch or BATCH.get(torch.device(device).type, 2)), threads_on(device)
    )
    todo = np.flatnonzero((us > BACKGROUND).any(axis=(1, 2)) if wanted is None else wanted)
    output = np.full(us.shape, BACKGROUND, dtype=np.float32)
    stack = torch.from_numpy(np.ascontiguousarray(us, dtype=np.float32))
    heights = torch.from_numpy(np.ascontiguousarray(z_mm, dtype=np.float32))
    done = 0
    while done < len(todo):

        def synthesised(some: np.ndarray, use: _Use = use) -> np.ndarray:
            return _forward(use, _channels(stack, heights, some, neighbours, location, plane))

        parts = [todo[first : first + use.batch] for first in range(done, len(todo), use.batch)]
        try:
            with closing(map_in_order(synthesised, parts, min(use.threads, len(parts)))) as results:
                for some in parts:
                    if cancel is not None and cancel():
                        raise Cancelled
                    output[some] = next(results)
                    done += len(some)
                    if progress is not None:
                        progress(done / len(todo), "Synthesising")
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            use = _smaller(error, use, on_cpu, log)
    if cancel is not None and cancel():
        raise Cancelled
    return output


@dataclass(frozen=True, eq=False)
class _Use:
    """How slices are run: model, device, precision, slices in a batch and number of threads."""

    model: nn.Module
    device: torch.device
    dtype: torch.dtype
    batch: int
    threads: int


def _channels(
    stack: Tensor, z_mm: Tensor, some: np.ndarray, neighbours: int, location: bool, plane: float | None
) -> Tensor:
    """Input channels (N, C, H, W) of the slices `some`; only the stretch of the stack they need is copied."""
    low, high = max(0, int(some[0]) - neighbours), min(len(stack), int(some[-1]) + neighbours + 1)
    # At the stretch's ends slices repeat, too: those are dropped again, or are the stack's true ends.
    x = assemble_input(stack[low:high], z_mm[low:high], neighbours, location, plane)
    return x[torch.from_numpy(some - low)]


def _forward(use: _Use, x: Tensor) -> np.ndarray:
    with torch.inference_mode():
        x = x.to(use.device, use.dtype).contiguous(memory_format=torch.channels_last)
        result: np.ndarray = use.model(x)[:, 0].float().clamp_(-1, 1).cpu().numpy()
    return result


def _smaller(error: BaseException, use: _Use, on_cpu: Callable[[], nn.Module] | None, log: Log | None) -> _Use:
    """The settings after running out of memory: half the batch, then one thread, then the CPU."""
    if use.device.type == "cuda":
        torch.cuda.empty_cache()
    if use.batch > 1:
        _warn(
            log,
            f"Out of memory with {use.batch} slices at a time on {use.device.type}: continuing with {use.batch // 2}.",
        )
        return replace(use, batch=use.batch // 2)
    if use.threads > 1:
        _warn(log, f"Out of memory with a slice on each of {use.threads} threads: continuing with one slice at a time.")
        return replace(use, threads=1)
    if use.device.type == "cpu" or on_cpu is None:
        raise Failed(
            "memory", "There is not enough memory for a single slice.", "Close other programs and try again."
        ) from error
    _warn(log, f"Out of memory on {use.device.type} even with one slice: continuing on the CPU.")
    return _Use(on_cpu(), torch.device("cpu"), torch.float32, BATCH["cpu"], threads_on("cpu"))


def _warn(log: Log | None, text: str) -> None:
    if log is not None:
        log("warning", text)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the memory, the device's or the computer's, was not enough."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or memory_shortage(error) is not None
