"""The node that shows the MR-like image of a stream, updated in place, and the line in the corner of its views."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from USMRISynthesisLib.live.mark import burn_in

from USMRISynthesisScene.nodes import nodes

LIVE_ATTRIBUTE = "USMRISynthesis.Live"
# The upper edge has the mark; the corners are rewritten by Slicer's own annotations.
_EDGE = vtk.vtkCornerAnnotation.LowerEdge


def output_of(source: Any) -> Any:
    """The live output of a volume, from an earlier start or made now, with the window of MR-like images."""
    for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
        if node.GetAttribute(LIVE_ATTRIBUTE) and nodes.source_of(node) is source:
            return node
    scene = source.GetScene()
    name = f"{source.GetName()} live MR-like ({nodes.SYNTHETIC})"
    output = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", scene.GenerateUniqueName(name))
    for key, value in ((nodes.SYNTHETIC_ATTRIBUTE, nodes.SYNTHETIC), (LIVE_ATTRIBUTE, "1")):
        output.SetAttribute(key, value)
    output.SetNodeReferenceID(nodes.SOURCE_ROLE, source.GetID())
    output.CreateDefaultDisplayNodes()
    display = output.GetDisplayNode()
    display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(*nodes.MR_WINDOW)
    nodes.place_beside(output, source)
    return output


def update(output: Any, source: Any, mr: np.ndarray, ijk_to_ras: np.ndarray) -> None:
    """Show an image, (1, j, i), where its ultrasound lies. The mark is drawn into it."""
    modified = output.StartModify()
    try:
        slicer.util.updateVolumeFromArray(output, burn_in(mr))
        nodes.set_geometry(output, source, ijk_to_ras)
        if output.GetTransformNodeID() != source.GetTransformNodeID():
            output.SetAndObserveTransformNodeID(source.GetTransformNodeID())
    finally:
        output.EndModify(modified)


def blank(output: Any) -> None:
    """Show nothing: what was shown is no longer true."""
    image = output.GetImageData()
    if image is not None and image.GetNumberOfPoints():
        voxels = slicer.util.arrayFromVolume(output)
        if voxels.any():
            voxels[:] = 0
            slicer.util.arrayFromVolumeModified(output)


def annotate(output: Any, text: str) -> None:
    """Write a text into every slice view that shows the output, and remove it where it no longer does."""
    manager = slicer.app.layoutManager()
    if manager is None:
        return
    ident = output.GetID() if output is not None else ""
    for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        widget = manager.sliceWidget(composite.GetLayoutName())
        if widget is None or widget.mrmlSliceCompositeNode() is not composite:
            continue
        shows = ident and ident in (composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID())
        annotation = widget.sliceView().cornerAnnotation()
        before, now = annotation.GetText(_EDGE) or "", text if shows else ""
        if before == now or (not now and not before.startswith(_PREFIX)):
            continue
        annotation.SetText(_EDGE, now)
        annotation.GetTextProperty().ShadowOn()
        widget.sliceView().scheduleRender()


_PREFIX = _("MR-like: ")
_LETTERS = 36  # of a line: a third of a usual window


def corner_text(figures: str, reason: str) -> str:
    """The text as it stands in the views, the reason below the figures; it is recognised by its beginning."""
    return _PREFIX + figures + "".join(f"\n{line}" for line in textwrap.wrap(reason, _LETTERS))
