"""What every training run does the same way: open its folder, stop when asked, average its networks."""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.models.device import native_half
from USMRISynthesisLib.training.common import checkpoint as checkpoints

_AHEAD = 3
Batch = TypeVar("Batch")


def opened(
    config: checkpoints.Configuration, read: Callable[[dict[str, Any]], checkpoints.Configuration], *, resume: bool
) -> tuple[Path, dict[str, Any] | None]:
    """Make a run's folder; the checkpoint's path there, and its content where there is one.

    read: builds the configuration that a checkpoint keeps. Raises Refused where there is a checkpoint and no `resume`,
    or one that was made with another configuration.
    """
    output = Path(config.output)
    saved, state = output / checkpoints.CHECKPOINT, None
    if saved.is_file():
        if not resume:
            raise Refused("output", f"{output} already holds a run.", "Choose another output, or resume it.")
        state = checkpoints.load(saved)
        checkpoints.refuse_changes(read(state["config"]), config)
    output.mkdir(parents=True, exist_ok=True)
    return saved, state


def prepared(
    *, threads: int, precision: str, seed: int, device: torch.device | None = None
) -> tuple[torch.device, bool]:
    """The device to train on (the best where None is given), and whether in bf16; sets torch's threads and seed."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    half = precision == "bf16" or (precision == "auto" and native_half(device)[0] is not None)
    torch.manual_seed(seed)
    return device, half


def average(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    """Exponential moving average of parameters and running statistics; `decay` is smaller at first, to forget the
    start.
    """
    with torch.no_grad():
        for mean, new in zip(averaged.parameters(), network.parameters(), strict=True):
            mean.lerp_(new, 1 - decay)
        for kept, now in zip(averaged.buffers(), network.buffers(), strict=True):
            if kept.is_floating_point():
                kept.lerp_(now, 1 - decay)
            else:
                kept.copy_(now)


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C and SIGTERM into a question that the loop asks between steps; a second Ctrl-C is itself."""
    asked = False
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: object) -> None:
        nonlocal asked
        asked = True
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def ahead(make: Callable[[int], Batch], first: int) -> Iterator[Callable[[int], Batch]]:
    """Batches by their step's number, made on another thread before they are asked for, in order from `first` on."""
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


def follow(latest: dict[str, float], prefix: str, terms: Mapping[str, Tensor]) -> None:
    """Running means of a loss's terms, so that a log row holds them all; the same keys from the first on."""
    for name, value in terms.items():
        key, now = f"{prefix}{name}", float(value.detach())
        latest[key] = now if key not in latest else 0.95 * latest[key] + 0.05 * now


def keep_freed_memory() -> None:
    """Ask glibc to keep large freed blocks: giving them back to the system costs page faults at every step."""
    if sys.platform == "linux":
        try:
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(-4, 0)  # M_MMAP_MAX
            libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        except (OSError, AttributeError):
            pass  # another C library: only slower
