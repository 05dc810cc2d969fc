"""Slice views that render without a screen: Slicer's slice logic, displayable managers and interactor style.

New views come as Slicer's layout manager makes them: with a provisional size and a controller whose offset slider
sets the offset one turn of the event loop later (`qMRMLSliceWidget._settle`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer
import vtk
from PySide6 import QtCore

from slicer_standin.generated import bare_class, plays
from slicer_standin.slice_controller import qMRMLSliceControllerWidget

SIZE = (320, 320)  # of a view in its layout
PROVISIONAL_SIZE = (595, 320)  # before the layout has laid it out
_MANAGERS = (
    "vtkMRMLCrosshairDisplayableManager",
    "vtkMRMLOrientationMarkerDisplayableManager",
    "vtkMRMLRulerDisplayableManager",
    "vtkMRMLModelSliceDisplayableManager",
)


@plays
class qMRMLSliceView(bare_class("qMRMLSliceView")):  # type: ignore[misc]
    """The picture of one slice: the blended image, an overlay, corner texts."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._renderer, self._overlay = vtk.vtkRenderer(), vtk.vtkRenderer()
        self._overlay.SetLayer(1)
        self._window = vtk.vtkRenderWindow()
        self._window.SetOffScreenRendering(1)
        self._window.SetNumberOfLayers(2)
        self._window.SetSize(*PROVISIONAL_SIZE)
        for renderer in (self._renderer, self._overlay):
            renderer.GetActiveCamera().ParallelProjectionOn()
            self._window.AddRenderer(renderer)
        self._interactor = vtk.vtkRenderWindowInteractor()
        self._interactor.SetRenderWindow(self._window)
        self._interactor.SetInteractorStyle(vtk.vtkInteractorStyleUser())
        self._mapper = vtk.vtkImageMapper()  # window and level are applied by the slice logic before
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        self._actor = vtk.vtkActor2D()
        self._actor.SetMapper(self._mapper)
        self._actor.GetProperty().SetDisplayLocationToBackground()
        self._annotation = vtk.vtkCornerAnnotation()
        self._annotation.SetMaximumFontSize(14)
        self._overlay.AddViewProp(self._annotation)
        self._managers = vtk_manager_group(self._renderer)
        self._style = slicer.vtkMRMLSliceViewInteractorStyle()  # hears the mouse first; aborts what it handles
        self._style.SetDisplayableManagers(self._managers)
        self._style.SetInteractor(self._interactor)
        self._slice_node: Any = None

    def interactorObserver(self) -> Any:
        return self._style

    def mrmlSliceNode(self) -> Any:
        return self._slice_node

    def setMRMLSliceNode(self, node: Any) -> None:
        self._slice_node = node
        self._managers.SetMRMLDisplayableNode(node)

    def setImageDataConnection(self, connection: Any) -> None:
        self._mapper.SetInputConnection(connection)
        if connection is None:
            self._renderer.RemoveViewProp(self._actor)
        elif not self._renderer.HasViewProp(self._actor):
            self._renderer.AddViewProp(self._actor)

    def renderWindow(self) -> Any:
        return self._window

    def interactor(self) -> Any:
        return self._interactor

    def cornerAnnotation(self) -> Any:
        return self._annotation

    def scheduleRender(self) -> None:
        pass  # rendered when a picture is taken

    def forceRender(self) -> None:
        self._window.Render()

    def _picture(self) -> Any:
        self._window.Render()
        return grabbed(self._window)


