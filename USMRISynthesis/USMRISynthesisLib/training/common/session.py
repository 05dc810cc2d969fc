"""The loop of every training: steps, time limit, learning rate, log, evaluations, checkpoints, and stopping.

A training brings its data, its networks and one `step`; a `Session` runs it from its folder's checkpoint, or from
nothing, to the last step or the time limit.
"""

from __future__ import annotations

import ctypes
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from USMRISynthesisLib.errors import Cancelled, Failed, Refused
from USMRISynthesisLib.models.device import native_half
from USMRISynthesisLib.training.common import checkpoint
from USMRISynthesisLib.training.common.config import RunConfig
from USMRISynthesisLib.training.common.distributed import Processes
from USMRISynthesisLib.training.common.log import Log, progress_line
from USMRISynthesisLib.training.common.signals import stop_signals

_PREFETCHED = 3
Config = TypeVar("Config", bound=RunConfig)
Batch = TypeVar("Batch")


class Stateful(Protocol):
    """A part of a checkpoint."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state: Any, /) -> Any: ...


class Evaluation(NamedTuple):
    """Figures of held-out cases; what is written of them beside; and a score, larger for a better network."""

    figures: dict[str, float]
    score: float
    title: str = "held out (simulated)"
    beside: Mapping[str, float] = {}


class Session(Generic[Config]):
    """Where a run stands.

    Attributes:
        step, elapsed_s: what is behind it, in all sittings. best: the best score of an evaluation. latest: the loss's
        terms, as the next log row has them. rate: the learning rate of the present step. state: the checkpoint that the
        run goes on from, or None.
    """

    def __init__(
        self,
        config: Config,
        *,
        resume: bool = True,
        minutes: float | None = None,
        cancel: Callable[[], bool] | None = None,
        report: Callable[[str], None] = print,
        together: Processes | None = None,
    ) -> None:
        """Open the run's folder and choose the device. Raises Refused where the folder holds another run."""
        self.config = config
        self.limit_s = 60 * (config.minutes if minutes is None else minutes)
        self.output = Path(config.output)
        self.together = together or Processes()
        self.report = report if self.together.is_first else _silent
        self._cancel = cancel
        self.checkpoint, self.state = open_run(config, resume=resume)
        self.together.wait()  # or a late one would find what the first has begun to write
        self.device, self.half = setup_device(config, self.together.device)
        self.step, self.elapsed_s, self.evaluated_s = 0, 0.0, 0.0
        self.best, self.rate = float("-inf"), 0.0
        self.latest: dict[str, float] = {}

    def run(self, training: Training[Any]) -> Path:
        """Train to the end; returns the last checkpoint. Raises Failed, and Cancelled after it has saved one."""
        if self.state is not None:
            training.load(self.state)
            self.step, self.elapsed_s = self.state["step"], self.state["elapsed_s"]
            self.best = self.state.get("best", self.best)
            self.latest = dict(self.state.get("latest", {}))
            self.report(f"going on from step {self.step}")
            if self.state["cases"] != training.cases:
                self.report("the training cases have changed since the checkpoint: the run will not repeat exactly")
        first = self.together.is_first
        if first:
            log, evaluations = (Log(self.output / f"{name}.csv", self.step) for name in ("log", "evaluation"))
        batches = prefetch(training.batch, self.step) if training.prefetched else nullcontext(training.batch)
        with stop_signals() as stopped, batches as batch_of:
            began, logged = time.perf_counter() - self.elapsed_s, (self.step, self.elapsed_s)
            self.evaluated_s = self.elapsed_s
            ending = self.is_over
            while not ending:
                training.step(batch_of(self.step))
                self.step += 1
                halted = stopped() or (self._cancel is not None and self._cancel())
                self.elapsed_s, halted = self.together.agreed((time.perf_counter() - began, halted))
                ending = self.is_over
                if first and (self.step % self.config.log_every == 0 or ending) and (row := training.log_row()):
                    log.write({"step": self.step, "elapsed_s": self.elapsed_s, "rate": self.rate} | row)
                    seconds = (self.elapsed_s - logged[1]) / (self.step - logged[0])
                    logged = (self.step, self.elapsed_s)
                    left_s = self._left_s(seconds)
                    self.report(progress_line(self.step, self.config.steps, seconds, left_s, training.shown_terms(row)))
                if training.evaluation_is_due() or ending:
                    if first and (evaluation := training.evaluate()) is not None:
                        self._note(evaluation, evaluations, training)
                    self.elapsed_s = self.evaluated_s = self.together.agreed(time.perf_counter() - began)
                if self.step % self.config.checkpoint_every == 0 or ending:
                    self._save(training)
                if halted and not ending:
                    self._save(training)
                    raise Cancelled(
                        "cancelled",
                        f"Training stopped at step {self.step}; a checkpoint was saved.",
                        "Run the same command to go on.",
                    )
        return self.checkpoint

    @property
    def is_over(self) -> bool:
        return self.step >= self.config.steps or bool(self.limit_s and self.elapsed_s >= self.limit_s)

    @property
    def share(self) -> float:
        """How much of the run is over, by steps or by time, whichever is more."""
        return min(1.0, max(self.step / self.config.steps, self.elapsed_s / self.limit_s if self.limit_s else 0.0))

    def set_rate(
        self, rate: float, *optimisers: torch.optim.Optimizer, share: float | None = None, slope: float = 2.0,
        warmth: float = 1.0,
    ) -> None:  # fmt: skip
        """Set the step's learning rate: constant at first, then falling linearly to 0, the faster the smaller `slope`.

        share: how much of the schedule is over, that of the run if None. warmth: from 0 to 1 over the first steps.
        """
        self.rate = rate * min(1.0, slope * (1 - (self.share if share is None else share))) * min(1.0, warmth)
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self.rate

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.half)

    def require_finite(self, loss: Tensor, setting: str = "rate") -> None:
        """Raises Failed where the loss is no number any more; setting: what to lower then."""
        if not bool(torch.isfinite(loss)):
            raise Failed("diverged", f"The loss is no number at step {self.step}.", f"Lower {setting}.")

    def _left_s(self, seconds_a_step: float) -> float:
        left_s = (self.config.steps - self.step) * seconds_a_step
        return max(0.0, min(left_s, self.limit_s - self.elapsed_s) if self.limit_s else left_s)

    def _note(self, evaluation: Evaluation, log: Log, training: Training[Any]) -> None:
        written = {**evaluation.figures, **evaluation.beside}
        log.write({"step": self.step, **written})
        text = ", ".join(f"{name} {value:.3f}" for name, value in written.items())
        self.report(f"{evaluation.title}: {text or 'pictures only'}")
        if evaluation.score > self.best:
            self.best = evaluation.score
            content = self._content(training, "averaged") | {"figures": evaluation.figures}
            checkpoint.save(self.output / checkpoint.BEST, content)

    def _save(self, training: Training[Any]) -> None:
        if self.together.is_first:
            checkpoint.save(self.checkpoint, self._content(training, *training.parts))

    def _content(self, training: Training[Any], *parts: str) -> dict[str, Any]:
        own = {"task": self.config.task, "config": self.config.to_json(), "step": self.step, "best": self.best,
               "elapsed_s": self.elapsed_s, "latest": self.latest, "cases": training.cases}  # fmt: skip
        return own | training.facts | {name: training.parts[name].state_dict() for name in parts}


