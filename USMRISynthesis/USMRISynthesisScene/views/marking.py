""" "SYNTHETIC - not for diagnosis" in every view that shows a synthetic image.

The mark is read from the nodes, where it is saved with the scene, and written into the views' corner annotation, which
captures include. The upper edge is used because Slicer's own slice annotations rewrite the corners. A 3D view shows a
synthetic image by volume rendering, or as a slice that is switched on in a slice view's bar.
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
_FOLLOWED = ("vtkMRMLSliceCompositeNode", "vtkMRMLSliceNode", "vtkMRMLVolumeNode", "vtkMRMLVolumeRenderingDisplayNode")
_marks: SyntheticMarks | None = None


def keep_marked() -> None:
    """Mark the views from now on, for as long as Slicer runs. Calling it again changes nothing."""
    global _marks
    if _marks is None:
        layout.register()  # scenes saved in a comparison layout need it
        _marks = SyntheticMarks()


def stop_marking() -> None:
    """Stop it, before the module is reloaded."""
    global _marks
    if _marks is not None:
        _marks.close()
        _marks = None


class SyntheticMarks(VTKObservationMixin):
    """Observes slice views, volumes and volume rendering, and keeps the corner annotations up to date."""

    def __init__(self) -> None:
        super().__init__()
        self._followed: dict[Any, int] = {}
        self._files: dict[Any, str] = {}  # volume -> file whose marks have been read
        self._slices: dict[Any, tuple[Any, ...]] = {}  # slice node -> its visibility in 3D at the last update
        self._closed = self._refresh_pending = False
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
        """Update the annotation of every view."""
        if slicer.mrmlScene.IsClosing():
            return
        self._forget_removed()
        if caller is not None and caller.IsA("vtkMRMLVolumeNode"):
            self._read_file(caller)
        manager = slicer.app.layoutManager()
        if manager is None:
            return
        synthetic = {
            composite.GetLayoutName()
            for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
            if _shows_synthetic(composite)
        }
        for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            widget = manager.sliceWidget(composite.GetLayoutName())
            if widget is not None and widget.mrmlSliceCompositeNode() is composite:
                _write(widget.sliceView(), _shows_synthetic(composite))
        slices = [
            node
            for node in slicer.util.getNodesByClass("vtkMRMLSliceNode")
            if node.GetSliceVisible() and node.GetLayoutName() in synthetic
        ]
        rendered = [
            node
            for node in slicer.util.getNodesByClass("vtkMRMLVolumeRenderingDisplayNode")
            if node.GetVisibility() and is_synthetic(node.GetVolumeNode())
        ]
        for index in range(manager.threeDViewCount):
            view = manager.threeDWidget(index).threeDView()
            view_id = view.mrmlViewNode().GetID()
            _write(
                view,
                any(node.IsDisplayableInThreeDView(view_id) for node in slices)
                or any(node.IsDisplayableInView(view_id) for node in rendered),
            )

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _on_node_added(self, caller: Any, event: Any, node: Any) -> None:
        if any(node.IsA(kind) for kind in _FOLLOWED):
            self._follow(node)
        if node.IsA("vtkMRMLAbstractViewNode"):  # slice nodes and 3D view nodes
            self._refresh_later()

    def _on_layout_changed(self, layout_id: int) -> None:
        self._on_views_changed()

    def _on_views_changed(self, caller: Any = None, event: Any = None) -> None:
        """Update now, and again when the layout manager has made the new views."""
        self.update()
        self._refresh_later()

    def _refresh_later(self) -> None:
        if not self._refresh_pending:
            self._refresh_pending = True
            qt.QTimer.singleShot(0, self._refresh_now)

    def _refresh_now(self) -> None:
        self._refresh_pending = False
        if not self._closed:
            self.update()

    def _on_slice(self, node: Any, event: Any) -> None:
        """Update only where its visibility in 3D has changed: slice nodes change with every scroll."""
        shown = (node.GetSliceVisible(), *(node.GetNthThreeDViewID(n) for n in range(node.GetNumberOfThreeDViewIDs())))
        if self._slices.get(node) != shown:
            self._slices[node] = shown
            self.update()

    def _follow(self, node: Any) -> None:
        """Update after every change of the node."""
        if node not in self._followed:
            callback = self._on_slice if node.IsA("vtkMRMLSliceNode") else self.update
            self._followed[node] = node.AddObserver(vtk.vtkCommand.ModifiedEvent, callback)
            if node.IsA("vtkMRMLVolumeNode"):
                self._read_file(node)

    def _read_file(self, volume: Any) -> None:
        """Read the marks once for each file; Slicer sets the file name after the volume was added to the scene."""
        storage = volume.GetStorageNode()
        name = (storage.GetFileName() if storage is not None else None) or ""
        if name and self._files.get(volume) != name:
            self._files[volume] = name
            restore_marks(volume)

    def _forget_removed(self) -> None:
        """Release removed nodes, so that they are not kept in memory."""
        for node in [node for node in self._followed if node.GetScene() is not slicer.mrmlScene]:
            node.RemoveObserver(self._followed.pop(node))
            self._files.pop(node, None)
            self._slices.pop(node, None)


def _shows_synthetic(composite: Any) -> bool:
    """Whether a layer of a slice view is synthetic. Slicer has more than three layers since 5.10."""
    more = getattr(composite, "GetNumberOfAdditionalLayers", lambda: 0)()
    ids = [composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID(), composite.GetLabelVolumeID()]
    ids += [composite.GetNthLayerVolumeID(composite.Layer_Last + n) for n in range(more)]
    return any(is_synthetic(slicer.mrmlScene.GetNodeByID(one or "")) for one in ids)


def _write(view: Any, shown: bool) -> None:
    """Write or remove the mark; other text in its place is not changed."""
    annotation = view.cornerAnnotation()
    text = annotation.GetText(_EDGE)
    if shown and text != SYNTHETIC:
        annotation.SetText(_EDGE, SYNTHETIC)
        annotation.GetTextProperty().ShadowOn()  # legible on bright tissue
    elif not shown and text == SYNTHETIC:
        annotation.SetText(_EDGE, "")
    else:
        return
    view.scheduleRender()
