"""Talk to the worker from plain Python: start it, hand it voxels, receive events, cancel, and recover if it dies.

    with WorkerProcess() as worker:
        result = worker.synthesize(volume, on_event=print)

The Slicer module uses the same protocol through QProcess (`serve.py` describes them); this is the one for
tests, scripts and the demo. No torch and no Qt in this process.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from USMRISynthesisLib.errors import Cancelled, Failed, Refused, USMRIError
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.synthesis.result import Synthesis
from USMRISynthesisLib.worker import command as start
from USMRISynthesisLib.worker.folders import make_folder, remove_abandoned

CANCEL_GRACE_S = 0.3  # what a worker gets to stop by itself, and stay warm, before it is killed
_POLL_S = 0.02
_REMEDY = "Try again; the next run starts a new worker."

Event = dict[str, Any]
OnEvent = Callable[[Event], None]


class WorkerProcess:
    """One worker at a time: started by the first request, kept warm, started again after it died."""

    def __init__(self, command: Sequence[str] | None = None, environment: Mapping[str, str] | None = None) -> None:
        self._command = list(command or (sys.executable, *start.arguments()))
        self._environment = start.environment({**os.environ, **(environment or {})})
        self._process: subprocess.Popen[str] | None = None
        self._events: queue.Queue[Event | None] = queue.Queue()
        self._last_words: deque[str] = deque(maxlen=50)
        self._identities = count(1)
        self._cancelling = threading.Event()
        self._busy = threading.Lock()

    @property
    def pid(self) -> int | None:
        """The running worker's process id, or None."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def last_words(self) -> str:
        """What the worker last wrote to stderr, for a log."""
        return "".join(self._last_words)

    def synthesize(
        self,
        volume: Volume,
        *,
        model: str = "default",
        device: str = "auto",
        planes: str | None = None,
        transform: np.ndarray | None = None,
        trust_model: bool = False,
        allow_low_confidence: bool = False,
        gestational_age: float | None = None,
        on_event: OnEvent | None = None,
        cancel: Callable[[], bool] | None = None,
        unreliable: bool = False,
        any_content: bool = False,
    ) -> Synthesis:
        """`synthesis.pipeline.synthesize` in the worker. Raises what that raises, and Failed when it dies."""
        # The voxels travel through a folder that is gone afterwards, whatever happens.
        with _working_folder() as folder:
            source, target, confidence = (folder / name for name in ("input.nrrd", "output.nrrd", "confidence.nrrd"))
            Volume(volume.array, volume.ijk_to_ras).write(source, compress=False)
            done = self.request(
                "synthesize",
                on_event=on_event,
                cancel=cancel,
                input=str(source),
                output=str(target),
                confidence=str(confidence),
                model=model,
                device=device,
                planes=planes,
                trust_model=trust_model,
                allow_low_confidence=allow_low_confidence or unreliable,
                any_content=any_content,
                gestational_age=gestational_age,
                transform=None if transform is None else np.asarray(transform, float).ravel().tolist(),
            )
            mr, seen = Volume.read(target), Volume.read(confidence)
        # The header's text does not carry all 16 digits of a matrix; the caller's own does.
        return Synthesis(
            Volume(mr.array, volume.ijk_to_ras, mr.metadata),
            np.array(done["ras_to_canonical"]).reshape(4, 4),
            Volume(seen.array, volume.ijk_to_ras),
            done["provenance"],
        )

    def request(
        self, op: str, *, on_event: OnEvent | None = None, cancel: Callable[[], bool] | None = None, **fields: Any
    ) -> dict[str, Any]:
        """Send one request and wait for its end; returns the result of its `done` event.

        `on_event` is called with every event of the request; `cancel` is polled. Raises the error that the
        worker reports (Refused, Failed, Cancelled), or Failed when it dies.
        """
        with self._busy:
            self._cancelling.clear()
            identity = next(self._identities)
            self._send({"id": identity, "op": op, **fields})
            deadline: float | None = None
            while True:
                if deadline is None and (self._cancelling.is_set() or (cancel is not None and cancel())):
                    deadline = time.monotonic() + CANCEL_GRACE_S
                    self._write({"op": "cancel", "id": identity})
                if deadline is not None and time.monotonic() > deadline:
                    self.kill()
                    raise Cancelled
                try:
                    event = self._events.get(timeout=_POLL_S)
                except queue.Empty:
                    continue
                if event is None:
                    raise self._death(deadline is not None)
                lost = event.get("id") is None and event["event"] == "error"  # our own line was not understood
                if event.get("id") != identity and not lost:  # a line of an earlier request
                    continue
                if on_event is not None:
                    on_event(event)
                if event["event"] == "done":
                    if deadline is not None:  # it finished before the cancel arrived: cancelled all the same
                        raise Cancelled
                    result: dict[str, Any] = event["result"]
                    return result
                if event["event"] == "error":
                    raise _error(event)

    def cancel(self) -> None:
        """Cancel the running request, from another thread; it then raises Cancelled within half a second."""
        self._cancelling.set()

    def kill(self) -> None:
        """End the worker and every process it started, now."""
        process, self._process = self._process, None
        if process is None:
            return
        if sys.platform == "win32":
            subprocess.run(["taskkill", "/T", "/F", "/PID", str(process.pid)], capture_output=True, check=False)
        else:
            try:
                os.killpg(process.pid, signal.SIGKILL)  # the worker leads a session of its own
            except ProcessLookupError:
                pass
        process.wait()
        _close(process)

    def close(self) -> None:
        """Let the worker go: it exits when its input closes, and is killed when it does not."""
        process = self._process
        if process is None:
            return
        try:
            if process.stdin is not None:
                process.stdin.close()
            process.wait(timeout=2)
        except (OSError, subprocess.TimeoutExpired):
            pass
        self.kill()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, request: Event) -> None:
        """Write a request to a worker that is running; one that died unnoticed is replaced once."""
        for _ in range(2):
            if self.pid is None:
                self._start()
            if self._write(request):
                return
            self.kill()
        raise Failed("worker", "The worker does not start.", "Look at the log; reinstall the extension.")

    def _write(self, request: Event) -> bool:
        process = self._process
        if process is None or process.stdin is None:
            return False
        try:
            process.stdin.write(json.dumps(request, allow_nan=False) + "\n")
            process.stdin.flush()
        except OSError:
            return False
        except (TypeError, ValueError) as error:
            raise Failed(
                "request", "The request cannot be sent to the worker.", "Give numbers that are finite, and text."
            ) from error
        return True

    def _start(self) -> None:
        self.kill()
        remove_abandoned()
        self._events = queue.Queue()
        self._last_words.clear()
        flags = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
        try:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                env=self._environment,
                start_new_session=True,
                creationflags=flags,
            )
        except OSError as error:
            raise Failed(
                "worker",
                f"The worker cannot be started ({error.strerror}).",
                "Check the Python that it is to run with.",
            ) from error
        self._process = process
        threading.Thread(target=_listen, args=(process, self._events), daemon=True).start()
        threading.Thread(target=_drain, args=(process, self._last_words), daemon=True).start()

    def _death(self, cancelling: bool) -> USMRIError:
        """The error for a worker that ended in the middle of a request."""
        process = self._process
        code = process.wait() if process is not None else None
        self.kill()  # what it may have started
        if cancelling:
            return Cancelled()
        if code is not None and code < 0:
            try:
                name = signal.Signals(-code).name
            except ValueError:
                name = str(-code)
            killed = "If memory is short, close other programs. "
            return Failed(
                "worker",
                f"The worker was ended by the signal {name} before it had finished.",
                (killed if name == "SIGKILL" else "") + _REMEDY,
            )
        return Failed("worker", f"The worker ended unexpectedly (exit code {code}).", _REMEDY)


