"""One run: the input goes out to the worker, and the result into the scene only after success.

Until the worker says "done" and its file has been read, nothing in the scene is touched: a failed, refused or
cancelled run leaves nodes, selections and views as they were. One run at a time; a run started from the panel
returns at once and reports by callbacks, `wait` makes it blocking for the console.
"""
from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import slicer
from USMRISynthesisLib.errors import Cancelled, Failed, Refused, USMRIError
from USMRISynthesisLib.volume import Volume

from USMRISynthesisScene import handoff, nodes
from USMRISynthesisScene.process import Event, WorkerProcess, WorkerProtocol

log = logging.getLogger(__name__)

_WAIT_MS = 200
VolumeNode = "slicer.vtkMRMLScalarVolumeNode"


@dataclass(frozen=True)
class Reports:
    """Where a run's news go. Every one may be left out; none is called after `finished`."""

    progress: Callable[[float, str], None] = lambda value, stage: None
    message: Callable[[str, str], None] = lambda level, text: None
    finished: Callable[[Any, USMRIError | None], None] = lambda node, error: None


class SynthesizerProtocol(Protocol):
    """What the panel needs; tests put their own in its place."""

    @property
    def running(self) -> bool: ...

    @property
    def worker(self) -> WorkerProtocol: ...

    def start(self, source: VolumeNode, output: VolumeNode | None = None, *, model: str, device: str,
              transform: Any, trust: bool, support: bool, masks: bool, unreliable: bool,
              gestational_age: float | None, deliver: Callable[[nodes.Result], Any] | None = None,
              reports: Reports) -> None: ...

    def cancel(self) -> None: ...

    def close(self) -> None: ...


