"""Layers, marks and pictures of the views."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

ROLES = ("USMRI-Ultrasound", "USMRI-Fused", "USMRI-MR")
_PLACES = range(8)  # of a corner annotation


def slice_widgets() -> dict[str, Any]:
    """View name -> slice widget of the comparison layout that is shown; else of Slicer's own three."""
    from USMRISynthesisScene.views import layout

    names = [layout.view_tag(role, plane) for plane in layout.planes_shown() for role in ROLES]
    manager = slicer.app.layoutManager()
    return {name: manager.sliceWidget(name) for name in names or ("Red", "Green", "Yellow")}


def three_d_widgets() -> list[Any]:
    """Those that can be seen in the present layout."""
    manager = slicer.app.layoutManager()
    shown = manager.layoutLogic().GetViewNodes()
    widgets = [manager.threeDWidget(index) for index in range(manager.threeDViewCount)]
    return [widget for widget in widgets if shown.IsItemPresent(widget.mrmlViewNode())]


def is_marked(view: Any) -> bool:
    """Whether the view is marked as synthetic."""
    texts = [view.cornerAnnotation().GetText(place) or "" for place in _PLACES]
    return any("SYNTHETIC - not for diagnosis" in text for text in texts)


def views_state() -> dict[str, Any]:
    """The layers, opacities and marks of what is shown."""
    state: dict[str, Any] = {}
    for name, widget in slice_widgets().items():
        composite = widget.mrmlSliceCompositeNode()
        state[name] = {
            "layers": [
                _name(one)
                for one in (
                    composite.GetBackgroundVolumeID(),
                    composite.GetForegroundVolumeID(),
                    composite.GetLabelVolumeID(),
                )
            ],
            "opacity": composite.GetForegroundOpacity() if composite.GetForegroundVolumeID() else None,
            "linked": bool(composite.GetLinkedControl() and composite.GetHotLinkedControl()),
            "marked": is_marked(widget.sliceView()),
            "blank": not is_drawn(picture_of(widget.sliceView())),
        }
    state["3D marked"] = [is_marked(widget.threeDView()) for widget in three_d_widgets()]
    return state


def picture_of(view: Any) -> np.ndarray:
    """(rows, columns, 3) uint8 of what a view shows now."""
    view.forceRender()
    grabber = vtk.vtkWindowToImageFilter()
    grabber.SetInput(view.renderWindow())
    grabber.ReadFrontBufferOff()
    grabber.Update()
    image = grabber.GetOutput()
    columns, rows, _depth = image.GetDimensions()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(rows, columns, -1)[::-1, :, :3].copy()


def is_drawn(picture: np.ndarray) -> bool:
    """Whether more than a corner text is in it."""
    return float((picture.max(axis=2) > 40).mean()) > 0.01


def write_picture(path: Path) -> None:
    """All views that are shown, in rows of three, as one PNG."""
    views = [widget.sliceView() for widget in slice_widgets().values()]
    views += [widget.threeDView() for widget in three_d_widgets()]
    pictures = [picture_of(view) for view in views]
    height, width = (max(picture.shape[axis] for picture in pictures) + 4 for axis in (0, 1))
    rows = -(-len(pictures) // 3)
    page = np.full((rows * height, min(3, len(pictures)) * width, 3), 90, np.uint8)
    for index, picture in enumerate(pictures):
        top, left = index // 3 * height, index % 3 * width
        page[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    image = vtk.vtkImageData()
    image.SetDimensions(page.shape[1], page.shape[0], 1)
    image.GetPointData().SetScalars(numpy_to_vtk(page[::-1].reshape(-1, 3), deep=True))
    writer = vtk.vtkPNGWriter()
    writer.SetFileName(str(path))
    writer.SetInputData(image)
    writer.Write()


def _name(node_id: str | None) -> str | None:
    node = slicer.mrmlScene.GetNodeByID(node_id) if node_id else None
    return node.GetName() if node is not None else None
