"""Thinner slices of a volume node: out to the worker and, after success, back as a new node beside its source.

    run = RespaceRun(worker)
    run.start(mrNode, RespaceOptions(spacing_mm=1.1), Reports(finished=print))

Until the worker says "done" and its file has been read, nothing in the scene is touched.
"""
from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _
from USMRISynthesisLib.errors import Cancelled, Failed, Refused, USMRIError
from USMRISynthesisLib.volume import Volume

from USMRISynthesisScene import nodes
from USMRISynthesisScene.process import Event, WorkerProtocol
from USMRISynthesisScene.synthesis import Reports, error_from, working_folder

log = logging.getLogger(__name__)

_WAIT_MS = 200
SOURCE_ROLE = "USMRISynthesis.SourceThickSlices"


@dataclass(frozen=True)
class RespaceOptions:
    """spacing_mm: between slices afterwards, None for the pixel's side. consistency: degraded, the result is the
    input. trust: the user has agreed to run this model, which comes from outside the installation.
    """

    spacing_mm: float | None = None
    consistency: bool = False
    model: str = "spacing"
    device: str = "auto"
    trust: bool = False


class RespaceRun:
    """One volume at a time, on a worker that does nothing else meanwhile; Qt's event loop must run."""

    def __init__(self, worker: WorkerProtocol) -> None:
        self._worker = worker
        self._folder: Path | None = None
        self._source: Any = None
        self._reports = Reports()
        self._outcome: tuple[Any, USMRIError | None] = (None, None)

    @property
    def running(self) -> bool:
        return self._folder is not None

    def start(self, source: Any, options: RespaceOptions, reports: Reports) -> None:
        """Begin; every end, a refusal too, comes through `reports.finished` as (node or None, error or None)."""
        self._source, self._reports = source, reports
        try:
            volume = read_mr(source)
            self._folder = working_folder()
            volume.write(self._folder / "input.nrrd", compress=False)
            self._worker.send({
                "op": "respace", "input": str(self._folder / "input.nrrd"),
                "output": str(self._folder / "output.nrrd"), "spacing": options.spacing_mm, "axis": None,
                "consistency": options.consistency, "model": options.model, "device": options.device,
                "trust_model": options.trust}, self._handle)
        except USMRIError as error:
            self._finish(None, error)

    def cancel(self) -> None:
        """Stop at once; the scene stays as it is, and the next run starts a fresh process."""
        if self.running:
            self._worker.kill()
            self._finish(None, Cancelled())

    def wait(self) -> Any:
        """Block until the run ends; returns the new node or raises what went wrong."""
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

    def _handle(self, event: Event) -> None:
        if event["event"] == "progress":
            self._reports.progress(float(event.get("value", 0.0)), str(event.get("stage", "")))
        elif event["event"] == "log":
            self._reports.message(str(event.get("level", "info")), str(event.get("text", "")))
        elif event["event"] == "error":
            self._finish(None, error_from(event))
        elif event["event"] == "done":
            try:
                self._finish(self._import(event.get("result", {})), None)
            except USMRIError as error:
                self._finish(None, error)

    def _import(self, result: Mapping[str, Any]) -> Any:
        """Read everything first; the scene is changed only when all of it is good."""
        assert self._folder is not None
        try:
            volume = Volume.read(self._folder / "output.nrrd")
            provenance = dict(result["provenance"])
        except (KeyError, TypeError, ValueError, USMRIError) as error:
            log.debug("the worker's result could not be read", exc_info=True)
            raise Failed("result", _("The result of the process could not be read."),
                         _("Check the free space in Slicer's temporary folder and run it again.")) from error
        if self._source.GetScene() is not slicer.mrmlScene:
            raise Cancelled("closed", _("The volume was removed meanwhile."), _("Nothing was added to the scene."))
        return write_thin(volume, provenance, self._source)

    def _finish(self, node: Any, error: USMRIError | None) -> None:
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        self._source = None
        self._outcome = (node, error)
        if error is not None:
            self._reports.message("error", str(error))
        self._reports.finished(node, error)


def read_mr(node: Any) -> Volume:
    """The node's voxels, marked as synthetic where the node is. Raises Refused in the words of this section."""
    if node is None:
        raise Refused("no-input", _("No MR volume is selected."), _("Select one under Thick slices."))
    if node.IsA("vtkMRMLLabelMapVolumeNode"):
        raise Refused("labels", _("{name} is a label map.").format(name=node.GetName()), _("Choose an MR volume."))
    volume = nodes.read_volume(node)
    mark = {nodes.SYNTHETIC_ATTRIBUTE: nodes.SYNTHETIC} if nodes.is_synthetic(node) else {}
    return Volume(volume.array, volume.ijk_to_ras, mark)


def write_thin(volume: Volume, provenance: Mapping[str, Any], source: Any) -> Any:
    """A new node beside its source: its own grid, the source's parent transform, window and place, and the marks."""
    scene = source.GetScene()
    stem = source.GetName().replace(f"({nodes.SYNTHETIC})", "").strip()
    name = scene.GenerateUniqueName(f"{stem} thin slices ({nodes.SYNTHETIC})")
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    slicer.util.updateVolumeFromArray(node, np.ascontiguousarray(volume.array))
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(volume.ijk_to_ras))
    node.SetAndObserveTransformNodeID(source.GetTransformNodeID())
    node.SetNodeReferenceID(SOURCE_ROLE, source.GetID())
    node.SetAttribute(nodes.SYNTHETIC_ATTRIBUTE, nodes.SYNTHETIC)
    node.SetAttribute(nodes.PROVENANCE_ATTRIBUTE, json.dumps(dict(provenance), sort_keys=True))
    node.CreateDefaultDisplayNodes()
    shown, window = source.GetDisplayNode(), node.GetDisplayNode()
    if shown is not None:
        window.SetAndObserveColorNodeID(shown.GetColorNodeID())
        window.SetAutoWindowLevel(False)
        window.SetWindowLevel(shown.GetWindow(), shown.GetLevel())
    nodes.place_beside(node, source)
    return node
