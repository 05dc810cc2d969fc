"""One request to the worker, from the scene and back: the part that every kind of run has in common.

Until the worker says "done" and its files have been read, nothing in the scene is touched: a failed, refused or
cancelled run leaves nodes, selections and views as they were.  A run that was started returns at once and reports by
callbacks; `wait` makes it blocking for the console.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _
from USMRISynthesisLib.errors import Cancelled, Failed, Refused, USMRIError
from USMRISynthesisLib.worker.folders import make_folder, remove_abandoned

from USMRISynthesisScene.runs.worker_process import Event, WorkerProtocol

log = logging.getLogger(__name__)

_WAIT_MS = 200


@dataclass(frozen=True)
class Reports:
    """Where a run's news go. Every one may be left out; none is called after `finished`."""

    progress: Callable[[float, str], None] = lambda value, stage: None
    message: Callable[[str, str], None] = lambda level, text: None
    finished: Callable[[Any, USMRIError | None], None] = lambda node, error: None


@dataclass(frozen=True)
class Task:
    """What one kind of run does before and after the worker's part.

    Attributes:
        write: (folder) -> request; puts the input there. Raises USMRIError for an input that cannot be used.
        read: (result, folder) -> anything; what the worker left behind, and nothing of the scene.
        deliver: (what was read) -> node; into the scene, now that all of it is good.
    """

    write: Callable[[Path], dict[str, Any]]
    read: Callable[[Mapping[str, Any], Path], Any]
    deliver: Callable[[Any], Any]


class WorkerRun:
    """Runs one task after another on a worker that does nothing else meanwhile.

    run = WorkerRun(worker)
    run.begin(task, reports)
    node = run.wait()
    """

    def __init__(self, worker: WorkerProtocol) -> None:
        self._worker = worker
        self._folder: Path | None = None
        self._task: Task | None = None
        self._reports = Reports()
        self._outcome: tuple[Any, USMRIError | None] = (None, None)

    @property
    def running(self) -> bool:
        return self._folder is not None

    @property
    def worker(self) -> WorkerProtocol:
        """The process behind it, for work of another kind; only while nothing runs."""
        return self._worker

    def begin(self, task: Task, reports: Reports) -> None:
        """Start it; every end, a refusal too, comes through `reports.finished`. Raises RuntimeError while one runs."""
        if self.running:
            raise RuntimeError("A run is in flight already; wait for it or cancel it.")
        self._task, self._reports = task, reports
        self._outcome = (None, None)
        try:
            self._folder = working_folder()
            self._worker.send(task.write(self._folder), self._handle)
        except USMRIError as error:
            self._finish(None, error)

    def cancel(self) -> None:
        """Stop at once. The next run starts a fresh process."""
        if self.running:
            self._worker.kill()
            self._finish(None, Cancelled())
        else:  # the last result would keep its node alive when its scene is closed
            self._outcome = (None, None)

    def wait(self) -> Any:
        """Block until the run ends; returns the node or raises what went wrong."""
        try:
            while self.running:
                self._worker.wait(_WAIT_MS)
        except BaseException:  # Ctrl+C, or a progress callback that has had enough
            self.cancel()
            raise
        node, error = self._outcome
        if error is not None:
            raise error
        return node

    def close(self) -> None:
        """Cancel what runs and let the worker go."""
        self.cancel()
        self._worker.shutdown()

    def _handle(self, event: Event) -> None:
        kind = event["event"]
        if not self.running:
            return
        if kind == "progress":
            value = event.get("value", 0.0)
            if isinstance(value, (int, float)) and 0 <= value <= 1:
                self._reports.progress(float(value), str(event.get("stage", "")))
        elif kind == "log":
            self._reports.message(str(event.get("level", "info")), str(event.get("text", "")))
        elif kind == "error":
            self._finish(None, error_from(event))
        elif kind == "done":
            try:
                node = self._take(event.get("result", {}))
            except USMRIError as error:
                self._finish(None, error)
            else:
                self._finish(node, None)

    def _take(self, result: Mapping[str, Any]) -> Any:
        assert self._task is not None and self._folder is not None
        try:
            found = self._task.read(result, self._folder)
        except Exception as error:  # whatever it is that no worker should answer
            log.warning("the worker's result could not be read", exc_info=True)
            raise Failed(
                "result",
                _("The result of the synthesis process could not be read."),
                _("Check the free space in Slicer's temporary folder and run it again."),
            ) from error
        return self._task.deliver(found)

    def _finish(self, node: Any, error: USMRIError | None) -> None:
        folder, self._folder, self._task = self._folder, None, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        if error is not None:
            self._reports.message("error", str(error))
        # Without its traceback, whose frames would keep the nodes of the run alive.
        self._outcome = (node, error.with_traceback(None) if error is not None else None)
        self._reports.finished(node, error)


def require_in_scene(source: Any) -> None:
    """Raise Cancelled where the input of a run was removed meanwhile: there is no place for the result."""
    if source.GetScene() is not slicer.mrmlScene:
        raise Cancelled(
            "closed",
            _("{name} was removed while it was worked on.").format(name=source.GetName()),
            _("Nothing was added to the scene."),
        )


def check_values(values: np.ndarray, low: float, high: float) -> None:
    """Raise ValueError where voxels are no numbers, or outside a range."""
    if values.size == 0 or values.dtype.kind not in "uif" or not np.isfinite(values).all():
        raise ValueError("voxels that are no numbers")
    if values.min() < low or values.max() > high:
        raise ValueError(f"voxels outside {low} to {high}")


def error_from(event: Event) -> USMRIError:
    """The worker's error as the exception that it was there."""
    classes = {"refused": Refused, "cancelled": Cancelled}
    return classes.get(str(event.get("category", "")), Failed)(
        str(event.get("kind", "failed")),
        str(event.get("message", "The synthesis failed.")),
        str(event.get("remedy", "Details are in the log.")),
    )


def working_folder() -> Path:
    """A new folder for what travels between the processes. Raises Failed where none can be made."""
    remove_abandoned(slicer.app.temporaryPath)  # of a Slicer that was killed
    try:
        return make_folder(slicer.app.temporaryPath)
    except OSError as error:
        reason = error.strerror or _("it cannot be written")
        raise Failed(
            "write",
            _("Slicer's temporary folder cannot be used: {reason}.").format(reason=reason),
            _("Choose another one in the application settings, or free space on its disk."),
        ) from error
