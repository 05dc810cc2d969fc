"""Ultrasound | fused | MR-like, side by side, in views of their own.

The views form one view group and are linked and hot-linked: scrolling, zooming and turning one moves all three.
The user's own views are not touched, and the layout that was there before is one click away.
"""
from __future__ import annotations

import slicer
import vtk

LAYOUT_ID = 27182           # any number that Slicer (below 1000) and other extensions do not use
VIEW_GROUP = 27182
ULTRASOUND, FUSED, MR = "USMRI-Ultrasound", "USMRI-Fused", "USMRI-MR"
FUSION = 0.5
_PREVIOUS = "USMRISynthesis.PreviousLayout"

_VIEWS = ((ULTRASOUND, "US", "#4C9BE8"), (FUSED, "US + MR-like", "#8E7CC3"), (MR, "MR-like", "#E8A33D"))


def layout_description() -> str:
    """The layout as XML for the layout node."""
    items = "".join(
        f'<item><view class="vtkMRMLSliceNode" singletontag="{tag}">'
        '<property name="orientation" action="default">Axial</property>'
        f'<property name="viewlabel" action="default">{label}</property>'
        f'<property name="viewcolor" action="default">{colour}</property>'
        f'<property name="viewgroup" action="default">{VIEW_GROUP}</property>'
        "</view></item>"
        for tag, label, colour in _VIEWS)
    return f'<layout type="horizontal" split="true">{items}</layout>'


def register() -> None:
    """Make the layout known, so that scenes saved in it and the layout node can name it."""
    manager = slicer.app.layoutManager()
    if manager is not None:
        node = manager.layoutLogic().GetLayoutNode()
        if node is not None and not node.IsLayoutDescription(LAYOUT_ID):
            node.AddLayoutDescription(LAYOUT_ID, layout_description())


def is_shown() -> bool:
    """Whether the comparison layout is the present one."""
    manager = slicer.app.layoutManager()
    return manager is not None and manager.layout == LAYOUT_ID


def leave_comparison() -> None:
    """Back to the layout from which the comparison was opened."""
    if is_shown():
        manager = slicer.app.layoutManager()
        previous = manager.layoutLogic().GetLayoutNode().GetAttribute(_PREVIOUS)
        manager.setLayout(int(previous) if previous else slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)


def set_fusion(fusion: float) -> None:
    """Opacity, 0-1, of the MR-like image over the ultrasound in the middle view."""
    manager = slicer.app.layoutManager()
    widget = manager.sliceWidget(FUSED) if manager is not None else None
    if widget is not None and widget.mrmlSliceCompositeNode().GetForegroundVolumeID():
        widget.mrmlSliceCompositeNode().SetForegroundOpacity(fusion)


def show_labels(labels: slicer.vtkMRMLLabelMapVolumeNode | None) -> None:
    """Outline a label map in the ultrasound view and the fused view; None takes it away."""
    manager = slicer.app.layoutManager()
    for widget in [manager.sliceWidget(tag) for tag in (ULTRASOUND, FUSED)] if manager is not None else []:
        if widget is not None:
            widget.mrmlSliceCompositeNode().SetLabelVolumeID(labels.GetID() if labels is not None else None)
            widget.mrmlSliceCompositeNode().SetLabelOpacity(1.0)
            widget.mrmlSliceNode().SetUseLabelOutline(True)


def show_comparison(ultrasound: slicer.vtkMRMLScalarVolumeNode, mr: slicer.vtkMRMLScalarVolumeNode,
                    fusion: float = FUSION) -> bool:
    """Switch to the comparison layout and show the two volumes in it.

    Args:
        fusion: opacity of the MR-like image over the ultrasound in the middle view, 0-1.

    Returns:
        False where there are no views (Slicer without a main window).
    """
    manager = slicer.app.layoutManager()
    if manager is None:
        return False
    register()
    if manager.layout != LAYOUT_ID:
        manager.layoutLogic().GetLayoutNode().SetAttribute(_PREVIOUS, str(manager.layout))
    manager.setLayout(LAYOUT_ID)
    widgets = [manager.sliceWidget(tag) for tag, _label, _colour in _VIEWS]
    composites = [widget.mrmlSliceCompositeNode() for widget in widgets]
    for composite in composites:   # a linked view would copy its volumes to the others while they are set
        composite.SetHotLinkedControl(False)
        composite.SetLinkedControl(False)
    for composite, (background, foreground) in zip(
            composites, ((ultrasound, None), (ultrasound, mr), (mr, None)), strict=True):
        composite.SetBackgroundVolumeID(background.GetID())
        composite.SetForegroundVolumeID(foreground.GetID() if foreground else None)
        composite.SetForegroundOpacity(fusion if foreground else 0.0)
        composite.SetLabelVolumeID(None)
    for widget in widgets:
        _face(widget, ultrasound)
    for composite in composites:
        composite.SetLinkedControl(True)
        composite.SetHotLinkedControl(True)
    return True


def _face(widget: slicer.qMRMLSliceWidget, volume: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Look at the volume's own planes, since an oblique volume or a frame has no anatomical ones."""
    slice_node = widget.mrmlSliceNode()
    slice_node.SetViewGroup(VIEW_GROUP)     # the layout gives it to new views only
    slice_node.SetOrientation("Axial")
    if volume.GetImageData().GetDimensions()[2] == 1:
        _look_along_k(slice_node, volume)
    else:
        slice_node.RotateToVolumePlane(volume)
    widget.sliceLogic().FitSliceToBackground()
    slice_node.UpdateMatrices()
    bounds = [0.0] * 6
    volume.GetRASBounds(bounds)
    slice_node.JumpSliceByOffsetting(*[(bounds[2 * axis] + bounds[2 * axis + 1]) / 2 for axis in range(3)])


def _look_along_k(slice_node: slicer.vtkMRMLSliceNode, volume: slicer.vtkMRMLScalarVolumeNode) -> None:
    """A frame fills the view only when the slice lies in its plane, i to the right and j downwards."""
    to_world = vtk.vtkMatrix4x4()
    parent = volume.GetParentTransformNode()
    if parent is not None and parent.IsTransformToWorldLinear():
        parent.GetMatrixTransformToWorld(to_world)
    ijk_to_ras = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(ijk_to_ras)
    vtk.vtkMatrix4x4.Multiply4x4(to_world, ijk_to_ras, ijk_to_ras)
    right, down = ([ijk_to_ras.GetElement(row, axis) for row in range(3)] for axis in (0, 1))
    up = [-value for value in down]
    vtk.vtkMath.Normalize(right)
    vtk.vtkMath.Normalize(up)
    normal = [0.0, 0.0, 0.0]
    vtk.vtkMath.Cross(right, up, normal)
    centre = [0.0] * 6
    volume.GetRASBounds(centre)
    middle = [(centre[2 * axis] + centre[2 * axis + 1]) / 2 for axis in range(3)]
    slice_node.SetSliceToRASByNTP(*normal, *right, *middle, 0)

