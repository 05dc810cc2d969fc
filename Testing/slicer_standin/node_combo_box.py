"""qMRMLNodeComboBox on the real scene: lists nodes, follows additions, removals and renames."""

from __future__ import annotations

from typing import Any

import shiboken6
import slicer
import vtk
from PySide6 import QtWidgets

from slicer_standin.generated import bare_class, plays


@plays
class qMRMLNodeComboBox(bare_class("qMRMLNodeComboBox")):  # type: ignore[misc]
    """Without "none" the first node is selected by itself, when it comes into an empty list.

    When the selected node is deleted, the one that takes its row is selected, or the last: Qt's combo box does so, with
    "none" in the list as well. The list follows with priority -10 when a node is about to be removed, 10 when added.
    """

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._scene: Any = None
        self._tags: list[int] = []
        self._nodes: list[Any] = []
        self._observed: set[Any] = set()
        self._current: Any = None
        self._value_noneEnabled = False
        self._value_addEnabled = self._value_removeEnabled = self._value_showChildNodeTypes = True
        self._value_noneDisplay = "None"
        self._combo = QtWidgets.QComboBox(self)
        self._combo.setSizeAdjustPolicy(QtWidgets.QComboBox.AdjustToMinimumContentsLengthWithIcon)
        self._combo.activated.connect(self._on_activated)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._combo)
        for name in (
            "nodeTypes",
            "showHidden",
            "showChildNodeTypes",
            "hideChildNodeTypes",
            "noneEnabled",
            "noneDisplay",
            "addEnabled",
        ):
            setattr(self, f"_changed_{name}", self._refresh)

    def mrmlScene(self) -> Any:
        return self._scene

    def setMRMLScene(self, scene: Any) -> None:
        if scene is self._scene:
            return
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._scene, self._tags = scene, []
        if scene is not None:
            self._tags = [scene.AddObserver(scene.NodeAboutToBeRemovedEvent, self._on_about_to_be_removed, -10.0)]
            for event, priority in (
                (scene.NodeAddedEvent, 10.0),
                (scene.NodeRemovedEvent, 10.0),
                (scene.EndCloseEvent, 0.0),
                (scene.EndBatchProcessEvent, 0.0),
            ):
                self._tags.append(scene.AddObserver(event, self._on_scene_changed, priority))
        self._refresh()

    def currentNode(self) -> Any:
        return self._current

    def currentNodeId(self) -> str:
        return self._current.GetID() if self._current is not None else ""

    def setCurrentNode(self, node: Any) -> None:
        if isinstance(node, str):
            node = self._scene.GetNodeByID(node) if self._scene is not None else None
        if node is not None and node not in self._nodes:
            node = None
        self._select(node)  # None as well, where it cannot be chosen from the list

    setCurrentNodeID = setCurrentNode

    def setCurrentNodeIndex(self, index: int) -> None:
        self._select(self._nodes[index])

    def nodeCount(self) -> int:
        return len(self._nodes)

    def nodeFromIndex(self, index: int) -> Any:
        return self._nodes[index]

    def addNode(self, node_type: str | None = None) -> Any:
        node = self._scene.AddNewNodeByClass(node_type or self.nodeTypes[0], self.baseName or "")
        self.nodeAddedByUser.emit(node)
        if self.selectNodeUponCreation:
            self._select(node)
        return node

    def removeCurrentNode(self) -> None:
        if self._current is not None:
            self._scene.RemoveNode(self._current)

    def _listed(self, node: Any) -> bool:
        types = list(self.nodeTypes or [])
        if node.GetHideFromEditors() and not self.showHidden:
            return False
        if any(node.IsA(hidden) for hidden in self.hideChildNodeTypes or []):
            return False
        if self.showChildNodeTypes:
            return any(node.IsA(one) for one in types)
        return node.GetClassName() in types

    def _on_scene_changed(self, scene: Any, event: str) -> None:
        if not shiboken6.isValid(self):
            for tag in self._tags:
                scene.RemoveObserver(tag)
            self._tags, self._nodes, self._observed, self._current = [], [], set(), None
        elif not scene.IsBatchProcessing():
            self._refresh()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _on_about_to_be_removed(self, scene: Any, event: str, node: Any) -> None:
        if not shiboken6.isValid(self) or scene.IsClosing() or node not in self._nodes:
            return
        row = self._nodes.index(node)
        self._nodes.remove(node)
        if node is self._current:
            self._select(self._nodes[min(row, len(self._nodes) - 1)] if self._nodes else None)
        else:
            self._fill()

    def _refresh(self) -> None:
        before, was_empty = self._current, not self._nodes
        scene = self._scene
        every = [] if scene is None else [scene.GetNthNode(i) for i in range(scene.GetNumberOfNodes())]
        self._nodes = [node for node in every if self._listed(node)]
        for node in set(self._nodes) - self._observed:
            node.AddObserver(vtk.vtkCommand.ModifiedEvent, self._on_node_modified)
        self._observed = set(self._nodes)
        current = before if before in self._nodes else None
        if current is None and not self._value_noneEnabled and self._nodes and (before is not None or was_empty):
            current = self._nodes[0]
        self._select(current)

    def _on_node_modified(self, node: Any, event: str) -> None:
        if shiboken6.isValid(self) and node in self._nodes:
            self._fill()  # it may have a new name

    def _fill(self) -> None:
        names = [node.GetName() for node in self._nodes]
        if self._value_noneEnabled:
            names.insert(0, self._value_noneDisplay)
        self._combo.clear()
        self._combo.addItems(names)
        row = (
            self._nodes.index(self._current) + self._value_noneEnabled
            if self._current in self._nodes
            else (0 if self._value_noneEnabled else -1)
        )
        self._combo.setCurrentIndex(row)

    def _on_activated(self, row: int) -> None:
        row -= self._value_noneEnabled
        self._select(self._nodes[row] if row >= 0 else None)
        self.nodeActivated.emit(self._current)

    def _select(self, node: Any) -> None:
        changed = node is not self._current
        self._current = node
        self._fill()
        if changed:
            self.currentNodeChanged.emit(node)
            self._signal("currentNodeChanged(bool)").emit(node is not None)
            self._signal("currentNodeIDChanged(QString)").emit(self.currentNodeId())


slicer.qMRMLNodeComboBox = qMRMLNodeComboBox
