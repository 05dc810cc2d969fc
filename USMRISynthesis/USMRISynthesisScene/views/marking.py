"""SYNTHETIC - not for diagnosis in every view that shows a synthetic image, whoever put it there.

The mark is looked for on the nodes, where it is saved with the scene, and written into the views' corner text, which
captures show. The upper edge is used because Slicer's own slice annotations rewrite the corners. A 3D view shows a
synthetic image by volume rendering, or as a slice that the eye in a slice view's bar has switched on.
"""
from __future__ import annotations

from typing import Any

import qt
import slicer
import vtk
from slicer.util import VTKObservationMixin

from USMRISynthesisScene.nodes.nodes import SYNTHETIC, is_synthetic, restore_marks
from USMRISynthesisScene.views import layout

_EDGE = vtk.vtkCornerAnnotation.UpperEdge
_FOLLOWED = ("vtkMRMLSliceCompositeNode", "vtkMRMLSliceNode", "vtkMRMLVolumeNode",
             "vtkMRMLVolumeRenderingDisplayNode")
_marks: SyntheticMarks | None = None


def keep_marked() -> None:
    """Mark the views from now on, for as long as Slicer runs. Calling it again changes nothing."""
    global _marks
    if _marks is None:
        layout.register()   # a scene that was saved in the comparison layout finds it again
        _marks = SyntheticMarks()


def stop_marking() -> None:
    """Before a reload, so that there are never two."""
    global _marks
    if _marks is not None:
        _marks.close()
        _marks = None


class SyntheticMarks(VTKObservationMixin):
    """Follows the slice views' volumes and volume rendering, and keeps the corner texts right."""

    def __init__(self) -> None:
        super().__init__()
        self._followed: dict[Any, int] = {}
        self._files: dict[Any, str] = {}    # volume -> the file whose header has been looked at
        self._slices: dict[Any, tuple[Any, ...]] = {}     # slice node -> how it was shown in 3D the last time
        self._closed = self._looking_later = False
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.NodeAddedEvent, self._on_node_added)
        for event in (scene.NodeRemovedEvent, scene.EndCloseEvent):
            self.addObserver(scene, event, self.update)
        for event in (scene.EndImportEvent, scene.EndRestoreEvent):
            self.addObserver(scene, event, self._on_views_changed)
        for kind in _FOLLOWED:
            for node in slicer.util.getNodesByClass(kind):
                self._follow(node)
        manager = slicer.app.layoutManager()
        if manager is not None:
            manager.connect("layoutChanged(int)", self._on_layout_changed)
        self.update()

    def close(self) -> None:
        self._closed = True
        self.removeObservers()
        for node, tag in self._followed.items():
            node.RemoveObserver(tag)
        self._followed.clear()
        self._files.clear()
        self._slices.clear()
        manager = slicer.app.layoutManager()
        if manager is not None:
            manager.disconnect("layoutChanged(int)", self._on_layout_changed)

    def update(self, caller: Any = None, event: Any = None) -> None:
        """Look at every view there is."""
        if slicer.mrmlScene.IsClosing():
            return
        self._forget_removed()
        if caller is not None and caller.IsA("vtkMRMLVolumeNode"):
            self._read_file(caller)
        manager = slicer.app.layoutManager()
        if manager is None:
            return
        synthetic = {composite.GetLayoutName() for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
                     if _shows_synthetic(composite)}
        for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            widget = manager.sliceWidget(composite.GetLayoutName())
            if widget is not None and widget.mrmlSliceCompositeNode() is composite:
                _write(widget.sliceView(), _shows_synthetic(composite))
        slices = [node for node in slicer.util.getNodesByClass("vtkMRMLSliceNode")
                  if node.GetSliceVisible() and node.GetLayoutName() in synthetic]
        rendered = [node for node in slicer.util.getNodesByClass("vtkMRMLVolumeRenderingDisplayNode")
                    if node.GetVisibility() and is_synthetic(node.GetVolumeNode())]
        for index in range(manager.threeDViewCount):
            view = manager.threeDWidget(index).threeDView()
            view_id = view.mrmlViewNode().GetID()
            _write(view, any(node.IsDisplayableInThreeDView(view_id) for node in slices)
                   or any(node.IsDisplayableInView(view_id) for node in rendered))

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _on_node_added(self, caller: Any, event: Any, node: Any) -> None:
        if any(node.IsA(kind) for kind in _FOLLOWED):
            self._follow(node)
        if node.IsA("vtkMRMLAbstractViewNode"):     # slice nodes and 3D view nodes
            self._look_later()

    def _on_layout_changed(self, layout_id: int) -> None:
        self._on_views_changed()

    def _on_views_changed(self, caller: Any = None, event: Any = None) -> None:
        """Now, and once more when the layout manager has made the views that are new."""
        self.update()
        self._look_later()

    def _look_later(self) -> None:
        if not self._looking_later:
            self._looking_later = True
            qt.QTimer.singleShot(0, self._look_again)

    def _look_again(self) -> None:
        self._looking_later = False
        if not self._closed:
            self.update()

    def _on_slice(self, node: Any, event: Any) -> None:
        """Slice nodes change with every scroll: only what is seen in 3D matters here."""
        shown = (node.GetSliceVisible(), *(node.GetNthThreeDViewID(n) for n in range(node.GetNumberOfThreeDViewIDs())))
        if self._slices.get(node) != shown:
            self._slices[node] = shown
            self.update()

    def _follow(self, node: Any) -> None:
        """Look again after each change of the node."""
        if node not in self._followed:
            look = self._on_slice if node.IsA("vtkMRMLSliceNode") else self.update
            self._followed[node] = node.AddObserver(vtk.vtkCommand.ModifiedEvent, look)
            if node.IsA("vtkMRMLVolumeNode"):
                self._read_file(node)

    def _read_file(self, volume: Any) -> None:
        """Once for each file that a volume is loaded from; Slicer names it after the volume has come to the scene."""
        storage = volume.GetStorageNode()
        name = (storage.GetFileName() if storage is not None else None) or ""
        if name and self._files.get(volume) != name:
            self._files[volume] = name
            restore_marks(volume)

    def _forget_removed(self) -> None:
        """A node that is gone from the scene must not be kept alive from here."""
        for node in [node for node in self._followed if node.GetScene() is not slicer.mrmlScene]:
            node.RemoveObserver(self._followed.pop(node))
            self._files.pop(node, None)
            self._slices.pop(node, None)


def _shows_synthetic(composite: Any) -> bool:
    """Whether a layer of a slice view is synthetic. Slicer has more than three layers from 5.10 on."""
    more = getattr(composite, "GetNumberOfAdditionalLayers", lambda: 0)()
    ids = [composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID(), composite.GetLabelVolumeID()]
    ids += [composite.GetNthLayerVolumeID(composite.Layer_Last + n) for n in range(more)]
    return any(is_synthetic(slicer.mrmlScene.GetNodeByID(one or "")) for one in ids)


def _write(view: Any, shown: bool) -> None:
    """Write or remove our text; what others wrote there is left alone."""
    annotation = view.cornerAnnotation()
    text = annotation.GetText(_EDGE)
    if shown and text != SYNTHETIC:
        annotation.SetText(_EDGE, SYNTHETIC)
        annotation.GetTextProperty().ShadowOn()   # legible on bright brain, too
    elif not shown and text == SYNTHETIC:
        annotation.SetText(_EDGE, "")
    else:
        return
    view.scheduleRender()
