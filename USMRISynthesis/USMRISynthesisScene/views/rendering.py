"""Volume rendering of the MR-like image in the 3D view of the comparison layout."""

from __future__ import annotations

from typing import Any

import slicer
from slicer.i18n import tr as _
from USMRISynthesisLib.errors import Failed

from USMRISynthesisScene.views import layout

PRESET = "MR-Default"


def render(volume: slicer.vtkMRMLScalarVolumeNode) -> Any:
    """Show a volume in the 3D views; returns its display node. Raises Failed where Slicer has no volume rendering."""
    logic = slicer.app.moduleLogic("VolumeRendering")
    if logic is None:
        raise Failed(
            "no-rendering",
            _("The module Volume Rendering is not available."),
            _("Switch it on in the application settings and restart Slicer."),
        )
    first = logic.GetFirstVolumeRenderingDisplayNode(volume) is None
    display = logic.CreateDefaultVolumeRenderingNodes(volume)
    preset = logic.GetPresetByName(PRESET) if first else None  # the user's own settings stay
    if preset is not None:
        display.GetVolumePropertyNode().Copy(preset)
    display.SetVisibility(True)
    manager = slicer.app.layoutManager()
    widget = manager.threeDWidget(layout.SPACE) if manager is not None else None
    if widget is not None:
        widget.threeDView().resetFocalPoint()
    return display


def stop_rendering(volume: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Hide it in the 3D views; its settings stay."""
    logic = slicer.app.moduleLogic("VolumeRendering")
    display = logic.GetFirstVolumeRenderingDisplayNode(volume) if logic is not None else None
    if display is not None:
        display.SetVisibility(False)
