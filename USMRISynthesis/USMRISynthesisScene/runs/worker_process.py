"""The child process that runs the networks: requests out, events in, and how to stop it for good.

torch inside Slicer's own process can crash it, so the work is done under PythonSlicer by
`USMRISynthesisLib/worker/__main__.py`. Requests and events are JSON lines; the process stays alive with the model
warm until it is shut down, killed, or Slicer ends.

    worker = WorkerProcess()
    worker.send({"op": "ping"}, print)
    worker.wait(1000)
    worker.shutdown()
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import qt
from USMRISynthesisLib.worker import command

log = logging.getLogger(__name__)

Event = dict[str, Any]
EventHandler = Callable[[Event], None]

MODULE_FOLDER = Path(__file__).resolve().parents[2]  # the worker's current folder, whatever Slicer's is
_EXIT_MS = 3000


class WorkerProtocol(Protocol):
    """What a run needs of a worker; tests put their own in its place."""

    def send(self, request: Mapping[str, Any], on_event: EventHandler) -> str:
        """Start the process if need be and send a request; returns its id. Exactly one of "done" and "error"
        comes last."""

    def wait(self, milliseconds: int) -> None:
        """Wait for the next events and hand them on."""

    def kill(self) -> None:
        """Stop at once; the request in flight gets no more events."""

    def shutdown(self) -> None:
        """Let the process end by itself, or make it end."""


class WorkerProcess:
    """The worker under PythonSlicer, by way of QProcess.

    Attributes:
        program, arguments: the command line; by default Slicer's Python running the worker module.
    """

    def __init__(self, program: str | None = None, arguments: list[str] | None = None) -> None:
        # Where there is no PythonSlicer on the path, this very Python can run the worker as well.
        found = shutil.which("PythonSlicer")
        # On Windows `which` looks into the current folder, too, and then answers with a relative path.
        self.program = program or (found if found and Path(found).is_absolute() else sys.executable)
        self.arguments = arguments or command.arguments()
        self._ids = itertools.count(1)
        self._request_id = ""
        self._on_event: EventHandler | None = None
        self._output = b""
        self._errors = b""
        self._process = qt.QProcess()
        self._process.setWorkingDirectory(str(MODULE_FOLDER))
        self._process.connect("readyReadStandardOutput()", self._read_output)
        self._process.connect("readyReadStandardError()", self._read_errors)
        self._process.connect("finished(int,QProcess::ExitStatus)", self._finished)
        self._process.connect("errorOccurred(QProcess::ProcessError)", self._error_occurred)

    @property
    def running(self) -> bool:
        return self._process.state() != qt.QProcess.NotRunning

    @property
    def pid(self) -> int:
        """Process id, 0 when it is not running."""
        return int(self._process.processId())

    def send(self, request: Mapping[str, Any], on_event: EventHandler) -> str:
        if self._on_event is not None:
            raise RuntimeError("The worker is busy: one request at a time.")
        self._request_id = str(next(self._ids))
        self._on_event = on_event
        if not self.running:
            self._output = self._errors = b""
            self._process.start(self.program, self.arguments)
        try:
            line = json.dumps({**request, "id": self._request_id}, allow_nan=False) + "\n"
        except ValueError:
            self._emit(
                {
                    "event": "error",
                    "kind": "request",
                    "message": "A number of the request is none.",
                    "remedy": "Check the voxel size and the alignment of the input.",
                }
            )
            return self._request_id
        if self.running:  # a start that fails at once has already reported its error
            self._process.write(line.encode("utf-8"))
        return self._request_id

    def wait(self, milliseconds: int) -> None:
        """For callers without an event loop: blocks until there is something to read."""
        # Signals would run the handlers from within Qt, where an exception of theirs is printed and lost.
        self._process.blockSignals(True)
        try:
            self._process.waitForReadyRead(milliseconds)
        finally:
            self._process.blockSignals(False)
        self._read_output()
        self._read_errors()
        if not self.running:
            self._report_exit()

    def kill(self) -> None:
        """End the whole process tree: PythonSlicer may be a launcher, whose death would leave the worker."""
        self._on_event = None
        if self.running:
            kill_tree(self.pid)
            self._process.kill()
            self._process.waitForFinished(_EXIT_MS)

    def shutdown(self) -> None:
        self._on_event = None
        if self.running:
            self._process.closeWriteChannel()  # the worker ends when its input does
            if not self._process.waitForFinished(_EXIT_MS):
                self.kill()

    def _read_output(self) -> None:
        self._output += _bytes(self._process.readAllStandardOutput())
        *lines, self._output = self._output.split(b"\n")
        for line in lines:
            self._handle_line(line.decode("utf-8", "replace").strip())

    def _handle_line(self, line: str) -> None:
        try:
            event = json.loads(line) if line else None
        except ValueError:
            event = None
        if not isinstance(event, dict) or "event" not in event:
            if line:  # a library that prints must not break the conversation
                self._emit({"event": "log", "level": "info", "text": line})
        elif self._on_event is None or event.get("id", self._request_id) == self._request_id:
            self._emit(event)
        elif event["event"] in ("done", "error"):  # one request at a time: this can be no answer to another one
            reason = event.get("message") if event.get("id") is None else None
            log.error("the worker answered the request %r, not %r", event.get("id"), self._request_id)
            handler = self._on_event
            self.kill()
            handler(
                {
                    "event": "error",
                    "kind": "worker-answer",
                    "message": str(reason or "The synthesis process answered another request."),
                    "remedy": "Run it again; the next run starts a new process.",
                }
            )

    def _emit(self, event: Event) -> None:
        handler = self._on_event
        if handler is None:
            return
        if event["event"] in ("done", "error"):
            self._on_event = None  # before the handler, which may send the next request
        handler(event)

    def _read_errors(self) -> None:
        self._errors += _bytes(self._process.readAllStandardError())
        *lines, self._errors = self._errors.split(b"\n")
        for line in lines:
            text = line.decode("utf-8", "replace").rstrip()
            if text:
                self._emit({"event": "log", "level": "info", "text": text})

    def _error_occurred(self, error: Any) -> None:
        if error == qt.QProcess.FailedToStart:
            self._emit(
                {
                    "event": "error",
                    "kind": "worker-start",
                    "message": "The synthesis process could not be started.",
                    "remedy": "Check that PythonSlicer in the Slicer folder may be executed.",
                }
            )

    def _finished(self, *_: Any) -> None:
        self._read_output()
        self._read_errors()
        self._report_exit()

    def _report_exit(self) -> None:
        """Without "done" or "error" first, every exit is a failure: whatever the code, whatever the status."""
        crashed = self._process.exitStatus() == qt.QProcess.CrashExit
        code = self._process.exitCode()
        reason = "it crashed or was killed" if crashed else f"exit code {code}"
        self._emit(
            {
                "event": "error",
                "kind": "worker-exit",
                "message": f"The synthesis process ended before it was done ({reason}).",
                "remedy": "Run it again; if it happens again, look at the log below and try the device cpu.",
            }
        )


def kill_tree(pid: int) -> None:
    """Kill a process and everything it has started."""
    if pid <= 0:
        return
    if os.name == "nt":
        # No console window flashes up.
        subprocess.run(
            ["taskkill", "/PID", str(pid), "/T", "/F"],
            capture_output=True,
            check=False,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        return
    for one in [pid, *descendants(pid)]:  # the parent first: it cannot start another one then
        try:
            os.kill(one, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            log.debug("process %d had ended already", one)


def descendants(pid: int) -> list[int]:
    """Process ids of all children, grandchildren and so on (POSIX)."""
    children: dict[int, list[int]] = {}
    for child, parent in _process_table():
        children.setdefault(parent, []).append(child)
    found: list[int] = []
    queue = [pid]
    while queue:
        for child in children.get(queue.pop(), []):
            found.append(child)
            queue.append(child)
    return found


def _process_table() -> list[tuple[int, int]]:
    """(pid, parent pid) of every process; /proc where there is one, since `ps` need not be installed."""
    pairs = []
    if Path("/proc/self/stat").exists():
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                # The name in brackets may hold spaces and brackets itself.
                after = stat.read_text(errors="replace").rpartition(")")[2].split()
            except OSError:
                continue
            pairs.append((int(stat.parent.name), int(after[1])))
        return pairs
    listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=False)
    for line in listing.stdout.splitlines():
        child, parent = line.split()
        pairs.append((int(child), int(parent)))
    return pairs


def _bytes(data: Any) -> bytes:
    """PythonQt hands out a QByteArray, whose data() is bytes."""
    return bytes(data.data())