class Training(ABC, Generic[Batch]):
    """What is a training's own.

    Attributes:
        cases: the names of what it learns from. prefetched: whether `batch` depends on the step's number alone, so that
        batches can be made on another thread. parts: what has a state, by its name in a checkpoint; "averaged", the
        networks to export, is in best.pt, too. facts: plain values that checkpoints keep beside.
    """

    prefetched: ClassVar[bool] = False
    session: Session[Any]
    cases: list[str]
    parts: dict[str, Stateful]
    facts: dict[str, Any]

    @abstractmethod
    def batch(self, number: int) -> Batch:
        """The batch of a step."""

    @abstractmethod
    def step(self, batch: Batch) -> None:
        """One step: sets the learning rate, trains, and leaves the loss's terms in `session.latest`."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint's content."""
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.facts |= {name: state.get(name, value) for name, value in self.facts.items()}

    def log_row(self) -> dict[str, float]:
        """What the log says of the step, always with the same keys; empty where there is nothing to say yet."""
        return self.session.latest

    def shown_terms(self, row: dict[str, float]) -> dict[str, float]:
        """Those of a row that a progress line shows."""
        return {name: value for name, value in row.items() if value == value}

    def evaluation_is_due(self) -> bool:
        """Whether to evaluate after this step; after the last one it always is."""
        return False

    def evaluate(self) -> Evaluation | None:
        """Measure the averaged networks on held-out cases; None where there is nothing to measure."""
        return None


def open_run(config: RunConfig, *, resume: bool) -> tuple[Path, dict[str, Any] | None]:
    """Make a run's folder; the checkpoint's path there, and its content where there is one.

    Raises Refused where there is a checkpoint and no `resume`, or one that was made with another configuration.
    """
    output = Path(config.output)
    saved, state = output / checkpoint.CHECKPOINT, None
    if saved.is_file():
        if not resume:
            raise Refused("output", f"{output} already holds a run.", "Choose another output, or resume it.")
        state = checkpoint.load(saved)
        checkpoint.refuse_changes(type(config).from_json(state["config"]), config)
    output.mkdir(parents=True, exist_ok=True)
    return saved, state


def setup_device(config: RunConfig, device: torch.device | None = None) -> tuple[torch.device, bool]:
    """The device to train on (the best where None is given), and whether in bf16; sets torch's threads and seed."""
    torch.set_num_threads(config.threads)
    keep_freed_memory()
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    half = config.precision == "bf16" or (config.precision == "auto" and native_half(device)[0] is not None)
    torch.manual_seed(config.seed)
    return device, half


@contextmanager
def prefetch(make: Callable[[int], Batch], first: int) -> Iterator[Callable[[int], Batch]]:
    """Batches by their step's number, made on another thread before they are needed, in order from `first` on."""
    with ThreadPoolExecutor(1) as pool:
        waiting = {number: pool.submit(make, number) for number in range(first, first + _PREFETCHED)}

        def take(number: int) -> Batch:
            waiting[number + _PREFETCHED] = pool.submit(make, number + _PREFETCHED)
            return waiting.pop(number).result()

        try:
            yield take
        finally:
            for future in waiting.values():
                future.cancel()


def running_mean(latest: dict[str, float], prefix: str, terms: Mapping[str, Tensor]) -> None:
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


def _silent(text: str) -> None:
    """What processes other than the first report."""
