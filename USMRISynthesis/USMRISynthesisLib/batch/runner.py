"""A batch on child processes: bounded, and each case on its own, so that one that crashes takes no other along.

batch = Batch(Path("in"), Path("out"))
run(batch, workers=2)
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

from USMRISynthesisLib.batch.ledger import Batch, Case
from USMRISynthesisLib.callbacks import Progress
from USMRISynthesisLib.errors import Cancelled, Refused, USMRIError
from USMRISynthesisLib.worker.client import WorkerProcess


def bounded(workers: int, cases: int) -> int:
    """How many workers are started: no more than processors, nor than there is work. Raises Refused below 1."""
    if workers < 1:
        raise Refused("workers", f"A batch cannot run with {workers} workers.", "Give 1 or more.")
    return max(1, min(workers, os.cpu_count() or 1, cases))


def run(
    batch: Batch,
    *,
    workers: int = 1,
    trust_model: bool = False,
    progress: Progress | None = None,
    settled: Callable[[Case], None] | None = None,
    make_worker: Callable[[dict[str, str]], WorkerProcess] | None = None,
) -> None:
    """Run what is waiting; at the end the batch's states tell what became of it.

    Args:
        batch: closed at the end, whatever happens.
        workers: child processes at a time, bounded by `bounded`.
        trust_model: the user agrees to run a model that did not come with the product.
        progress: called with the share of the batch that is done, 0-1, and what is being done.
        settled: called after each case, in any thread, one call at a time.
        make_worker: makes a worker from additions to the environment; for tests.

    Raises:
        USMRIError: what would befall every case, such as a full disk or changed weights; nothing goes on then.
        Cancelled: on Ctrl+C.
    """
    waiting = batch.waiting()
    try:
        count = bounded(workers, len(waiting))
    except Refused:
        batch.close()
        raise
    threads = max(1, (os.cpu_count() or 1) // count)
    environment = {} if count == 1 else {"OMP_NUM_THREADS": str(threads)}
    crew = _Crew(batch, waiting, trust_model, progress, settled)
    make = make_worker or (lambda added: WorkerProcess(environment=added))
    pool = [threading.Thread(target=crew.work, args=(make(environment),), daemon=True) for _ in range(count)]
    try:
        for thread in pool:
            thread.start()
        for thread in pool:
            while thread.is_alive():  # with a timeout, so that Ctrl+C is heard
                thread.join(0.2)
    except KeyboardInterrupt:
        crew.stop.set()
        for thread in pool:
            thread.join()
        raise Cancelled("cancelled", "Cancelled.", "Run it again to go on with the rest.") from None
    finally:
        batch.close()
    if crew.fault is not None:
        raise crew.fault


class _Crew:
    """What the workers' threads share: the queue, the ledger and the lock on it."""

    def __init__(
        self,
        batch: Batch,
        waiting: list[Case],
        trust_model: bool,
        progress: Progress | None,
        settled: Callable[[Case], None] | None,
    ) -> None:
        self._batch, self._queue, self._trust = batch, waiting[::-1], trust_model
        self._progress, self._settled = progress, settled
        self._lock = threading.RLock()
        self._total, self._finished = len(waiting), 0
        self._shares: dict[str, float] = {}
        self.stop = threading.Event()
        self.fault: BaseException | None = None

    def work(self, worker: WorkerProcess) -> None:
        """One thread: take cases until there are none."""
        with worker:
            while not self.stop.is_set():
                with self._lock:
                    if not self._queue:
                        return
                    case = self._queue.pop()
                try:
                    self._run(worker, case)
                except BaseException as error:  # not for one case alone: the others stop, and `run` raises it
                    self.fault = self.fault or error
                    self.stop.set()

    def _run(self, worker: WorkerProcess, case: Case) -> None:
        if self._batch.is_done(case):
            with self._lock:
                self._finished += 1
                self._batch.keep(case)
            return

        def hear(event: dict[str, Any]) -> None:
            if event["event"] == "progress":
                self._tell(case, float(event["value"]), str(event["stage"]))

        with self._lock:
            fields = self._batch.request(case, trust_model=self._trust)
        outcome: dict[str, Any] | USMRIError
        try:
            outcome = worker.request(str(fields.pop("op")), on_event=hear, cancel=self.stop.is_set, **fields)
        except USMRIError as error:
            outcome = error
        with self._lock:
            self._shares.pop(case.name, None)
            self._finished += 1
            try:
                if isinstance(outcome, USMRIError):
                    self._batch.failed(case, outcome)
                else:
                    self._batch.done(case, outcome)
            finally:
                if self._settled is not None:
                    self._settled(case)

    def _tell(self, case: Case, value: float, stage: str) -> None:
        with self._lock:
            self._shares[case.name] = value
            if self._progress is not None:
                share = (self._finished + sum(self._shares.values())) / max(1, self._total)
                self._progress(min(share, 1.0), f"{case.name}: {stage}")
