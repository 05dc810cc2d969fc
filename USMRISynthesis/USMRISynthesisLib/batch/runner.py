"""A batch on child processes: bounded, and each case on its own, so that one that crashes takes no other along.

batch = Batch(Path("in"), Path("out"))
run(batch, workers=2)
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from USMRISynthesisLib.batch.attempt import HELD, Stopped, attempt
from USMRISynthesisLib.batch.cases import Case
from USMRISynthesisLib.batch.folder import Batch
from USMRISynthesisLib.batch.resources import bounded as bounded
from USMRISynthesisLib.batch.resources import processors
from USMRISynthesisLib.callbacks import Progress
from USMRISynthesisLib.errors import Cancelled, Refused, USMRIError
from USMRISynthesisLib.worker.client import WorkerProcess

HELD_PAUSE_S = 1.0  # before a case that another process works on is looked at again


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

    A case that another process works on is waited for, and run here where that process ends without a result.

    Args:
        batch: closed at the end, whatever happens.
        workers: child processes at a time, bounded by `resources.bounded`.
        trust_model: the user agrees to run a model that did not come with the product.
        progress: called with the share of the batch that is done, 0-1, and what is being done.
        settled: called after each case, in any thread, one call at a time.
        make_worker: makes a worker from additions to the environment; for tests.

    Raises:
        USMRIError: what would befall every case, such as a missing model or changed weights; nothing goes on then.
        Cancelled: on Ctrl+C.
    """
    waiting = batch.waiting()
    try:
        count = bounded(workers, len(waiting))
    except Refused:
        batch.close()
        raise
    if trust_model:
        batch.trust()
    threads = max(1, processors() // count)
    environment = {} if count == 1 else {"OMP_NUM_THREADS": str(threads)}
    crew = _Crew(batch, waiting, progress, settled)
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
    """What the workers' threads share: the queue, the batch and the lock on it."""

    def __init__(
        self, batch: Batch, waiting: list[Case], progress: Progress | None, settled: Callable[[Case], None] | None
    ) -> None:
        self._batch, self._queue = batch, waiting[::-1]
        self._held: list[Case] = []
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
                    case = self._queue.pop() if self._queue else None
                    if case is None and not self._held:
                        return
                if case is None:
                    self.stop.wait(HELD_PAUSE_S)
                    with self._lock:
                        self._queue, self._held = [*self._held[::-1], *self._queue], []
                    continue
                try:
                    if not self._run(worker, case):
                        with self._lock:
                            self._held.append(case)
                except BaseException as error:  # not for one case alone: the others stop, and `run` raises it
                    self.fault = self.fault or error
                    self.stop.set()

    def _run(self, worker: WorkerProcess, case: Case) -> bool:
        """Run a case; whether that is the end of it."""

        def hear(event: dict[str, Any]) -> None:
            if event["event"] == "progress":
                self._tell(case, float(event["value"]), str(event["stage"]))

        with self._lock:
            self._batch.start(case)
        fault: USMRIError | None = None
        try:
            line = attempt(self._batch.session, case, worker, on_event=hear, cancel=self.stop.is_set)
        except Stopped as stop:
            line, fault = stop.line, stop.error
        with self._lock:
            self._batch.note(case, line)
            if line.get("kind") == HELD:
                return False
            self._shares.pop(case.name, None)
            self._finished += 1
            if self._settled is not None:
                self._settled(case)
        if fault is not None:
            raise fault
        return True

    def _tell(self, case: Case, value: float, stage: str) -> None:
        with self._lock:
            self._shares[case.name] = value
            if self._progress is not None:
                share = (self._finished + sum(self._shares.values())) / max(1, self._total)
                self._progress(min(share, 1.0), f"{case.name}: {stage}")
