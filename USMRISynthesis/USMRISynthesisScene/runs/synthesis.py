"""An ultrasound node becomes an MR-like node beside it: the request to the worker, and what its result becomes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import slicer
from slicer.i18n import tr as _
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.volume import Volume

from USMRISynthesisScene.nodes import masks as mask_nodes
from USMRISynthesisScene.nodes import nodes
from USMRISynthesisScene.nodes.masks import FAN, HEAD
from USMRISynthesisScene.runs.run import Reports, Task, WorkerRun, check_values, require_in_scene
from USMRISynthesisScene.runs.worker_process import WorkerProcess, WorkerProtocol

VolumeNode: TypeAlias = "slicer.vtkMRMLScalarVolumeNode"


class SynthesizerProtocol(Protocol):
    """What the panel needs of a synthesizer; tests use their own."""

    @property
    def running(self) -> bool: ...

    @property
    def worker(self) -> WorkerProtocol: ...

    def start(
        self,
        source: VolumeNode,
        output: VolumeNode | None = None,
        *,
        model: str,
        device: str,
        planes: str,
        transform: Any,
        trust: bool,
        support: bool,
        masks: bool,
        unreliable: bool,
        gestational_age: float | None,
        deliver: Callable[[nodes.Result], Any] | None = None,
        reports: Reports,
    ) -> None: ...

    def cancel(self) -> None: ...

    def close(self) -> None: ...


class Synthesizer(WorkerRun):
    """Runs one synthesis after another on one warm worker.

    synthesizer = Synthesizer()
    synthesizer.start(ultrasoundNode)
    outputNode = synthesizer.wait()
    """

    def __init__(self, worker: WorkerProtocol | None = None) -> None:
        super().__init__(worker or WorkerProcess())

    def start(
        self,
        source: VolumeNode,
        output: VolumeNode | None = None,
        *,
        model: str = "default",
        device: str = "auto",
        planes: str | None = None,
        transform: Any = None,
        trust: bool = False,
        support: bool = False,
        masks: bool = False,
        unreliable: bool = False,
        gestational_age: float | None = None,
        deliver: Callable[[nodes.Result], Any] | None = None,
        reports: Reports | None = None,
    ) -> None:
        """Begin a run.

        Args:
            source: greyscale ultrasound volume, 3D or a single frame.
            output: volume to write into; None makes a new one.
            model: name of an installed model, or path of a model folder.
            device: auto, cpu, cuda or mps.
            planes: along which slices the network goes: axial, coronal, sagittal, or all; by default all, if the model
                supports it.
            transform: linear transform node or 4x4 array, the input's local RAS to canonical space; None aligns
                the head automatically.
            trust: the user has agreed to run this model, which comes from outside the installation.
            support: also make the reliability map: the probability that the grey value is right; for a frame, where
                the beam reached the head.
            masks: also make a segmentation of the fan and the head.
            unreliable: go on although the head was not found reliably, or the frame shows no brain.
            gestational_age: weeks, where it is known: a prior for the head's size.
            deliver: takes the result instead of the scene, which is not touched then.
            reports: callbacks; a refusal comes through `finished`, like every other end.

        Raises:
            RuntimeError: a run is in flight.
        """
        grid: list[Volume] = []  # filled when the input is written
        callbacks = reports or Reports()

        def write(folder: Path) -> dict[str, Any]:
            if output is not None and output is source:
                raise Refused(
                    "same-node",
                    "Input and output are the same volume.",
                    "Choose another output, or let a new one be created.",
                )
            if nodes.is_synthetic(source):
                raise Refused(
                    "synthetic",
                    f"{source.GetName()} was synthesised itself.",
                    "Choose the ultrasound that it was made from.",
                )
            volume = nodes.read_volume(source)
            matrix = nodes.read_transform(transform)
            volume.write(folder / "input.nrrd", compress=False)
            grid.append(volume)
            if nodes.bent_parent(source) is not None:
                callbacks.message(
                    "warning",
                    _(
                        "{name} lies under a transform that is not linear: the head is found "
                        "in the image without that transform."
                    ).format(name=source.GetName()),
                )
            return {
                "op": "synthesize",
                "input": str(folder / "input.nrrd"),
                "output": str(folder / "output.nrrd"),
                "model": model,
                "device": device,
                "planes": planes,
                "transform": None if matrix is None else matrix.ravel().tolist(),
                "trust_model": trust,
                "unreliable": unreliable,
                "any_content": unreliable,  # one box to continue anyway
                "gestational_age": gestational_age,
                "confidence": str(folder / "support.nrrd") if support else None,
                "masks": str(folder / "masks.nrrd") if masks else None,
            }

        def into_scene(result: nodes.Result) -> VolumeNode:
            require_in_scene(source)
            # A chosen output that was deleted meanwhile: a new one takes its place.
            there = output if output is not None and output.GetScene() is slicer.mrmlScene else None
            written = nodes.write_result(result, source, there)
            if result.masks is not None:
                mask_nodes.write_masks(result.masks, written)
            return written

        def read(result: Mapping[str, Any], folder: Path) -> nodes.Result:
            return _read_result(result, folder, grid[0], support=support, masks=masks)

        self.begin(Task(write, read, deliver or into_scene), callbacks)


def _read_result(result: Mapping[str, Any], folder: Path, grid: Volume, *, support: bool, masks: bool) -> nodes.Result:
    """What the worker left behind. Raises ValueError where it cannot be a result for this grid."""
    matrix = np.asarray(result["ras_to_canonical"], dtype=np.float64).reshape(4, 4)
    if not nodes.is_invertible(matrix):
        raise ValueError("the alignment is no invertible matrix")
    provenance = dict(result.get("provenance", {}))
    json.dumps(provenance, allow_nan=False)
    found = {"output": _on_grid(folder / "output.nrrd", grid, *nodes.MR_WINDOW)}
    if support:
        found["map"] = _on_grid(folder / "support.nrrd", grid, 0, 1)
    if masks:
        found["masks"] = _on_grid(folder / "masks.nrrd", grid, 0, max(FAN, HEAD))
    return nodes.Result(found["output"], matrix, provenance, found.get("map"), found.get("masks"))


def _on_grid(path: Path, grid: Volume, low: float, high: float) -> Volume:
    """A volume on the input's grid, with finite values in a range; ValueError for any other."""
    volume = Volume.read(path)
    if volume.shape != grid.shape or not np.allclose(volume.ijk_to_ras, grid.ijk_to_ras, rtol=1e-5, atol=1e-4):
        raise ValueError(f"{path.name} lies on another grid than the input")
    check_values(volume.array, low, high)
    return volume
