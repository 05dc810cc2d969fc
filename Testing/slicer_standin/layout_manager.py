"""Slicer's layout manager: layouts as XML in the layout node, a slice widget for every slice view in them."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

import slicer

from slicer_standin.generated import bare_class, plays
from slicer_standin.slice_view import qMRMLSliceWidget
from slicer_standin.three_d_view import qMRMLThreeDWidget


@plays
class qSlicerLayoutManager(bare_class("qSlicerLayoutManager")):  # type: ignore[misc]
    """`slicer.app.layoutManager()`."""

    def __init__(self, scene: Any) -> None:
        super().__init__(None)
        self._logic = slicer.vtkMRMLLayoutLogic()
        self._logic.SetMRMLScene(scene)
        self._widgets: dict[str, Any] = {}
        self._three_d: list[Any] = []
        self._value_layout = 0
        self.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        for widget in self._widgets.values():
            widget._settle()  # long before anybody uses them

    def layoutLogic(self) -> Any:
        return self._logic

    def setLayout(self, layout: int) -> None:
        node = self._logic.GetLayoutNode()
        if not node.IsLayoutDescription(layout):
            raise ValueError(f"There is no layout {layout}")
        node.SetViewArrangement(layout)
        self._value_layout = layout
        self._create_views()
        self.layoutChanged.emit(layout)

    def _changed_layout(self) -> None:
        self.setLayout(self._value_layout)

    def sliceViewNames(self) -> list[str]:
        return self._names_in_layout()

    def sliceWidget(self, name: str) -> Any:
        return self._widgets.get(name)

    def threeDWidget(self, which: int | str) -> Any:
        return (
            self._three_d[which]
            if isinstance(which, int)
            else {one.mrmlViewNode().GetLayoutName(): one for one in self._three_d}.get(which)
        )

    def _names_in_layout(self) -> list[str]:
        node = self._logic.GetLayoutNode()
        root = ElementTree.fromstring(node.GetLayoutDescription(node.GetViewArrangement()))
        return [view.get("singletontag") for view in root.iter("view") if view.get("class") == "vtkMRMLSliceNode"]

    def _forget_views(self, kept: tuple[str, ...] = ("Red", "Yellow", "Green")) -> None:
        """As after a start of Slicer: the slice views of other layouts are to be made yet."""
        for name in [one for one in self._widgets if one not in kept]:
            widget = self._widgets.pop(name)
            slicer.app.applicationLogic().GetSliceLogics().RemoveItem(widget.sliceLogic())
            slice_node, composite = widget.mrmlSliceNode(), widget.mrmlSliceCompositeNode()
            widget.sliceView().setMRMLSliceNode(None)
            widget.sliceLogic().SetMRMLScene(None)
            for node in (composite, slice_node):
                if node is not None and node.GetScene() is not None:
                    node.GetScene().RemoveNode(node)

    def _create_views(self) -> None:
        views = self._logic.GetViewNodes()
        nodes = [views.GetItemAsObject(i) for i in range(views.GetNumberOfItems())]
        known = [one.mrmlViewNode() for one in self._three_d]
        self._three_d += [
            qMRMLThreeDWidget(node) for node in nodes if node.IsA("vtkMRMLViewNode") and node not in known
        ]
        self._value_threeDViewCount = len(self._three_d)
        for node in nodes:
            if node.IsA("vtkMRMLSliceNode") and node.GetLayoutName() not in self._widgets:
                widget = qMRMLSliceWidget()
                widget.setMRMLSliceNode(node)
                self._widgets[node.GetLayoutName()] = widget