@plays
class qMRMLSliceWidget(bare_class("qMRMLSliceWidget")):  # type: ignore[misc]
    """A slice view with its logic and its controller."""

    _layout_requested = QtCore.Signal()

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._view = qMRMLSliceView(self)
        self._logic = slicer.vtkMRMLSliceLogic()
        self._controller = qMRMLSliceControllerWidget(self._logic, self)
        self._view.interactorObserver().SetSliceLogic(self._logic)
        self._layout_requested.connect(self._settle, QtCore.Qt.QueuedConnection)

    def sliceController(self) -> Any:
        return self._controller

    def sliceView(self) -> Any:
        return self._view

    def sliceLogic(self) -> Any:
        return self._logic

    def mrmlSliceNode(self) -> Any:
        return self._logic.GetSliceNode()

    def mrmlSliceCompositeNode(self) -> Any:
        return self._logic.GetSliceCompositeNode()

    def setMRMLSliceNode(self, node: Any) -> None:
        application_logic = slicer.app.applicationLogic()
        self._logic.SetMRMLApplicationLogic(application_logic)
        self._logic.SetMRMLScene(slicer.mrmlScene)
        self._logic.SetSliceNode(node)
        if not application_logic.GetSliceLogics().IsItemPresent(self._logic):
            application_logic.GetSliceLogics().AddItem(self._logic)
        self._logic.ResizeSliceNode(*PROVISIONAL_SIZE)
        self._logic.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._connect_image())
        self._view.setMRMLSliceNode(node)
        self._connect_image()
        self._layout_requested.emit()

    def _settle(self) -> None:
        """One event loop turn after the view was made: the slider sets its offset, the layout the size."""
        self._controller.setSliceOffsetValue(0.0)
        self._resize(SIZE)

    def _resize(self, size: tuple[int, int]) -> None:
        self._view.renderWindow().SetSize(*size)
        self._logic.ResizeSliceNode(*size)

    def _connect_image(self) -> None:
        self._controller._follow_composite()
        self._view.setImageDataConnection(self._logic.GetImageDataConnection())


def grabbed(window: Any) -> Any:
    """What a render window holds, as vtkImageData."""
    grabber = vtk.vtkWindowToImageFilter()
    grabber.SetInput(window)
    grabber.ReadFrontBufferOff()
    grabber.Update()
    return grabber.GetOutput()


def vtk_manager_group(renderer: Any) -> Any:
    factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
    factory.SetMRMLApplicationLogic(slicer.app.applicationLogic())
    for name in _MANAGERS:
        if not factory.IsDisplayableManagerRegistered(name):
            factory.RegisterDisplayableManager(name)
    group = slicer.vtkMRMLDisplayableManagerGroup()
    group.SetRenderer(renderer)
    group.Initialize(factory, renderer)
    return group


def picture_of(widget: Any) -> Any:
    """The picture of a slice widget after pending events: an array (rows from the top, columns, RGB)."""
    import numpy as np
    from vtk.util.numpy_support import vtk_to_numpy

    let_settle()
    image = widget.sliceView()._picture()
    columns, rows, _ = image.GetDimensions()
    return np.flipud(vtk_to_numpy(image.GetPointData().GetScalars()).reshape(rows, columns, -1)[..., :3]).copy()


def picture_of_3d(widget: Any) -> Any:
    """The rendered 3D widget as an array (rows from the top, columns, RGB)."""
    import numpy as np
    from vtk.util.numpy_support import vtk_to_numpy

    image = widget.threeDView()._picture()
    columns, rows, _ = image.GetDimensions()
    return np.flipud(vtk_to_numpy(image.GetPointData().GetScalars()).reshape(rows, columns, -1)[..., :3]).copy()


def let_settle() -> None:
    """What was put off to the next turns of the event loop happens."""
    for _ in range(5):
        slicer.app.processEvents()


def resize_view(widget: Any, size: tuple[int, int]) -> None:
    """The window or its layout gives a slice view another size, in pixels."""
    widget._resize(size)


def scroll(widget: Any, steps: int = 1) -> None:
    """The mouse wheel over the middle of a slice view."""
    interactor = widget.sliceView().interactor()
    interactor.SetEventPosition(*[size // 2 for size in interactor.GetRenderWindow().GetSize()])
    interactor.InvokeEvent(vtk.vtkCommand.EnterEvent)
    interactor.InvokeEvent(vtk.vtkCommand.MouseMoveEvent)
    forward, backward = vtk.vtkCommand.MouseWheelForwardEvent, vtk.vtkCommand.MouseWheelBackwardEvent
    for _ in range(abs(steps)):
        interactor.InvokeEvent(forward if steps > 0 else backward)


def move_mouse(widget: Any, x: int, y: int) -> None:
    """The mouse comes to a place of a slice view, in pixels from the lower left."""
    interactor = widget.sliceView().interactor()
    interactor.SetEventPosition(x, y)
    interactor.InvokeEvent(vtk.vtkCommand.MouseMoveEvent)


def leave_mouse(widget: Any) -> None:
    widget.sliceView().interactor().InvokeEvent(vtk.vtkCommand.LeaveEvent)


def write_png(path: Path, pictures: list[Any]) -> None:
    """Several pictures side by side in one file."""
    import numpy as np
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.hstack(pictures)).save(path)