@contextmanager
def _working_folder() -> Iterator[Path]:
    """A folder for the voxels, gone afterwards. Raises Failed where none can be made."""
    try:
        folder = make_folder()
    except OSError as error:
        raise Failed(
            "write",
            f"The temporary folder cannot be used: {error.strerror or 'it cannot be written'}.",
            "Free space on its disk, or name another one in the environment variable TMPDIR.",
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _listen(process: subprocess.Popen[str], events: "queue.Queue[Event | None]") -> None:
    """Turn the worker's lines into events; None at the end."""
    assert process.stdout is not None
    try:
        for line in process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and "event" in event:
                events.put(event)
    except (OSError, ValueError):  # closed by kill()
        pass
    events.put(None)


def _drain(process: subprocess.Popen[str], lines: deque[str]) -> None:
    """Read stderr: a full pipe would stop the worker."""
    assert process.stderr is not None
    try:
        lines.extend(process.stderr)
    except (OSError, ValueError):
        pass


def _close(process: subprocess.Popen[str]) -> None:
    for stream in (process.stdin, process.stdout, process.stderr):
        try:
            if stream is not None:
                stream.close()
        except OSError:
            pass


def _error(event: Event) -> USMRIError:
    """The exception that an error event stands for."""
    content = (str(event.get("kind")), str(event.get("message")), str(event.get("remedy")))
    if event.get("kind") == "consent" and "sha256" in event:
        from USMRISynthesisLib.models.store import ConsentNeeded

        return ConsentNeeded(str(event.get("model")), str(event["sha256"]))
    kinds: dict[Any, type[USMRIError]] = {"refused": Refused, "cancelled": Cancelled}
    return kinds.get(event.get("category"), Failed)(*content)
