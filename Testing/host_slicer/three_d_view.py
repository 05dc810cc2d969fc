"""3D views as far as corner texts go: a renderer with an annotation, and no displayable managers."""
from __future__ import annotations

from typing import Any

import vtk

from host_slicer.generated import bare_class, plays


@plays
class qMRMLThreeDView(bare_class("qMRMLThreeDView")):  # type: ignore[misc]
    """Knows its node and its annotation."""

    def __init__(self, node: Any, parent: Any = None) -> None:
        super().__init__(parent)
        self._node, self._annotation = node, vtk.vtkCornerAnnotation()

    def mrmlViewNode(self) -> Any:
        return self._node

    def cornerAnnotation(self) -> Any:
        return self._annotation

    def scheduleRender(self) -> None:
        pass    # nothing is drawn here


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
