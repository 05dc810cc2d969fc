"""The child process that does the synthesis: JSON lines, requests in on stdin and events out on stdout.

It stays warm: torch and the loaded models are kept between requests. It exits when its stdin closes, or when the
process ends that is named by `--owner PID` (without it, its parent): it never outlives the program that started it.
`python -m USMRISynthesisLib.worker` or `PythonSlicer worker/__main__.py`.

Requests (`id` is any string or number; unknown fields are ignored)::

    {"id": 1, "op": "synthesize", "input": PATH, "output": PATH,
     "model": "default", "device": "auto", "transform": [16 numbers, row by row] | null,
     "planes": null,                 # "axial", "coronal", "sagittal", "all"; null: all, if the model supports it
     "reliability": PATH | null,     # where to write the reliability map, if it is wanted; or "confidence"
     "masks": PATH | null,           # where to write uint8 masks: 1 in the fan, 2 in the head inside it
     "compress": false,              # whether to compress the output
     "trust_model": false,           # true after the user has agreed to run a model of their own
     "allow_low_confidence": false,  # true to go on although the head was not found reliably; or "unreliable"
     "any_content": false,           # true to go on although a frame shows no brain, or the image has no speckle
     "gestational_age": null,        # weeks, 14-42, where it is known: a prior for the head's size
     "frame": null,                  # which time point, from 0; these four for every op that has an input
     "series": null,                 # of DICOM (a file, a folder, a DICOMDIR): number in the list, or UID of the series
     "region": null,                 # of a DICOM picture: which of several B-mode regions, from 1
     "pixel_size": null}             # mm, of a picture, instead of the file's
    {"id": 2, "op": "normalise", "input": PATH, "output": PATH, "transform": [16] | null, "gestational_age": null}
    {"id": 2, "op": "respace", "input": PATH, "output": PATH, "model": "spacing", "device": "auto",
     "spacing": MM | null, "axis": "i" | "j" | "k" | null, "consistency": false, "compress": false,
     "trust_model": false}
    {"id": 3, "op": "live", ...}     # one picture of a stream: see `live/exchange.py`
    {"id": 3, "op": "ping"}
    {"op": "cancel", "id": 1}        # running or still waiting; answered by the job's own "cancelled" error.
                                     # Of an id that neither runs nor waits: nothing happens.

A field of the wrong type is answered by an error of kind "request". null is the same as leaving a field out. An id
that is used twice belongs to two requests, which are answered one after the other; cancel ends both.

Events, each with the `id` of its request (null where a line could not be understood)::

    {"id": 1, "event": "progress", "value": 0.0-1.0, "stage": "Synthesising"}
    {"id": 1, "event": "log", "level": "info" | "warning", "text": "..."}
    {"id": 1, "event": "done", "result": {"output": PATH, "confidence": PATH | null, "masks": PATH | null,
        "ras_to_canonical": [16], "trusted": bool, "score": 0-1, "method": "...", "provenance": {...}}}
    {"id": 1, "event": "error", "category": "refused" | "failed" | "cancelled", "kind": "...",
     "message": "...", "remedy": "..."}      # kind "consent" also: "model", "sha256"

`respace` answers `done` with `{"output", "consistency", "provenance"}`, `ping` with `{"version", "pid", "python"}`.
Every request ends in one `done` or one `error`.
Jobs run one after the other. The output appears complete or not at all.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, TextIO

from USMRISynthesisLib.errors import Cancelled, Failed, Refused, USMRIError, memory_shortage
from USMRISynthesisLib.io.synthetic import MADE_BY, SYNTHETIC
from USMRISynthesisLib.worker.environment import prepare
from USMRISynthesisLib.worker.fields import outputs_of, path_of, read_of, transform_of, weeks_of
from USMRISynthesisLib.worker.owner import when_gone
from USMRISynthesisLib.worker.request import (
    Request,
    check_fields,
    identity_of,
    lines,
    parse,
    reliability_path,
)

EXIT_GRACE_S = 5.0  # a job that still runs this long after stdin has closed is abandoned


class Worker:
    """Reads requests on a thread of its own, so that a cancel arrives while a job runs in the main thread.

    Worker(sys.stdin.buffer, events).serve()
    """

    def __init__(self, requests: BinaryIO, events: TextIO) -> None:
        self._requests = requests
        self._events = events
        self._writing = threading.Lock()
        self._jobs: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._pending: list[Request] = []  # those that run or wait; compared by what they are, not by their id
        self._cancelled: list[Request] = []
        self._bookkeeping = threading.Lock()
        self._closing = threading.Event()
        self._operations: dict[str, Callable[[Request], dict[str, Any]]] = {
            "ping": self._ping,
            "synthesize": self._synthesize,
            "normalise": self._normalise,
            "respace": self._respace,
            "live": self._live,
        }
        self._exchange: Any = None  # of the live session

    def serve(self) -> None:
        """Run until stdin closes or `close` is called."""
        threading.Thread(target=self._read, name="requests", daemon=True).start()
        while True:
            job = self._jobs.get()
            if job is None or self._closing.is_set():
                return
            self._run(job)

    def close(self) -> None:
        """Stop after the slices in hand. Safe in a signal handler."""
        self._closing.set()
        self._jobs.put(None)

    def abandon(self) -> None:
        """Stop as `close` does, and end the process if that takes too long."""
        self.close()
        last = threading.Timer(EXIT_GRACE_S, os._exit, args=(1,))
        last.daemon = True
        last.start()

    def _read(self) -> None:
        try:
            for line in lines(self._requests):
                if line is None or line.strip():
                    self._accept(line)
        except (OSError, ValueError):  # the pipe broke
            pass
        finally:
            self.abandon()

    def _accept(self, line: bytes | None) -> None:
        """Put a request into the queue, or answer why not. Raises nothing: the thread that reads must live."""
        identity = None
        try:
            request = parse(line)
            identity = identity_of(request)
            operation = request.get("op")
            if operation == "cancel":
                self._cancel_all(identity)
                return
            if not isinstance(operation, str) or operation not in self._operations:
                known = f"Known: {', '.join(self._operations)}, cancel."
                raise Failed("request", f"There is no operation {str(operation)[:40]!r}.", known)
            check_fields(request)
            with self._bookkeeping:
                self._pending.append(request)
            self._jobs.put(request)
        except USMRIError as error:
            self._error(identity, error)
        except Exception:
            traceback.print_exc(file=sys.stderr)
            self._error(
                identity, Failed("request", "A request could not be understood.", "Please report it with the log.")
            )

    def _cancel_all(self, identity: Any) -> None:
        with self._bookkeeping:
            self._cancelled += [job for job in self._pending if job["id"] == identity]

    def _run(self, job: Request) -> None:
        identity = job["id"]
        try:
            if self._is_cancelled(job):
                raise Cancelled
            result = self._operations[job["op"]](job)
            self._emit(identity, "done", result=result)
        except USMRIError as error:
            self._error(identity, error)
        except Exception as error:
            short = memory_shortage(error)
            if short is not None:
                self._error(identity, short)
                return
            # The traceback goes to stderr for the log; the user gets a sentence.
            traceback.print_exc(file=sys.stderr)
            self._error(
                identity,
                Failed(
                    "internal",
                    f"An unexpected fault stopped the work ({type(error).__name__}).",
                    "Please report it with the log.",
                ),
            )
        finally:
            with self._bookkeeping:
                self._pending = [one for one in self._pending if one is not job]
                self._cancelled = [one for one in self._cancelled if one is not job]

    def _ping(self, job: Request) -> dict[str, Any]:
        from USMRISynthesisLib import __version__

        return {"version": __version__, "pid": os.getpid(), "python": sys.version.split()[0]}

    def _synthesize(self, job: Request) -> dict[str, Any]:
        from USMRISynthesisLib.io.outputs import staged
        from USMRISynthesisLib.io.volume import COMMENT, Volume
        from USMRISynthesisLib.synthesis.pipeline import synthesize

        reliability = reliability_path(job)
        source, targets = (
            path_of(job, "input"),
            outputs_of({**job, "reliability": reliability}, "output", "reliability", "masks"),
        )
        trusted = job.get("trust_model") is True
        volume = read_of(job, source)
        result = synthesize(
            volume,
            model=str(job.get("model") or "default"),
            device=str(job.get("device") or "auto"),
            planes=job.get("planes") or None,
            transform=transform_of(job),
            progress=self._progress(job),
            cancel=self._cancel(job),
            log=self._log(job),
            consent=lambda sha256, name: trusted,
            allow_low_confidence=job.get("allow_low_confidence") is True or job.get("unreliable") is True,
            any_content=job.get("any_content") is True,
            gestational_age=weeks_of(job),
        )
        with staged(list(targets.values())) as files:
            names = dict(zip(targets, files, strict=True))
            if "reliability" in names:
                result.confidence.write(names["reliability"], compress=False, metadata={COMMENT: SYNTHETIC})
            if "masks" in names:
                from USMRISynthesisLib.ultrasound.gate import find_fan

                fan = find_fan(volume.array, volume.spacing)
                masks = fan.astype("uint8") + (fan & (result.confidence.array > 0))
                Volume(masks, volume.ijk_to_ras, {COMMENT: f"{MADE_BY}: fan and head"}).write(
                    names["masks"], compress=False
                )
            result.mr.write(names["output"], compress=job.get("compress") is True)
        provenance = result.provenance
        return {
            "output": str(targets["output"]),
            "confidence": reliability,
            "masks": job.get("masks"),
            "ras_to_canonical": result.transform.ravel().tolist(),
            "trusted": result.trusted,
            "score": provenance["alignment"]["score"],
            "method": provenance["alignment"]["method"],
            "provenance": provenance,
        }

    def _normalise(self, job: Request) -> dict[str, Any]:
        from USMRISynthesisLib.io.outputs import staged
        from USMRISynthesisLib.io.volume import COMMENT
        from USMRISynthesisLib.synthesis.pipeline import normalise

        source, target = path_of(job, "input"), outputs_of(job, "output")["output"]
        result = normalise(
            read_of(job, source),
            transform=transform_of(job),
            progress=self._progress(job),
            cancel=self._cancel(job),
            log=self._log(job),
            gestational_age=weeks_of(job),
        )
        with staged([target]) as (name,):
            note = {COMMENT: f"{MADE_BY}: ultrasound in canonical space"}
            result.canonical.write(name, compress=False, metadata=note)
        return {
            "output": str(target),
            "confidence": None,
            "ras_to_canonical": result.transform.ravel().tolist(),
            "trusted": result.trusted,
            "score": result.provenance["alignment"]["score"],
            "method": result.provenance["alignment"]["method"],
            "provenance": result.provenance,
        }

    def _respace(self, job: Request) -> dict[str, Any]:
        from USMRISynthesisLib.io.outputs import staged
        from USMRISynthesisLib.spacing.pipeline import respace

        source, target = path_of(job, "input"), outputs_of(job, "output")["output"]
        trusted = job.get("trust_model") is True
        result = respace(
            read_of(job, source),
            spacing=job.get("spacing"),
            axis=job.get("axis"),
            model=str(job.get("model") or "spacing"),
            device=str(job.get("device") or "auto"),
            consistency=job.get("consistency") is True,
            progress=self._progress(job),
            cancel=self._cancel(job),
            consent=lambda sha256, name: trusted,
        )
        with staged([target]) as (name,):
            result.mr.write(name, compress=job.get("compress") is True)
        return {"output": str(target), "consistency": result.consistency, "provenance": result.provenance}

    def _live(self, job: Request) -> dict[str, Any]:
        from USMRISynthesisLib.live.exchange import LiveExchange

        self._exchange = self._exchange or LiveExchange()
        answer: dict[str, Any] = self._exchange.answer(job)
        return answer

    def _is_cancelled(self, job: Request) -> bool:
        return self._closing.is_set() or any(one is job for one in self._cancelled)

    def _cancel(self, job: Request) -> Callable[[], bool]:
        return lambda: self._is_cancelled(job)

    def _progress(self, job: Request) -> Callable[[float, str], None]:
        return lambda value, stage: self._emit(job["id"], "progress", value=round(value, 4), stage=stage)

    def _log(self, job: Request) -> Callable[[str, str], None]:
        return lambda level, text: self._emit(job["id"], "log", level=level, text=text)

    def _error(self, identity: Any, error: USMRIError) -> None:
        category = (
            "refused" if isinstance(error, Refused) else "cancelled" if isinstance(error, Cancelled) else "failed"
        )
        consent = (
            {"model": error.name, "sha256": error.sha256}
            if error.kind == "consent" and hasattr(error, "sha256") and hasattr(error, "name")
            else {}
        )
        self._emit(
            identity, "error", category=category, kind=error.kind, message=error.message, remedy=error.remedy, **consent
        )

    def _emit(self, identity: Any, event: str, **content: Any) -> None:
        line = json.dumps({"id": identity, "event": event, **content}, allow_nan=False) + "\n"
        try:
            with self._writing:
                self._events.write(line)
                self._events.flush()
        except (OSError, ValueError):  # the reader is gone
            self.close()


def main(arguments: Sequence[str] = ()) -> int:
    """Serve on this process's stdin and stdout. stdout carries events and nothing else, whatever prints.

    arguments: `--owner PID`, the process to end with; by default the parent.
    """
    prepare()
    events = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    os.dup2(2, 1)  # what C code or a library prints joins stderr
    sys.stdout = sys.stderr
    worker = Worker(os.fdopen(os.dup(0), "rb"), events)
    for owner in {os.getppid(), *_owner(arguments)}:
        if owner > 0:  # 0: a parent outside of this container, which cannot be watched
            when_gone(owner, worker.abandon)
    for name in ("SIGTERM", "SIGINT", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: worker.close())
    worker.serve()
    with contextlib.suppress(OSError):  # nobody reads the rest
        events.close()
    return 0


def _owner(arguments: Sequence[str]) -> list[int]:
    """The process id after `--owner`, if there is one."""
    given = list(arguments)
    if "--owner" not in given[:-1]:
        return []
    return [int(given[given.index("--owner") + 1])]
