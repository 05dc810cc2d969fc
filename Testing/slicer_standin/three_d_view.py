"""3D views that render without a screen: Slicer's volume rendering, its models and slices, and an annotation."""

from __future__ import annotations

from typing import Any

import slicer
import vtk

from slicer_standin.generated import bare_class, plays
from slicer_standin.slice_view import grabbed

SIZE = (320, 320)
_MANAGERS = ("vtkMRMLVolumeRenderingDisplayableManager", "vtkMRMLModelDisplayableManager")


@plays
class qMRMLThreeDView(bare_class("qMRMLThreeDView")):  # type: ignore[misc]
    """Knows its node, its annotation, and draws what the displayable managers put into it."""

    def __init__(self, node: Any, parent: Any = None) -> None:
        super().__init__(parent)
        self._node, self._annotation = node, vtk.vtkCornerAnnotation()
        self._annotation.SetMaximumFontSize(14)
        self._window: Any = None
        self._managers: Any = None

    def mrmlViewNode(self) -> Any:
        return self._node

    def cornerAnnotation(self) -> Any:
        return self._annotation

    def renderWindow(self) -> Any:
        """Made on first use: most tests use no 3D view."""
        if self._window is None:
            self._renderer = vtk.vtkRenderer()
            self._renderer.AddViewProp(self._annotation)
            self._window = vtk.vtkRenderWindow()
            self._window.SetOffScreenRendering(1)
            self._window.SetSize(*SIZE)
            self._window.AddRenderer(self._renderer)
            self._interactor = vtk.vtkRenderWindowInteractor()
            self._interactor.SetRenderWindow(self._window)
            factory = slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance()
            factory.SetMRMLApplicationLogic(slicer.app.applicationLogic())
            for name in _MANAGERS:
                if not factory.IsDisplayableManagerRegistered(name):
                    factory.RegisterDisplayableManager(name)
            self._managers = slicer.vtkMRMLDisplayableManagerGroup()
            self._managers.SetRenderer(self._renderer)
            self._managers.Initialize(factory, self._renderer)
            self._managers.SetMRMLDisplayableNode(self._node)
        return self._window

    def resetFocalPoint(self) -> None:
        if self._window is not None:
            self._renderer.ResetCamera()

    def forceRender(self) -> None:
        self.renderWindow().Render()

    def scheduleRender(self) -> None:
        pass  # rendered when a picture is taken

    def _picture(self) -> Any:
        self.renderWindow()
        self._renderer.ResetCamera()
        self._window.Render()
        return grabbed(self._window)


@plays
class qMRMLThreeDWidget(bare_class("qMRMLThreeDWidget")):  # type: ignore[misc]
    """A 3D view for a view node."""

    def __init__(self, node: Any, parent: Any = None) -> None:
        super().__init__(parent)
        self._view = qMRMLThreeDView(node, self)

    def threeDView(self) -> Any:
        return self._view

    def mrmlViewNode(self) -> Any:
        return self._view.mrmlViewNode()
