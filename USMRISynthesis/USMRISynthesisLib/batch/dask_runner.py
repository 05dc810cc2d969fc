"""A batch on Dask: its cases are tasks, which any worker may run, and which run again where a worker is lost.

    run_on_dask(batch, "tcp://scheduler:8786")
    run_on_dask(batch, "slurm", workers=40, options={"cores": 4, "memory": "8GB"})

Each process of the cluster has a session of its own on the output, which must be on a disk that all share, and a child
process that does the synthesis: as in the other ways to run a batch. The cluster's workers need the same version of
this package.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from USMRISynthesisLib import __version__
from USMRISynthesisLib.batch.attempt import HELD, Requests, Stopped, attempt
from USMRISynthesisLib.batch.cases import Case
from USMRISynthesisLib.batch.dask_cluster import LOCAL, cluster_for, distributed, threads_for
from USMRISynthesisLib.batch.folder import Batch
from USMRISynthesisLib.batch.resources import bounded, processors
from USMRISynthesisLib.batch.session import Plan, Session
from USMRISynthesisLib.callbacks import Progress
from USMRISynthesisLib.errors import Cancelled, Failed, Refused, USMRIError
from USMRISynthesisLib.worker.client import WorkerProcess

HELD_PAUSE_S = 2.0
_WINDOW = 4  # tasks that wait on the scheduler, for each that runs
_LEAST_WINDOW = 64
MakeWorker = Callable[[dict[str, str]], Requests]


def run_on_dask(
    batch: Batch,
    cluster: str,
    *,
    workers: int = 1,
    options: dict[str, Any] | None = None,
    progress: Progress | None = None,
    settled: Callable[[Case], None] | None = None,
    say: Callable[[str], None] = lambda text: None,
    make_worker: MakeWorker | None = None,
) -> None:
    """Run what is waiting; at the end the batch's states tell what became of it.

    Args:
        batch: closed at the end, whatever happens.
        cluster: "local", "slurm" or a scheduler's address.
        workers: processes or jobs at a time, of a cluster that is started here.
        options: of a cluster that is started here.
        progress, settled: as for `runner.run`.
        say: gets the dashboard's address.
        make_worker: as for `runner.run`; it travels to the cluster.

    Raises:
        USMRIError: the cluster is not there, or what would befall every case.
        Cancelled: on Ctrl+C.
    """
    waiting = batch.waiting()
    with ExitStack() as stack:
        stack.callback(batch.close)
        module = distributed()
        if cluster == LOCAL:
            workers = bounded(workers, max(1, len(waiting)))
        elif workers < 1:
            raise Refused("workers", f"A batch cannot run with {workers} workers.", "Give 1 or more.")
        if not waiting:
            return
        try:
            there = stack.enter_context(cluster_for(cluster, options=options or {}, workers=workers))
            client = stack.enter_context(module.Client(there, set_as_default=False))
        except (OSError, ValueError) as error:
            raise Failed(
                "cluster", f"The Dask cluster {cluster} does not answer.", "Check its address, and that it runs."
            ) from error
        say(f"The dashboard of the cluster is at {client.dashboard_link}.")
        try:
            _Tasks(batch, client, threads_for(cluster, workers), make_worker, progress, settled).run(waiting)
        except KeyboardInterrupt:
            raise Cancelled("cancelled", "Cancelled.", "Run it again to go on with the rest.") from None


class _Tasks:
    """The cases as tasks: some on the cluster, the others waiting here, so that 10,000 are no load on the scheduler."""

    def __init__(
        self,
        batch: Batch,
        client: Any,
        threads: int | None,
        make_worker: MakeWorker | None,
        progress: Progress | None,
        settled: Callable[[Case], None] | None,
    ) -> None:
        self._batch, self._client, self._threads, self._make = batch, client, threads, make_worker
        self._progress, self._settled = progress, settled
        self._cases: dict[str, Case] = {}  # by task

    def run(self, waiting: list[Case]) -> None:
        """Run all. Raises USMRIError for what would befall every case."""
        queue, total, finished = waiting[::-1], len(waiting), 0
        tasks = distributed().as_completed(loop=self._client.loop, with_results=True, raise_errors=False)
        width = 0
        while queue or self._cases:
            if queue and len(self._cases) <= width // 2:
                width = max(_LEAST_WINDOW, _WINDOW * sum(self._client.nthreads().values()))
                while queue and len(self._cases) < width:
                    tasks.add(self._submit(queue.pop()))
            task, result = next(tasks)
            case = self._cases.pop(task.key)
            error = task.exception() if task.status == "error" else None
            line = result if task.status == "finished" else self._failed(case, error)
            if line.get("kind") == HELD:
                tasks.add(self._submit(case, pause_s=HELD_PAUSE_S))
                continue
            finished += 1
            self._batch.note(case, line)
            if self._settled is not None:
                self._settled(case)
            if self._progress is not None:
                self._progress(finished / total, case.name)

    def _submit(self, case: Case, *, pause_s: float = 0.0) -> Any:
        self._batch.start(case)
        task = self._client.submit(
            work, self._batch.plan, case, self._threads, self._make, pause_s, __version__, pure=False, retries=0
        )
        self._cases[task.key] = case
        return task

    def _failed(self, case: Case, error: BaseException | None) -> dict[str, Any]:
        """What a task's error says of its case. Raises USMRIError for what would befall every case."""
        if isinstance(error, Stopped):
            self._batch.note(case, error.line)
            raise error.error
        if isinstance(error, USMRIError):
            raise error
        if isinstance(error, distributed().scheduler.KilledWorker):
            return self._batch.session.failed(
                case,
                Failed(
                    "worker",
                    "Every worker that ran it was lost.",
                    "Give the workers more memory or time, and run it again with --retry failed.",
                ),
            )
        if isinstance(error, (ModuleNotFoundError, AttributeError)):
            raise _other_version("none") from error
        raise Failed(
            "cluster", "The Dask cluster could not run a case.", "Look at its log; the batch goes on where it stopped."
        ) from error


