"""What stands by from the start of Slicer on, before the panel was ever opened: as little as possible.

Marks, saved files and the DICOM export matter once an image is in the scene. Their modules, and with them numpy and
SimpleITK, are imported then and not while Slicer starts. This file imports nothing that Slicer has not loaded already.
"""
from __future__ import annotations

from typing import Any

import slicer
import vtk

_tags: list[int] = []


def stand_by() -> None:
    """Attend from the first image on. Calling it again changes nothing."""
    scene = slicer.mrmlScene
    if scene.GetNumberOfNodesByClass("vtkMRMLVolumeNode"):
        attend()
    elif not _tags:
        _tags.append(scene.AddObserver(scene.NodeAddedEvent, _on_node_added))
        # A scene that was saved in a comparison layout must find it.
        _tags.append(scene.AddObserver(scene.StartImportEvent, lambda caller, event: attend()))


def stop_standing_by() -> None:
    for tag in _tags:
        slicer.mrmlScene.RemoveObserver(tag)
    _tags.clear()


def attend() -> None:
    """Mark synthetic images wherever they are shown, saved and exported; keep what lies on a head there."""
    stop_standing_by()
    from USMRISynthesisScene.files.dicom_plugin import register_dicom_plugin
    from USMRISynthesisScene.files.saving import follow_saves
    from USMRISynthesisScene.nodes.companions import keep_together
    from USMRISynthesisScene.views.marking import keep_marked

    keep_marked()
    keep_together()
    follow_saves()
    register_dicom_plugin()


@vtk.calldata_type(vtk.VTK_OBJECT)
def _on_node_added(caller: Any, event: str, node: Any) -> None:
    if node.IsA("vtkMRMLVolumeNode"):
        attend()
