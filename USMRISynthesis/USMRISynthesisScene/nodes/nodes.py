"""Volume nodes to `Volume` and back, and the nodes that hold a result.

Geometry: the library works on the input's own grid (IJKToRAS, "local RAS"). A parent transform of the input, linear
or not, is not changed; the output gets the same one, so that one transform moves both.

The canonical transform node takes the input's *local* RAS to canonical fetal space and stands at the top level,
under no transform: only in local RAS it stays right when the user changes the parent transform. To see a volume in
canonical space, put it under this node in place of its present parent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.provenance import marks
from USMRISynthesisLib.io.synthetic import PROVENANCE_KEY, SYNTHETIC, SYNTHETIC_KEY
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.synthesis.result import DOUBT, GRAVE_DOUBT

SOURCE_ROLE = "USMRISynthesis.SourceUltrasound"
TRANSFORM_ROLE = "USMRISynthesis.CanonicalTransform"
PROVENANCE_ATTRIBUTE = PROVENANCE_KEY
DICOM_UIDS = "DICOM.instanceUIDs"  # where Slicer keeps which DICOM files a volume was loaded from
RELIABILITY_ROLE = "USMRISynthesis.SupportMap"
SYNTHETIC_ATTRIBUTE = SYNTHETIC_KEY
MR_WINDOW = (0.0, 1000.0)


@dataclass(frozen=True)
class Result:
    """The result of a finished run, to be written into the scene.

    Attributes:
        mr: the MR-like volume on the input's grid.
        ras_to_canonical: (4, 4), from the input's local RAS to canonical space.
        provenance: model, versions, device, parameters; values that JSON can hold.
        masks: 1 in the fan, 2 in the head inside the fan, 0 elsewhere, on the same grid; or None.
        reliability_map: 0-1 on the same grid: the probability that the grey value is right, or where the beam reached
            inside the head (see `is_probability`); or None.
    """

    mr: Volume
    ras_to_canonical: np.ndarray
    provenance: Mapping[str, Any]
    reliability_map: Volume | None = None
    masks: Volume | None = None


def read_volume(node: slicer.vtkMRMLScalarVolumeNode | None) -> Volume:
    """The node's voxels (a copy) and local geometry. Raises Refused for a node that holds no greyscale image."""
    if node is None:
        raise Refused("no-input", "No ultrasound volume is selected.", "Select one under Ultrasound.")
    name = node.GetName()
    if not node.IsA("vtkMRMLScalarVolumeNode"):
        raise Refused("no-volume", f"{name} is not a volume.", "Choose a greyscale ultrasound volume.")
    image = node.GetImageData()
    if image is None or image.GetNumberOfPoints() == 0:
        raise Refused("empty", f"{name} holds no image.", "Load it again.")
    if image.GetNumberOfScalarComponents() != 1:
        raise Refused(
            "colour",
            f"{name} is in colour or has {image.GetNumberOfScalarComponents()} values at each voxel.",
            "Convert it to greyscale: the button is in the section Inputs.",
        )
    if node.IsA("vtkMRMLLabelMapVolumeNode"):
        raise Refused("labels", f"{name} is a label map.", "Choose the ultrasound volume itself.")
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    ijk_to_ras = slicer.util.arrayFromVTKMatrix(matrix)
    if not is_invertible(ijk_to_ras):
        raise Refused(
            "geometry",
            f"The position and orientation of {name} are not usable.",
            "Correct spacing and directions in the module Volumes, or load it again.",
        )
    # A copy: the scene may change while the worker reads.
    return Volume(np.array(slicer.util.arrayFromVolume(node)), ijk_to_ras)


def is_invertible(matrix: np.ndarray) -> bool:
    """Whether a (4, 4) matrix is a finite affine whose axes span space."""
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or (matrix[3] != (0, 0, 0, 1)).any():
        return False
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    return bool((lengths > 0).all() and abs(np.linalg.det(matrix[:3, :3] / lengths)) > 1e-9)


def bent_parent(node: slicer.vtkMRMLTransformableNode) -> slicer.vtkMRMLTransformNode | None:
    """The parent transform of a node where the way to the world is not linear, or None."""
    parent = node.GetParentTransformNode()
    return parent if parent is not None and not parent.IsTransformToWorldLinear() else None


def is_frame(node: slicer.vtkMRMLVolumeNode | None) -> bool:
    """Whether a volume node holds a single slice."""
    image = node.GetImageData() if node is not None else None
    return image is not None and image.GetDimensions()[2] == 1