class Synthesizer:
    """Runs one synthesis after another on one warm worker.

        synthesizer = Synthesizer()
        synthesizer.start(ultrasoundNode)
        outputNode = synthesizer.wait()
    """

    def __init__(self, worker: WorkerProtocol | None = None) -> None:
        self._worker = worker or WorkerProcess()
        self._folder: Path | None = None
        self._source: Any = None
        self._output: Any = None
        self._deliver: Callable[[nodes.Result], Any] | None = None
        self._reports = Reports()
        self._outcome: tuple[Any, USMRIError | None] = (None, None)

    @property
    def running(self) -> bool:
        return self._folder is not None

    @property
    def worker(self) -> WorkerProtocol:
        """The process behind it, for work that is no run of a node; only while nothing runs."""
        return self._worker

    def start(self, source: VolumeNode, output: VolumeNode | None = None, *, model: str = "default",
              device: str = "auto", transform: Any = None, trust: bool = False, support: bool = False,
              masks: bool = False, unreliable: bool = False, gestational_age: float | None = None,
              deliver: Callable[[nodes.Result], Any] | None = None, reports: Reports | None = None) -> None:
        """Begin a run.

        Args:
            source: greyscale ultrasound volume, 3D or a single frame.
            output: volume to write into; None makes a new one.
            model: name of an installed model, or path of a model folder.
            device: auto, cpu, cuda or mps.
            transform: linear transform node or 4x4 array, the input's local RAS to canonical space; None aligns
                the head automatically.
            trust: the user has agreed to run this model, which comes from outside the installation.
            support: also make the map of where the beam looked inside the head.
            masks: also make a segmentation of the fan and the head.
            unreliable: go on although the head was not found reliably.
            gestational_age: weeks, where it is known: a prior for the head's size.
            deliver: takes the result instead of the scene, which is not touched then.
            reports: callbacks; a refusal comes through `finished`, like every other end.

        Raises:
            RuntimeError: a run is in flight.
        """
        if self.running:
            raise RuntimeError("A synthesis is running already; wait for it or cancel it.")
        self._reports = reports or Reports()
        self._source, self._output, self._deliver = source, output, deliver
        self._outcome = (None, None)
        try:
            self._folder = working_folder()
            if output is not None and output is source:
                raise Refused("same-node", "Input and output are the same volume.",
                              "Choose another output, or let a new one be created.")
            volume = nodes.read_volume(source)
            matrix = nodes.read_transform(transform)
            volume.write(self._folder / "input.nrrd", compress=False)
            request = {"op": "synthesize", "input": str(self._folder / "input.nrrd"),
                       "output": str(self._folder / "output.nrrd"), "model": model, "device": device,
                       "planes": "axial", "transform": None if matrix is None else matrix.ravel().tolist(),
                       "trust_model": trust, "unreliable": unreliable, "gestational_age": gestational_age,
                       "confidence": str(self._folder / "support.nrrd") if support else None,
                       "masks": str(self._folder / "masks.nrrd") if masks else None}
            self._worker.send(request, self._handle)
        except USMRIError as error:
            self._finish(None, error)

    def cancel(self) -> None:
        """Stop at once. The next run starts a fresh process."""
        if self.running:
            self._worker.kill()
            self._finish(None, Cancelled())

    def wait(self) -> VolumeNode:
        """Block until the run ends; returns the output node or raises what went wrong."""
        try:
            while self.running:
                self._worker.wait(_WAIT_MS)
        except BaseException:   # Ctrl+C, or a progress callback that has had enough
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
        if kind == "progress":
            self._reports.progress(float(event.get("value", 0.0)), str(event.get("stage", "")))
        elif kind == "log":
            self._reports.message(str(event.get("level", "info")), str(event.get("text", "")))
        elif kind == "error":
            self._finish(None, error_from(event))
        elif kind == "done":
            try:
                self._finish(self._import(event.get("result", {})), None)
            except USMRIError as error:
                self._finish(None, error)

    def _import(self, result: Mapping[str, Any]) -> VolumeNode:
        """Read everything first; the scene is changed only when all of it is good."""
        assert self._folder is not None
        loaded = read_result(result, self._folder / "output.nrrd")
        if self._deliver is not None:
            return self._deliver(loaded)
        scene = slicer.mrmlScene
        if self._source.GetScene() is not scene:
            raise Cancelled("closed", "The ultrasound volume was removed while the synthesis ran.",
                            "Nothing was added to the scene.")
        output = self._output
        if output is not None and output.GetScene() is not scene:
            output = None   # the chosen output was deleted meanwhile: a new one takes its place
        written = nodes.write_result(loaded, self._source, output)
        if loaded.masks is not None:
            handoff.write_masks(loaded.masks, written)
        return written

    def _finish(self, node: Any, error: USMRIError | None) -> None:
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        if error is not None:
            self._reports.message("error", str(error))
        self._outcome = (node, error)
        self._source = self._output = self._deliver = None
        self._reports.finished(node, error)


def working_folder() -> Path:
    """A new folder for what travels between the processes. Raises Failed where there is no room for one."""
    try:
        return Path(tempfile.mkdtemp(prefix="USMRISynthesis-", dir=slicer.app.temporaryPath))
    except OSError as error:
        raise Failed("write", f"Slicer's temporary folder cannot be used: {error.strerror or 'it cannot be written'}.",
                     "Choose another one in the application settings, or make room on its disk.") from error


def read_result(result: Mapping[str, Any], path: Path) -> nodes.Result:
    """What the worker left behind, checked. Raises Failed when a part of it is missing or unreadable."""
    try:
        transform = np.asarray(result["ras_to_canonical"], dtype=np.float64).reshape(4, 4)
        support, masks = result.get("confidence"), result.get("masks")
        return nodes.Result(Volume.read(path), transform, dict(result.get("provenance", {})),
                            Volume.read(support) if support else None,
                            Volume.read(masks) if masks else None)
    except (KeyError, TypeError, ValueError, USMRIError) as error:
        log.debug("the worker's result could not be read", exc_info=True)
        raise Failed("result", "The result of the synthesis process could not be read.",
                     "Check the free space in Slicer's temporary folder and run it again.") from error


def error_from(event: Event) -> USMRIError:
    """The worker's error as the exception that it was there."""
    classes = {"refused": Refused, "cancelled": Cancelled}
    return classes.get(event.get("category", ""), Failed)(
        str(event.get("kind", "failed")), str(event.get("message", "The synthesis failed.")),
        str(event.get("remedy", "Details are in the log.")))
