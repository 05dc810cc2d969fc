"""Head outline and landmarks stay on the head when the parent transform of the ultrasound is exchanged or removed.

Both are in the local space of the ultrasound and under its parent transform, so they follow when that moves. Only a
change of the parent itself, and hardening, must be repeated for them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.util import VTKObservationMixin

from USMRISynthesisScene.nodes import nodes
from USMRISynthesisScene.nodes.manual_alignment import LANDMARKS_ROLE
from USMRISynthesisScene.nodes.outline import OUTLINE_ROLE

ROLES = (OUTLINE_ROLE, LANDMARKS_ROLE)
_TRANSFORM_MODIFIED = slicer.vtkMRMLTransformableNode.TransformModifiedEvent
_companions: Companions | None = None


def keep_together() -> None:
    """Start this for as long as Slicer runs. Calling it again changes nothing."""
    global _companions
    if _companions is None:
        _companions = Companions()


def stop_keeping() -> None:
    """Stop it, before the module is reloaded."""
    global _companions
    if _companions is not None:
        _companions.close()
        _companions = None


@dataclass
class _State:
    """State of a volume: parent transform, last two different grids (4x4, ijk to local RAS), observer tags."""

    parent_id: str | None
    grids: list[np.ndarray]
    tags: list[int] = field(default_factory=list)


class Companions(VTKObservationMixin):
    """Observes the parent transform of every volume in the scene."""

    def __init__(self) -> None:
        super().__init__()
        self._volumes: dict[Any, _State] = {}
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.NodeAddedEvent, self._on_node_added)
        for event in (scene.NodeRemovedEvent, scene.EndCloseEvent):
            self.addObserver(scene, event, self._on_scene_changed)
        for event in (scene.EndImportEvent, scene.EndRestoreEvent):
            self.addObserver(scene, event, self._on_scene_loaded)
        self._on_scene_loaded()

    def close(self) -> None:
        self.removeObservers()
        for volume in list(self._volumes):
            self._forget(volume)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _on_node_added(self, caller: Any, event: Any, node: Any) -> None:
        if node.IsA("vtkMRMLScalarVolumeNode"):
            self._follow(node)

    def _on_scene_changed(self, caller: Any = None, event: Any = None) -> None:
        """Release removed nodes; a reference from here would keep their images in memory."""
        for volume in [volume for volume in self._volumes if volume.GetScene() is not slicer.mrmlScene]:
            self._forget(volume)
        for volume in self._volumes:
            self._on_transform(volume, event)  # the removed node may have been its parent

    def _on_scene_loaded(self, caller: Any = None, event: Any = None) -> None:
        """Accept the transforms of a loaded scene as they are, even where they differ."""
        self._on_scene_changed()
        for volume in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
            self._follow(volume)
            self._remember(volume)

    def _follow(self, volume: Any) -> None:
        if volume not in self._volumes:
            state = self._volumes[volume] = _State(volume.GetTransformNodeID(), [nodes.grid_of(volume)])
            state.tags = [
                volume.AddObserver(vtk.vtkCommand.ModifiedEvent, self._on_modified),
                volume.AddObserver(_TRANSFORM_MODIFIED, self._on_transform),
            ]

    def _forget(self, volume: Any) -> None:
        for tag in self._volumes.pop(volume).tags:
            volume.RemoveObserver(tag)

    def _remember(self, volume: Any) -> None:
        state = self._volumes[volume]
        state.parent_id, state.grids = volume.GetTransformNodeID(), [nodes.grid_of(volume)]

    def _on_modified(self, volume: Any, event: Any) -> None:
        """Keep the last two grids: hardening changes the grid first and removes the parent afterwards."""
        state, grid = self._volumes.get(volume), nodes.grid_of(volume)
        if state is not None and not np.array_equal(grid, state.grids[-1]):
            state.grids = [state.grids[-1], grid]

    def _on_transform(self, volume: Any, event: Any) -> None:
        state, scene = self._volumes.get(volume), volume.GetScene()
        if (
            state is None
            or scene is None
            or scene.IsClosing()
            or scene.IsImporting()
            or (volume.GetTransformNodeID() == state.parent_id)
        ):
            return  # where the parent moves, MRML moves the nodes under it
        self._on_modified(volume, event)
        before, grids = state.parent_id, state.grids
        self._remember(volume)
        parent = scene.GetNodeByID(before) if before else None
        together = (before, None) if parent is None else (before,)  # a deleted parent is removed from all of them
        hardened = parent is not None and volume.GetTransformNodeID() is None and _is_hardened(parent, grids)
        for node in [volume.GetNodeReference(role) for role in ROLES]:
            if node is None or node.GetTransformNodeID() not in together:
                continue  # the user has chosen another parent for it
            if hardened:
                node.HardenTransform()
            node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
        if hardened:
            _carry_alignments(volume, parent)


def _is_hardened(parent: Any, grids: list[np.ndarray]) -> bool:
    """Whether the last change of the grid is what hardening this parent causes."""
    if len(grids) < 2:
        return False
    if not parent.IsTransformToWorldLinear():
        return True  # the image was resampled
    return np.allclose(_to_world(parent) @ grids[0], grids[1], rtol=1e-6, atol=1e-6)


def _carry_alignments(volume: Any, parent: Any) -> None:
    """Update alignments after hardening has moved the volume's local RAS, so that they give the same pose as before.

    For a result this is its canonical transform; for an ultrasound, the alignments made by hand.
    """
    if not parent.IsTransformToWorldLinear():
        return  # a matrix cannot express it
    own = volume.GetNodeReference(nodes.TRANSFORM_ROLE)
    results = {
        node.GetNodeReferenceID(nodes.TRANSFORM_ROLE) for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    }
    alignments = (
        [own]
        if own is not None
        else [
            node
            for node in slicer.util.getNodesByClass("vtkMRMLLinearTransformNode")
            if nodes.source_of(node) is volume and node.GetID() not in results
        ]
    )
    for alignment in alignments:
        matrix = vtk.vtkMatrix4x4()
        alignment.GetMatrixTransformToParent(matrix)
        carried = slicer.util.arrayFromVTKMatrix(matrix) @ np.linalg.inv(_to_world(parent))
        alignment.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(carried))


def _to_world(parent: Any) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    parent.GetMatrixTransformToWorld(matrix)
    return np.asarray(slicer.util.arrayFromVTKMatrix(matrix))
