"""The panel as a user operates it: opened by the module selection, clicked, awaited, captured."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
import vtk

from slicer_walkthrough import views
from slicer_walkthrough.transcript import NotTried, Transcript

MODULE = "USMRISynthesis"
_LISTED = (
    "vtkMRMLVolumeNode",
    "vtkMRMLTransformNode",
    "vtkMRMLSegmentationNode",
    "vtkMRMLModelNode",
    "vtkMRMLMarkupsNode",
)


class Walk:
    """What the steps share.

    Attributes:
        folder: where the transcript and the screenshots go.
        pace: how long to rest after each click, in units of 0.3 s.
        ui: the panel's widgets, after `open`.
    """

    def __init__(self, folder: Path, transcript: Transcript, pace: float = 1.0) -> None:
        self.folder, self.transcript, self.pace = folder, transcript, pace
        self.ui: Any = None
        self._stages: list[str] = []
        scene = slicer.mrmlScene
        self._tags = [
            scene.AddObserver(scene.NodeAddedEvent, self._on_added),
            scene.AddObserver(scene.NodeRemovedEvent, self._on_removed),
        ]

    def open(self) -> Any:
        """Open the panel through the module selection; returns the Python widget object."""
        if slicer.util.mainWindow() is None:
            raise RuntimeError("Slicer has no main window")
        slicer.util.selectModule(MODULE)
        widget = slicer.util.getModuleWidget(MODULE)
        self.ui = widget.ui
        self.ui.progressBar.connect("valueChanged(int)", self._on_progress)
        self.rest()
        return widget

    def close(self) -> None:
        for tag in self._tags:
            slicer.mrmlScene.RemoveObserver(tag)
        if self.ui is not None:
            self.ui.progressBar.disconnect("valueChanged(int)", self._on_progress)

    def rest(self, seconds: float = 0.3) -> None:
        """Let everything happen that is due, views that settle included."""
        end = time.monotonic() + seconds * self.pace
        while True:
            slicer.app.processEvents()
            if time.monotonic() >= end:
                return
            time.sleep(0.01)

    def wait(self, condition: Callable[[], bool], what: str, seconds: float = 1800.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"{what} did not come about")
            slicer.app.processEvents()
            time.sleep(0.01)
        self.rest()

    def unfold(self, section: str) -> None:
        """Open one section of the panel, as a click on its heading does."""
        button = getattr(self.ui, f"{section}CollapsibleButton")
        if button.collapsed:
            button.click()
        self.rest(0.1)
        expect(not button.collapsed, f"the section {section} does not open")

    def click(self, widget: Any) -> None:
        """Click a button or box that the user can see and use."""
        expect(widget.visible, f"{widget.objectName} cannot be seen")
        expect(widget.enabled, f"{widget.objectName} cannot be clicked: {widget.toolTip}")
        widget.click()
        self.rest()

    def tick(self, box: Any, ticked: bool = True) -> None:
        if box.checked != ticked:
            self.click(box)
        expect(box.checked == ticked, f"{box.objectName} does not change")

    def choose(self, box: Any, text: str) -> None:
        """Choose an entry of a combo box by the arrow keys."""
        entries = [box.itemText(index) for index in range(box.count)]
        expect(text in entries, f"{box.objectName} has {entries}, not {text}")
        expect(box.enabled, f"{box.objectName} cannot be used: {box.toolTip}")
        while box.currentIndex != entries.index(text):
            before = box.currentIndex
            key = qt.Qt.Key_Down if before < entries.index(text) else qt.Qt.Key_Up
            qt.QApplication.sendEvent(box, qt.QKeyEvent(qt.QEvent.KeyPress, key, qt.Qt.NoModifier))
            self.rest(0.1)
            expect(box.currentIndex != before, f"{box.objectName} does not change")
        self.rest()

    def run(self, button: Any, idle: str) -> dict[str, Any]:
        """Press a button that starts a run and wait for its end; returns the status and the stages."""
        self._stages.clear()
        self.click(button)
        self.wait(lambda: button.text == idle, f"the end of {idle!r}")
        return {"status": self.ui.statusLabel.text, "stages": list(self._stages)}

    def photograph(self, name: str) -> None:
        """The panel, and the views of the present layout, as PNG files."""
        self.rest()
        representation = slicer.util.getModuleWidget(MODULE).parent
        expect(bool(representation.grab().save(str(self.folder / f"{name}-panel.png"))), "no picture of the panel")
        views.write_picture(self.folder / f"{name}-views.png")

    def _on_progress(self, value: int) -> None:
        stage = str(self.ui.statusLabel.text).partition(":")[0]
        if stage and stage not in self._stages and self.ui.progressBar.visible:
            self._stages.append(stage)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _on_added(self, caller: Any, event: Any, node: Any) -> None:
        if is_listed(node):
            self.transcript.events.append(f"added {node.GetClassName()}")

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _on_removed(self, caller: Any, event: Any, node: Any) -> None:
        if is_listed(node):
            self.transcript.events.append(f"removed {node.GetClassName()} {node.GetName()}")


def expect(holds: bool, sentence: str) -> None:
    """Fail the step with this sentence unless it holds."""
    if not holds:
        raise AssertionError(sentence)


def need_torch() -> None:
    """Steps that run a network are not tried without PyTorch: the panel would ask whether to install it."""
    from USMRISynthesisScene.setup.torch_install import TorchState, explanation, torch_state

    state = torch_state()
    if state is not TorchState.READY:
        raise NotTried(str(explanation(state)))


def is_listed(node: Any) -> bool:
    return any(node.IsA(kind) for kind in _LISTED) and not node.GetHideFromEditors()


def listed_nodes() -> list[dict[str, Any]]:
    """Data nodes of the scene by class and name, with their parent transforms."""
    scene = slicer.mrmlScene
    nodes = [scene.GetNthNode(index) for index in range(scene.GetNumberOfNodes())]
    found = []
    for node in filter(is_listed, nodes):
        parent = node.GetParentTransformNode()
        found.append(
            {
                "class": node.GetClassName(),
                "name": node.GetName(),
                "parent": parent.GetName() if parent is not None else None,
            }
        )
    return sorted(found, key=lambda one: (one["class"], one["name"]))
