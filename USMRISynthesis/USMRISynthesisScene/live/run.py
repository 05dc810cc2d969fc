"""A live run: the newest picture of a volume goes to the worker, and its image comes into the output node.

One request is in flight at a time; when its answer is there, only the newest of what came meanwhile is looked at.
Slicer's event loop writes and reads a file of a picture's size, and computes nothing.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import qt
import slicer
from slicer.i18n import tr as _
from USMRISynthesisLib.errors import Failed, Refused, USMRIError
from USMRISynthesisLib.live.exchange import MR, ULTRASOUND
from USMRISynthesisLib.live.shown import FROZEN_AFTER_S, State, line_of

from USMRISynthesisScene.live import output
from USMRISynthesisScene.live.recording import Recording
from USMRISynthesisScene.nodes import nodes
from USMRISynthesisScene.nodes.node_observer import NodeObserver
from USMRISynthesisScene.runs.run import error_from, working_folder
from USMRISynthesisScene.runs.worker_process import Event, WorkerProtocol

log = logging.getLogger(__name__)

_TICK_MS = 100
_IMAGE = ("state", "reason", "image", "taken_s", "rate", "confidence", "number")


@dataclass(frozen=True)
class LiveOptions:
    """Choices of a run; see `live/exchange.py`."""

    model: str = "default"
    device: str = "auto"
    trust: bool = False
    unreliable: bool = False
    median: int = 1


@dataclass(frozen=True, eq=False)
class _Picture:
    array: np.ndarray
    ijk_to_ras: np.ndarray
    came: float


class LiveWorkerProtocol(WorkerProtocol, Protocol):
    """A worker that can be asked whether it lives."""

    @property
    def running(self) -> bool: ...


class LiveRun:
    """Runs from `start` to `stop`, or until the worker ends.

    Args:
        worker: a process of its own, which a synthesis does not share; it is killed at the end.
        shown: (line), whenever the view changes, or grows older.
        ended: (None or the error), once, at the end.
        first: called with the first image in the output node, before the mark is drawn into it.
    """

    def __init__(
        self,
        worker: LiveWorkerProtocol,
        shown: Callable[[str], None],
        ended: Callable[[USMRIError | None], None],
        first: Callable[[Any, Any], None] = lambda source, node: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._worker, self._on_shown, self._on_ended, self._on_first = worker, shown, ended, first
        self._clock = clock
        self._observer = NodeObserver(self._on_picture, slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent)
        self._timer = qt.QTimer()
        self._timer.setInterval(_TICK_MS)
        self._timer.connect("timeout()", self.tick)
        self._folder: Path | None = None
        self.source: Any = None
        self.output: Any = None
        self.recording: Recording | None = None
        self.line = ""

    @property
    def running(self) -> bool:
        return self._folder is not None

    def start(self, source: Any, options: LiveOptions) -> None:
        """Begin. Raises Refused for a node that cannot be used, Failed without a folder, RuntimeError while it runs."""
        if self.running:
            raise RuntimeError("A live run is in flight already.")
        if nodes.is_synthetic(source):
            raise Refused(
                "synthetic",
                _("{name} is synthetic itself.").format(name=source.GetName()),
                _("Choose the ultrasound that updates."),
            )
        if nodes.read_volume(source).shape[0] != 1:
            raise Refused(
                "frames",
                _("{name} is a volume, not a frame.").format(name=source.GetName()),
                _("Choose the 2D image of the stream."),
            )
        self._folder = working_folder()
        self.source, self.output = source, output.output_of(source)
        output.blank(self.output)
        self._options = options
        self._waiting = self._restart = True  # a picture has come that was not sent; the session is to begin anew
        self._came = self._sent_at = self._news_at = self._clock()
        self._sent: _Picture | None = None
        self._in_flight = False
        self._state: dict[str, Any] = {"state": State.WAITING.value, "reason": _("The model is being loaded.")}
        self._taken_at: float | None = None
        self._number = 0
        self._observer.observe(source)
        self._timer.start()
        self._send()
        self.tick()

    def stop(self, error: USMRIError | None = None) -> None:
        """End at once, whatever is in flight: nothing of it is shown any more."""
        if not self.running:
            return
        folder, self._folder = self._folder, None
        self._observer.observe(None)
        self._timer.stop()
        self._worker.kill()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        self.record(False)
        output.annotate(None, "")
        if self.output is not None and self.output.GetScene() is slicer.mrmlScene and not slicer.mrmlScene.IsClosing():
            output.blank(self.output)
        self.source = self.output = self._sent = None
        self.line = ""
        self._on_ended(error)

    def cancel(self) -> None:
        """As `stop`."""
        self.stop()

    def record(self, on: bool) -> Any:
        """Begin a recording, or end it and return the browser of what was recorded, or None."""
        if on:
            if self.recording is None and self.running:
                self.recording, self._began = Recording(self.source), self._clock()
            return None
        recording, self.recording = self.recording, None
        return recording.finish() if recording is not None and not slicer.mrmlScene.IsClosing() else None

    def tick(self) -> None:
        """Let the age grow; look for what no event tells."""
        if not self.running:
            return
        for node in (self.source, self.output):
            if node.GetScene() is not slicer.mrmlScene:
                self.stop(
                    Refused("source", _("The ultrasound or its live image was deleted."), _("Choose a volume again."))
                )
                return
        if not self._in_flight and not self._worker.running:  # a process that dies between two pictures says nothing
            self.stop(Failed("worker-exit", _("The live process has ended unexpectedly."), _("Press Start again.")))
            return
        if not self._in_flight and (self._waiting or self._state["state"] == State.SEARCHING.value):
            self._send()
        self._show_line()

    def _on_picture(self, caller: Any, event: Any) -> None:
        if not self.running:
            return
        self._waiting, self._came = True, self._clock()
        if self._in_flight and not self._is_sent():  # a slow worker makes no picture a frozen one
            self._news_at = self._came
        if not self._in_flight and self._worker.running:  # the next tick reports one that has died
            self._send()

    def _is_sent(self) -> bool:
        """Whether the picture in the source is the one that was sent last."""
        image = self.source.GetImageData()
        if self._sent is None or image is None or image.GetNumberOfPoints() == 0:
            return False
        return bool(np.array_equal(self._sent.array, slicer.util.arrayFromVolume(self.source)))

    def _send(self) -> None:
        """Send the picture that is in the source now, or ask for news where it is the one that was sent last."""
        request: dict[str, Any] = {
            "op": "live",
            "folder": str(self._folder),
            "restart": self._restart,
            "model": self._options.model,
            "device": self._options.device,
            "trust_model": self._options.trust,
            "unreliable": self._options.unreliable,
            "any_content": self._options.unreliable,
            "median": self._options.median,
        }
        if self._waiting:
            self._waiting = False
            try:
                volume = nodes.read_volume(self.source)
                if volume.shape[0] != 1:
                    raise Refused("frames", _("The volume is no frame any more."), _("Choose the stream's 2D image."))
                volume.array.tofile(Path(request["folder"]) / ULTRASOUND)
            except (USMRIError, OSError) as error:
                self.stop(error if isinstance(error, USMRIError) else _disk(error))
                return
            picture = _Picture(volume.array, volume.ijk_to_ras, self._came)
            if self._sent is not None and self._sent.array.shape != picture.array.shape:
                self._taken_at = None  # what is shown belongs to another picture
                output.blank(self.output)
            if self._sent is None or not np.array_equal(self._sent.array, picture.array):
                self._news_at = self._came
            self._sent = picture
            request |= {
                "size": list(volume.shape[1:]),
                "type": volume.array.dtype.name,
                "grid": volume.ijk_to_ras.ravel().tolist(),
                "waited": max(0.0, self._clock() - self._came),
            }
        self._restart = False
        self._in_flight, self._sent_at = True, self._clock()
        self._worker.send(request, self._on_event)

    def _on_event(self, event: Event) -> None:
        if not self.running:
            return
        if event["event"] == "error":
            self.stop(error_from(event))
        elif event["event"] == "done":
            self._in_flight = False
            try:
                self._take(event["result"])
            except (KeyError, TypeError, ValueError, OSError):
                log.exception("a live answer cannot be used")
                self.stop(Failed("worker-answer", _("The live process gave an unusable answer."), _("Start again.")))
                return
            if self.running and self._waiting:
                self._send()
        elif event["event"] == "log":
            log.info("%s", event.get("text", ""))

    def _take(self, result: dict[str, Any]) -> None:
        """An answer into the scene. Raises KeyError, TypeError, ValueError, OSError where it is none."""
        state = {key: result[key] for key in _IMAGE}
        State(state["state"])
        sent = self._sent
        if not state["image"] or sent is None:
            self._taken_at = None
            output.blank(self.output)
        else:
            taken_at = self._sent_at - float(state["taken_s"])
            if state["number"] == self._number and self._taken_at is not None:
                self._taken_at = min(taken_at, self._taken_at)
            else:
                self._taken_at = taken_at
                assert self._folder is not None
                mr = np.fromfile(self._folder / MR, dtype=np.int16).reshape(sent.array.shape)
                if mr.min() < nodes.MR_WINDOW[0] or mr.max() > nodes.MR_WINDOW[1]:
                    raise ValueError("values outside the range of MR-like images")
                self._write(mr, sent)
                self._number = int(state["number"])
        self._state = state
        self._show_line()

    def _write(self, mr: np.ndarray, sent: _Picture) -> None:
        if self._number == 0:
            slicer.util.updateVolumeFromArray(self.output, mr)
            nodes.set_geometry(self.output, self.source, sent.ijk_to_ras)
            self.output.SetAndObserveTransformNodeID(self.source.GetTransformNodeID())
            self._on_first(self.source, self.output)  # views are fitted to the head, not to the mark
        output.update(self.output, self.source, mr, sent.ijk_to_ras)
        if self.recording is not None:
            self.recording.add(self._clock() - self._began, sent.array, mr, sent.ijk_to_ras)
            if self.recording.full:
                self.record(False)

    def _show_line(self) -> None:
        """State, age, rate and confidence as of now."""
        now, state = self._clock(), self._state
        word, reason = state["state"], state["reason"]
        age = None if self._taken_at is None else max(0.0, now - self._taken_at)
        rate = float(state.get("rate") or 0.0)
        if age is not None and now - self._news_at > FROZEN_AFTER_S:
            word, rate = State.FROZEN.value, 0.0
            still = now - self._came > FROZEN_AFTER_S
            reason = _("No new picture comes.") if still else _("The picture is frozen.")
        self.line = line_of(word, reason, age, rate, state.get("confidence"))
        figures = line_of(word, "", age, rate, state.get("confidence"))
        output.annotate(self.output, output.corner_text(figures, reason))
        self._on_shown(self.line)


def _disk(error: OSError) -> Failed:
    return Failed(
        "write",
        _("The picture could not be handed to the live process: {reason}.").format(reason=error.strerror),
        _("Free space on the disk of Slicer's temporary folder."),
    )