def read_transform(transform: slicer.vtkMRMLTransformNode | np.ndarray | None) -> np.ndarray | None:
    """The 4x4 matrix, local RAS to canonical, of a linear transform node, an array, or None.

    Raises Refused for a transform that a matrix cannot express.
    """
    if transform is None:
        return None
    if isinstance(transform, slicer.vtkMRMLTransformNode):
        matrix = vtk.vtkMatrix4x4()
        if not transform.IsTransformToWorldLinear():
            raise Refused(
                "transform",
                f"{transform.GetName()} is not a linear transform.",
                "Choose a linear transform for the anatomical alignment.",
            )
        transform.GetMatrixTransformToWorld(matrix)
        array = slicer.util.arrayFromVTKMatrix(matrix)
        if not is_invertible(array):
            raise Refused(
                "transform",
                f"The matrix of {transform.GetName()} cannot be inverted.",
                "Choose another transform for the anatomical alignment, or none.",
            )
        return array
    array = np.asarray(transform, dtype=np.float64)
    if not is_invertible(array):
        raise Refused(
            "transform",
            "The alignment is not an invertible 4x4 matrix.",
            "Pass a linear transform node or a 4x4 array.",
        )
    return array


def grid_of(volume: slicer.vtkMRMLVolumeNode) -> np.ndarray:
    """(4, 4) from voxel indices (i, j, k) to the volume's local RAS."""
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return np.asarray(slicer.util.arrayFromVTKMatrix(matrix))


def write_result(
    result: Result, source: slicer.vtkMRMLScalarVolumeNode, output: slicer.vtkMRMLScalarVolumeNode | None = None
) -> slicer.vtkMRMLScalarVolumeNode:
    """Put a result into the scene: into `output`, or into a new node beside its source.

    An output that this function has written before keeps its transform node, which is updated.
    """
    scene = source.GetScene()
    name = f"{source.GetName()} MR-like ({SYNTHETIC})"
    if output is None:
        output = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    modified = output.StartModify()
    try:
        output.SetName(scene.GenerateUniqueName(name) if _name_taken(scene, name, output) else name)
        slicer.util.updateVolumeFromArray(output, np.ascontiguousarray(result.mr.array))
        set_geometry(output, source, result.mr.ijk_to_ras)
        output.SetAndObserveTransformNodeID(source.GetTransformNodeID())
        output.SetNodeReferenceID(SOURCE_ROLE, source.GetID())
        output.SetAttribute(SYNTHETIC_ATTRIBUTE, SYNTHETIC)
        output.SetAttribute(PROVENANCE_ATTRIBUTE, json.dumps(dict(result.provenance), sort_keys=True))
        made = [_canonical_transform(result, source, output), output]
    finally:
        output.EndModify(modified)
    _set_window(output)
    if result.reliability_map is not None:
        made.append(
            _write_reliability_map(result.reliability_map, source, output, probable=is_probability(result.provenance))
        )
    for node in made:
        place_beside(node, source)
    return output


def is_synthetic(node: slicer.vtkMRMLNode | None) -> bool:
    """Whether a node holds a synthetic image: by its mark, or by its name where a file has lost the mark."""
    return node is not None and (
        bool(node.GetAttribute(SYNTHETIC_ATTRIBUTE)) or SYNTHETIC.split()[0] in (node.GetName() or "")
    )


def restore_marks(node: slicer.vtkMRMLVolumeNode) -> bool:
    """Give a volume that was loaded from a file the marks in that file; returns whether there were any.

    Slicer reads and writes scalar volumes without their attributes: without this, a saved MR-like image, or
    one from the command line, would be loaded as an ordinary MR.
    """
    storage = node.GetStorageNode()
    name = storage.GetFileName() if storage is not None else None
    if not name or node.GetAttribute(SYNTHETIC_ATTRIBUTE):
        return False
    found = marks(name)
    for key, value in found.items():
        node.SetAttribute(key, value)
    return bool(found)


def set_geometry(
    output: slicer.vtkMRMLScalarVolumeNode, source: slicer.vtkMRMLScalarVolumeNode, ijk_to_ras: np.ndarray
) -> None:
    """Set the grid of a result: exactly the source's own, unless the source was moved during the run."""
    now = vtk.vtkMatrix4x4()
    source.GetIJKToRASMatrix(now)
    if np.allclose(slicer.util.arrayFromVTKMatrix(now), ijk_to_ras, rtol=0, atol=1e-6):
        output.CopyOrientation(source)
    else:
        output.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(ijk_to_ras))


def source_of(output: slicer.vtkMRMLNode | None) -> slicer.vtkMRMLScalarVolumeNode | None:
    """The ultrasound volume that a result was made from, or None."""
    return output.GetNodeReference(SOURCE_ROLE) if output is not None else None


