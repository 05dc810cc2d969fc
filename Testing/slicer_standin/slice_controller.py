"""The bar over a slice view, as far as it acts on nodes without being touched.

What Slicer's does (Libs/MRML/Widgets/qMRMLSliceControllerWidget.cxx): its opacity sliders follow the composite node
without blocking their signals, so that every change of an opacity, whoever made it, comes back as an interaction of
the user, which the link logic gives to all linked views of the group. Its offset slider is connected by a queued
connection: what it had at its beginning, 0, arrives one turn of the event loop later.
"""

from __future__ import annotations

from typing import Any

import slicer
import vtk

from slicer_standin.generated import bare_class, plays


@plays
class qMRMLSliceControllerWidget(bare_class("qMRMLSliceControllerWidget")):  # type: ignore[misc]
    """Passes opacities, offset and links on to the nodes; its combo boxes of layers are not played."""

    def __init__(self, logic: Any, parent: Any = None) -> None:
        super().__init__(parent)
        self._logic = logic
        self._composite: Any = None
        self._tag = 0
        self._shown = {"Foreground": 0.0, "Label": 0.0}  # where the sliders stand

    def sliceLogic(self) -> Any:
        return self._logic

    def mrmlSliceNode(self) -> Any:
        return self._logic.GetSliceNode()

    def mrmlSliceCompositeNode(self) -> Any:
        return self._logic.GetSliceCompositeNode()

    def setForegroundOpacity(self, opacity: float) -> None:
        self._interact(slicer.vtkMRMLSliceCompositeNode.ForegroundOpacityFlag, "SetForegroundOpacity", opacity)

    def setLabelMapOpacity(self, opacity: float) -> None:
        self._interact(slicer.vtkMRMLSliceCompositeNode.LabelOpacityFlag, "SetLabelOpacity", opacity)

    def setSliceOffsetValue(self, offset: float) -> None:
        self._logic.StartSliceOffsetInteraction()
        self._logic.SetSliceOffset(offset)
        self._logic.EndSliceOffsetInteraction()

    def fitSliceToBackground(self) -> None:
        self._logic.StartSliceNodeInteraction(slicer.vtkMRMLSliceNode.ResetFieldOfViewFlag)
        self._logic.FitSliceToBackground()
        self.mrmlSliceNode().UpdateMatrices()
        self._logic.EndSliceNodeInteraction()

    def setSliceLink(self, linked: bool) -> None:
        for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            composite.SetLinkedControl(linked)

    def setHotLinked(self, linked: bool) -> None:
        for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            composite.SetHotLinkedControl(linked)

    def _interact(self, flag: int, setter: str, value: float) -> None:
        self._logic.StartSliceCompositeNodeInteraction(flag)
        getattr(self.mrmlSliceCompositeNode(), setter)(value)
        self._logic.EndSliceCompositeNodeInteraction()

    def _follow_composite(self) -> None:
        """The slice logic has another composite node, or the same."""
        composite = self.mrmlSliceCompositeNode()
        if composite is self._composite:
            return
        if self._composite is not None:
            self._composite.RemoveObserver(self._tag)
        self._composite = composite
        if composite is not None:
            self._tag = composite.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._show_opacities())
            self._show_opacities()

    def _show_opacities(self) -> None:
        for layer, moved in (("Label", self.setLabelMapOpacity), ("Foreground", self.setForegroundOpacity)):
            opacity = round(getattr(self._composite, f"Get{layer}Opacity")(), 2)  # the sliders have two decimals
            if opacity != self._shown[layer]:
                self._shown[layer] = opacity
                moved(opacity)
