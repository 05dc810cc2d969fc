"""Start-up hook: activates marks, saved files and the DICOM export with the first image in the scene.

Their modules, and with them numpy and SimpleITK, are imported then and not while Slicer starts. This file imports only
what Slicer has loaded already.
"""

from __future__ import annotations

from typing import Any

import slicer
import vtk

_tags: list[int] = []


def activate_on_first_image() -> None:
    """Call `activate` when the first image is added to the scene. Calling it again changes nothing."""
    scene = slicer.mrmlScene
    if scene.GetNumberOfNodesByClass("vtkMRMLVolumeNode"):
        activate()
    elif not _tags:
        _tags.append(scene.AddObserver(scene.NodeAddedEvent, _on_node_added))
        # A scene that was saved in a comparison layout needs it while it is loaded.
        _tags.append(scene.AddObserver(scene.StartImportEvent, lambda caller, event: activate()))


def cancel_activation() -> None:
    for tag in _tags:
        slicer.mrmlScene.RemoveObserver(tag)
    _tags.clear()


def activate() -> None:
    """Mark synthetic images in views, saved files and exports; keep outlines and landmarks on their heads."""
    cancel_activation()
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
        activate()