def require_source(output: slicer.vtkMRMLNode) -> slicer.vtkMRMLScalarVolumeNode:
    """The ultrasound volume that a result was made from. Raises Refused where it is no longer in the scene."""
    source = source_of(output)
    if source is None:
        text = _("The ultrasound of {name} is no longer in the scene.").format(name=output.GetName())
        raise Refused("source", text, _("Load it again and synthesize once more."))
    return source


def result_of(source: slicer.vtkMRMLVolumeNode | None) -> slicer.vtkMRMLScalarVolumeNode | None:
    """The newest MR-like volume in the scene that was made from this one, or None."""
    if source is None or source.GetScene() is None:
        return None
    made = [
        node
        for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode", source.GetScene())
        if node.GetNodeReferenceID(TRANSFORM_ROLE) and source_of(node) is source
    ]
    return made[-1] if made else None


def _name_taken(scene: slicer.vtkMRMLScene, name: str, node: slicer.vtkMRMLNode) -> bool:
    found = scene.GetNodesByName(name)
    found.UnRegister(None)
    return any(found.GetItemAsObject(i) is not node for i in range(found.GetNumberOfItems()))


def _canonical_transform(
    result: Result, source: slicer.vtkMRMLScalarVolumeNode, output: slicer.vtkMRMLScalarVolumeNode
) -> slicer.vtkMRMLLinearTransformNode:
    """The transform node that belongs to `output`, with the result's matrix."""
    node = output.GetNodeReference(TRANSFORM_ROLE)
    name = f"{source.GetName()} to canonical fetal space"
    if node is None:
        node = source.GetScene().AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
        output.SetNodeReferenceID(TRANSFORM_ROLE, node.GetID())
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.asarray(result.ras_to_canonical)))
    node.SetNodeReferenceID(SOURCE_ROLE, source.GetID())
    return node


def is_probability(provenance: Mapping[str, Any]) -> bool:
    """Whether a result's reliability map holds probabilities; if not, it only shows where the beam reached."""
    return "sha256" in provenance.get("support", {})


def _write_reliability_map(
    reliability: Volume,
    source: slicer.vtkMRMLScalarVolumeNode,
    output: slicer.vtkMRMLScalarVolumeNode,
    *,
    probable: bool,
) -> slicer.vtkMRMLScalarVolumeNode:
    """Make or update the reliability map node of `output`.

    A probability is shown only where it is below DOUBT: red where it is lowest, then yellow. A map of where the beam
    reached is shown in green.
    """
    node = output.GetNodeReference(RELIABILITY_ROLE)
    if node is None:
        node = source.GetScene().AddNewNodeByClass("vtkMRMLScalarVolumeNode", f"{source.GetName()} reliability map")
        output.SetNodeReferenceID(RELIABILITY_ROLE, node.GetID())
    slicer.util.updateVolumeFromArray(node, np.ascontiguousarray(reliability.array))
    set_geometry(node, source, reliability.ijk_to_ras)
    node.SetAndObserveTransformNodeID(source.GetTransformNodeID())
    node.SetNodeReferenceID(SOURCE_ROLE, source.GetID())
    node.SetAttribute(SYNTHETIC_ATTRIBUTE, SYNTHETIC)
    if node.GetDisplayNode() is None:
        node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    if probable:
        display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeRainbow")  # red at the low end
        display.SetWindowLevelMinMax(GRAVE_DOUBT, GRAVE_DOUBT + 4 * (DOUBT - GRAVE_DOUBT))  # so that DOUBT is yellow
        display.SetThreshold(0.0005, DOUBT)
        display.SetInterpolate(False)  # it would draw a red rim to unseen voxels
    else:
        display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeGreen")
        display.SetWindowLevelMinMax(0.0, 1.0)
        display.SetThreshold(0.01, 1.0)
    display.SetApplyThreshold(True)
    return node


def _set_window(output: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Grey, 0-1000, fixed: results are comparable only in the same window."""
    if output.GetDisplayNode() is None:
        output.CreateDefaultDisplayNodes()
    display = output.GetDisplayNode()
    display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(*MR_WINDOW)


def place_beside(node: slicer.vtkMRMLNode, source: slicer.vtkMRMLNode) -> None:
    """Put a node under the same parent item of the subject hierarchy as the source."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(source.GetScene())
    item = hierarchy.GetItemByDataNode(node)
    source_item = hierarchy.GetItemByDataNode(source)
    if item and source_item:
        hierarchy.SetItemParent(item, hierarchy.GetItemParent(source_item))