def work(
    plan: Plan, case: Case, threads: int | None, make_worker: MakeWorker | None, pause_s: float, version: str
) -> dict[str, Any]:
    """One case, in a process of the cluster; the ledger's line. Raises Stopped, USMRIError."""
    if version != __version__:
        raise _other_version(__version__)
    if not plan.output.is_dir():
        raise Failed(
            "unshared",
            f"A worker of the cluster does not see the folder {plan.output.name}.",
            "Write the results to a disk that all workers share.",
        )
    time.sleep(pause_s)
    desk = _desk(plan, threads, make_worker)
    return attempt(desk.session, case, desk.worker)


def _other_version(version: str) -> Failed:
    has = "not this program" if version == "none" else f"version {version} of this program"
    return Failed(
        "version",
        f"A worker of the cluster has {has}; {__version__} is needed.",
        "Install the same version where the workers run.",
    )


class _Desk:
    """What a thread of the cluster keeps between cases: its session, and the child process that does the work."""

    def __init__(self, plan: Plan, threads: int | None, make_worker: MakeWorker | None) -> None:
        from distributed import get_worker

        here = get_worker()
        self.session = Session(plan, worker=f"{here.name} at {here.address}")
        self.run = plan.run
        # Dask allows its workers one thread; the synthesis has the processors of its job.
        count = threads or max(1, processors() // here.state.nthreads)
        make = make_worker or (lambda added: WorkerProcess(environment=added))
        self.worker: Any = make({"OMP_NUM_THREADS": str(count)})

    def close(self) -> None:
        """End the child process and the session."""
        if hasattr(self.worker, "close"):
            self.worker.close()
        self.session.close()


_desks = threading.local()


def _desk(plan: Plan, threads: int | None, make_worker: MakeWorker | None) -> _Desk:
    """This thread's desk for a run of a batch; that of an earlier run is closed."""
    desk: _Desk | None = getattr(_desks, "desk", None)
    if desk is None or desk.run != plan.run:
        if desk is not None:
            atexit.unregister(desk.close)
            desk.close()
        desk = _desks.desk = _Desk(plan, threads, make_worker)
        atexit.register(desk.close)
    return desk
