"""Thinner slices of a volume node: out to the worker and, after success, back as a new node beside its source.

run = RespaceRun(worker)
run.start(mrNode, RespaceOptions(spacing_mm=1.1), Reports(finished=print))
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.volume import Volume

from USMRISynthesisScene.nodes import nodes
from USMRISynthesisScene.runs.run import Reports, Task, WorkerRun, check_values, require_in_scene

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


class RespaceRun(WorkerRun):
    """One volume at a time, on a worker that does nothing else meanwhile; Qt's event loop must run."""

    def start(self, source: Any, options: RespaceOptions, reports: Reports) -> None:
        """Begin; every end, a refusal too, comes through `reports.finished` as (node or None, error or None)."""

        def write(folder: Path) -> dict[str, Any]:
            read_mr(source).write(folder / "input.nrrd", compress=False)
            return {
                "op": "respace",
                "input": str(folder / "input.nrrd"),
                "output": str(folder / "output.nrrd"),
                "spacing": options.spacing_mm,
                "axis": None,
                "consistency": options.consistency,
                "model": options.model,
                "device": options.device,
                "trust_model": options.trust,
            }

        def read(result: Mapping[str, Any], folder: Path) -> tuple[Volume, dict[str, Any]]:
            volume = Volume.read(folder / "output.nrrd")
            check_values(volume.array, -np.inf, np.inf)
            json.dumps(result["provenance"], allow_nan=False)
            return volume, dict(result["provenance"])

        def into_scene(made: tuple[Volume, dict[str, Any]]) -> Any:
            require_in_scene(source)
            return write_thin(*made, source)

        self.begin(Task(write, read, into_scene), reports)


def read_mr(node: Any) -> Volume:
    """The node's voxels, marked as synthetic where the node is. Raises Refused in the words of this section."""
    if node is None:
        raise Refused("no-input", _("No MR volume is selected."), _("Select one under Thick slices."))
    if node.IsA("vtkMRMLLabelMapVolumeNode"):
        raise Refused("labels", _("{name} is a label map.").format(name=node.GetName()), _("Choose an MR volume."))
    volume = nodes.read_volume(node)
    mark = {nodes.SYNTHETIC_ATTRIBUTE: nodes.SYNTHETIC} if nodes.is_synthetic(node) else {}
    modality = _modality(node)
    return Volume(volume.array, volume.ijk_to_ras, mark | ({"Modality": modality} if modality else {}))


def _modality(node: Any) -> str:
    """What DICOM, through the subject hierarchy, or the file's own header says that the image is; "" for nothing."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    item = hierarchy.GetItemByDataNode(node) if hierarchy is not None else 0
    return (hierarchy.GetItemAttribute(item, "DICOM.Modality") if item else "") or node.GetAttribute("Modality") or ""


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
