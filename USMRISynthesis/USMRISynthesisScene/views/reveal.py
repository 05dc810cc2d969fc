"""A square at the mouse in the fused views that shows the MR-like image alone."""

from __future__ import annotations

from typing import Any

import vtk
from slicer.util import VTKObservationMixin

from USMRISynthesisScene.views import layout

HALF_SIDE = 45  # pixels
_PRIORITY = 10.0  # before Slicer's interactor style, which stops the event after moving the crosshair


class Reveal:
    """The squares of all fused views that are shown; to be made again after the layout has changed.

    reveal = Reveal()
    reveal.close()
    """

    def __init__(self) -> None:
        self._windows = [_Window(widget) for widget in layout.comparison_widgets(layout.FUSED)]

    def close(self) -> None:
        for window in self._windows:
            window.close()
        self._windows = []


class _Window(VTKObservationMixin):
    """The square of one view: the foreground's slice image, cropped at the mouse and drawn over the blended image."""

    def __init__(self, widget: Any) -> None:
        super().__init__()
        self._view, self._logic = widget.sliceView(), widget.sliceLogic()
        self._crop = vtk.vtkExtractVOI()
        self._origin = vtk.vtkImageChangeInformation()  # the mapper draws from the first pixel of the extent
        self._origin.SetOutputExtentStart(0, 0, 0)
        self._origin.SetInputConnection(self._crop.GetOutputPort())
        mapper = vtk.vtkImageMapper()
        mapper.SetColorWindow(255)
        mapper.SetColorLevel(127.5)
        mapper.SetInputConnection(self._origin.GetOutputPort())
        self._actor = vtk.vtkActor2D()
        self._actor.SetMapper(mapper)
        self._actor.SetVisibility(False)
        self._renderer = self._view.renderWindow().GetRenderers().GetFirstRenderer()
        self._renderer.AddViewProp(self._actor)
        interactor = self._view.interactor()
        self.addObserver(interactor, vtk.vtkCommand.MouseMoveEvent, self._on_move, priority=_PRIORITY)
        self.addObserver(interactor, vtk.vtkCommand.LeaveEvent, self._on_leave, priority=_PRIORITY)

    def close(self) -> None:
        self.removeObservers()
        self._renderer.RemoveViewProp(self._actor)
        self._crop.RemoveAllInputs()
        self._view.scheduleRender()

    def _on_move(self, interactor: Any, event: Any) -> None:
        layer = self._logic.GetForegroundLayer()
        connection = layer.GetImageDataConnection() if layer is not None and layer.GetVolumeNode() is not None else None
        if connection is None:
            self._on_leave(interactor, event)
            return
        self._crop.SetInputConnection(connection)
        self._crop.UpdateInformation()
        extent = self._crop.GetInputInformation().Get(vtk.vtkStreamingDemandDrivenPipeline.WHOLE_EXTENT())
        x, y = interactor.GetEventPosition()
        box = [
            max(x - HALF_SIDE, extent[0]),
            min(x + HALF_SIDE, extent[1]),
            max(y - HALF_SIDE, extent[2]),
            min(y + HALF_SIDE, extent[3]),
        ]
        inside = box[0] < box[1] and box[2] < box[3]
        if inside:
            self._crop.SetVOI(*box, 0, 0)
            self._actor.SetPosition(box[0], box[2])
        self._actor.SetVisibility(inside)
        self._view.scheduleRender()

    def _on_leave(self, interactor: Any, event: Any) -> None:
        self._actor.SetVisibility(False)
        self._view.scheduleRender()
