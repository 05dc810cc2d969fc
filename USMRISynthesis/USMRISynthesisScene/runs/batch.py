"""A folder of files on the panel's own worker: from files to files, one after the other; the scene is not touched.

    run = BatchRun(worker)
    run.start(Batch(Path("in"), Path("out")), BatchReports(finished=print))

A case that crashes the worker fails alone; the next one starts a new process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import qt
from slicer.i18n import tr as _
from USMRISynthesisLib.batch.folder import Batch, Case
from USMRISynthesisLib.errors import Cancelled, Refused, USMRIError

from USMRISynthesisScene.runs.run import error_from
from USMRISynthesisScene.runs.worker_process import Event, WorkerProtocol


@dataclass(frozen=True)
class BatchReports:
    """Where a batch's news go. None is called after `finished`."""

    progress: Callable[[float, str], None] = lambda value, stage: None
    settled: Callable[[Case], None] = lambda case: None
    finished: Callable[[USMRIError | None], None] = lambda error: None


class BatchRun:
    """Drives one batch; Qt's event loop must run."""

    def __init__(self, worker: WorkerProtocol) -> None:
        self._worker = worker
        self._batch: Batch | None = None
        self._queue: list[Case] = []
        self._total, self._trust = 0, False
        self._reports = BatchReports()

    @property
    def running(self) -> bool:
        return self._batch is not None

    def start(self, batch: Batch, reports: BatchReports, *, trust: bool = False) -> None:
        """Begin; `reports.finished` gets None at the end, or what stopped the whole batch."""
        self._batch, self._reports, self._trust = batch, reports, trust
        self._queue = batch.waiting()[::-1]
        self._total = len(self._queue)
        self._soon()

    def cancel(self) -> None:
        """Stop at once; what is done stays, and the rest waits for the next time."""
        if self.running:
            self._worker.kill()
            self._finish(Cancelled("cancelled", _("Cancelled."), _("Run it again to go on with the rest.")))

    def _soon(self) -> None:
        """Not from within the worker's signal, and never long enough at a time to hold the window up."""
        qt.QTimer.singleShot(0, self._next)

    def _next(self) -> None:
        if self._batch is None:  # cancelled meanwhile
            return
        if not self._queue:
            self._finish(None)
            return
        case = self._queue.pop()
        try:
            if not self._batch.take(case):  # another process works on it
                self._reports.settled(case)
                self._soon()
                return
            if self._batch.is_done(case):
                self._batch.keep(case)
                self._reports.settled(case)
                self._soon()
                return
            try:
                fields = self._batch.request(case, trust_model=self._trust)
            except Refused as error:
                self._batch.failed(case, error)
                self._reports.settled(case)
                self._soon()
                return
            self._reports.settled(case)
            self._worker.send(fields, lambda event: self._handle(case, event))
        except USMRIError as error:
            self._finish(error)

    def _handle(self, case: Case, event: Event) -> None:
        if self._batch is None:
            return
        if event["event"] == "progress":
            done = self._total - len(self._queue) - 1
            self._reports.progress(
                (done + float(event.get("value", 0.0))) / self._total, f"{case.name}, {event.get('stage', '')}"
            )
        elif event["event"] in ("done", "error"):
            try:
                if event["event"] == "done":
                    self._batch.done(case, event.get("result", {}))
                else:
                    self._batch.failed(case, error_from(event))
            except USMRIError as error:
                self._reports.settled(case)
                self._finish(error)
                return
            self._reports.settled(case)
            self._soon()

    def _finish(self, error: USMRIError | None) -> None:
        batch, self._batch = self._batch, None
        self._queue = []
        if batch is not None:
            batch.close()
        self._reports.finished(error)
