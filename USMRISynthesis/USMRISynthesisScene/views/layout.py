"""Ultrasound | fused | MR-like, side by side, in views of their own: one plane, three planes, or with a 3D view.

The views of one plane form one view group and are linked and hot-linked: scrolling, zooming and rotating one moves all
three. Their volumes and opacities are not linked, because these differ. The user's own views are not changed, and one
click brings the previous layout back.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import slicer

from USMRISynthesisScene.nodes.nodes import is_frame
from USMRISynthesisScene.views.fit import MOST_TURNS, Region, Settling, fit_views, head_region

LAYOUT_ID = 27182  # not used by Slicer (below 1000) or other extensions
PLANES_LAYOUT_ID = LAYOUT_ID + 1
SPACE_LAYOUT_ID = LAYOUT_ID + 2
LAYOUTS = (LAYOUT_ID, PLANES_LAYOUT_ID, SPACE_LAYOUT_ID)
VIEW_GROUP = 27182  # of the axial views; the other planes have the next numbers
ULTRASOUND, FUSED, MR = "USMRI-Ultrasound", "USMRI-Fused", "USMRI-MR"
SPACE = "USMRI-3D"
PLANES = ("Axial", "Coronal", "Sagittal")
FUSION = 0.5
_PREVIOUS = "USMRISynthesis.PreviousLayout"
_settling: Settling | None = None

# In a narrow view, the slice controller has space for a label of two letters only.
_VIEWS = ((ULTRASOUND, "US", "#4C9BE8"), (FUSED, "F", "#8E7CC3"), (MR, "M", "#E8A33D"))


def view_tag(role: str, plane: str = PLANES[0]) -> str:
    """The name of the view with that role (ULTRASOUND, FUSED, MR) in that plane."""
    return role if plane == PLANES[0] else f"{role}-{plane}"


def layout_description(layout: int = LAYOUT_ID) -> str:
    """One of LAYOUTS as XML for the layout node."""
    if layout == PLANES_LAYOUT_ID:
        rows = "".join(f"<item>{_row(plane)}</item>" for plane in PLANES)
        return f'<layout type="vertical" split="true">{rows}</layout>'
    if layout == SPACE_LAYOUT_ID:
        space = (
            f'<item><view class="vtkMRMLViewNode" singletontag="{SPACE}">'
            '<property name="viewlabel" action="default">MR-like 3D</property></view></item>'
        )
        first, second, third = (_slice_view(view, PLANES[0]) for view in _VIEWS)
        return (
            '<layout type="vertical" split="true">'
            f'<item><layout type="horizontal" split="true">{first}{second}</layout></item>'
            f'<item><layout type="horizontal" split="true">{third}{space}</layout></item></layout>'
        )
    return _row(PLANES[0])


def _row(plane: str) -> str:
    return f'<layout type="horizontal" split="true">{"".join(_slice_view(view, plane) for view in _VIEWS)}</layout>'


def _slice_view(view: tuple[str, str, str], plane: str) -> str:
    role, label, colour = view
    return (
        f'<item><view class="vtkMRMLSliceNode" singletontag="{view_tag(role, plane)}">'
        f'<property name="orientation" action="default">{plane}</property>'
        f'<property name="viewlabel" action="default">{label}</property>'
        f'<property name="viewcolor" action="default">{colour}</property>'
        f'<property name="viewgroup" action="default">{VIEW_GROUP + PLANES.index(plane)}</property>'
        "</view></item>"
    )


def register() -> None:
    """Add the layouts to the layout node, so that they can be shown and scenes saved in them can be loaded."""
    manager = slicer.app.layoutManager()
    if manager is None:
        return
    node = manager.layoutLogic().GetLayoutNode()
    for layout in LAYOUTS if node is not None else ():
        if not node.IsLayoutDescription(layout):
            node.AddLayoutDescription(layout, layout_description(layout))


def is_shown() -> bool:
    """Whether a comparison layout is shown."""
    manager = slicer.app.layoutManager()
    return manager is not None and manager.layout in LAYOUTS


def planes_shown() -> tuple[str, ...]:
    """The planes of the comparison layout that is shown; none in other layouts."""
    if not is_shown():
        return ()
    return PLANES if slicer.app.layoutManager().layout == PLANES_LAYOUT_ID else PLANES[:1]


def comparison_widgets(*roles: str) -> Iterator[Any]:
    """The slice widgets of these roles in all planes that are shown."""
    for plane in planes_shown():
        for role in roles:
            widget = slicer.app.layoutManager().sliceWidget(view_tag(role, plane))
            if widget is not None:
                yield widget


def leave_comparison() -> None:
    """Show the layout from which the comparison was opened."""
    if is_shown():
        if _settling is not None:
            _settling.stop()
        manager = slicer.app.layoutManager()
        previous = manager.layoutLogic().GetLayoutNode().GetAttribute(_PREVIOUS)
        manager.setLayout(int(previous) if previous else slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)


def keep_layers_apart() -> None:
    """Keep volumes and opacities separate in linked comparison views.

    Slicer's link logic would copy them to all views of the group, even when a program changes them, because the slider
    in the view's bar follows and counts as user input. The mask that prevents this is not saved with a scene.
    """
    for widget in comparison_widgets(ULTRASOUND, FUSED, MR):
        widget.mrmlSliceCompositeNode().SetInteractionFlagsModifier(0)


def set_fusion(fusion: float) -> None:
    """Opacity, 0-1, of the MR-like image over the ultrasound in the fused views."""
    keep_layers_apart()
    for widget in comparison_widgets(FUSED):
        if widget.mrmlSliceCompositeNode().GetForegroundVolumeID():
            widget.mrmlSliceCompositeNode().SetForegroundOpacity(fusion)


def show_labels(labels: slicer.vtkMRMLLabelMapVolumeNode | None) -> None:
    """Outline a label map in the ultrasound views and the fused views; None removes it."""
    keep_layers_apart()
    for widget in comparison_widgets(ULTRASOUND, FUSED):
        composite = widget.mrmlSliceCompositeNode()
        composite.SetLabelVolumeID(labels.GetID() if labels is not None else None)
        composite.SetLabelOpacity(1.0)
        widget.mrmlSliceNode().SetUseLabelOutline(True)


def show_over(role: str, volume: slicer.vtkMRMLScalarVolumeNode | None, opacity: float = 0.4) -> None:
    """Show a volume, such as the reliability map, over the views of a role; None removes it."""
    keep_layers_apart()
    for widget in comparison_widgets(role):
        composite = widget.mrmlSliceCompositeNode()
        composite.SetForegroundVolumeID(volume.GetID() if volume is not None else None)
        composite.SetForegroundOpacity(opacity if volume is not None else 0.0)


def show_comparison(
    ultrasound: slicer.vtkMRMLScalarVolumeNode,
    mr: slicer.vtkMRMLScalarVolumeNode,
    fusion: float = FUSION,
    layout: int = LAYOUT_ID,
) -> bool:
    """Switch to a comparison layout and show the two volumes in it, filled by the head.

    Views that are new or change their size are fitted again as soon as they have settled, which is after this
    function has returned; `settle` waits for it.

    Args:
        fusion: opacity of the MR-like image over the ultrasound in the middle view, 0-1.
        layout: one of LAYOUTS; for a frame, three planes become one.

    Returns:
        False where there are no views (Slicer without a main window).
    """
    global _settling
    manager = slicer.app.layoutManager()
    if manager is None:
        return False
    register()
    if not is_shown():
        manager.layoutLogic().GetLayoutNode().SetAttribute(_PREVIOUS, str(manager.layout))
    if layout == PLANES_LAYOUT_ID and is_frame(ultrasound):
        layout = LAYOUT_ID
    settled = manager.layout == layout and not is_settling()
    if _settling is not None:
        _settling.stop()
    manager.setLayout(layout)
    keep_layers_apart()
    for plane in planes_shown():
        for role, background, foreground in ((ULTRASOUND, ultrasound, None), (FUSED, ultrasound, mr), (MR, mr, None)):
            widget = manager.sliceWidget(view_tag(role, plane))
            composite = widget.mrmlSliceCompositeNode()
            composite.SetBackgroundVolumeID(background.GetID())
            composite.SetForegroundVolumeID(foreground.GetID() if foreground else None)
            composite.SetForegroundOpacity(fusion if foreground else 0.0)
            composite.SetLabelVolumeID(None)
            composite.SetLinkedControl(True)
            composite.SetHotLinkedControl(True)
            widget.mrmlSliceNode().SetViewGroup(VIEW_GROUP + PLANES.index(plane))  # the layout: for new views only
    fit = partial(_fit, ultrasound.GetID(), mr.GetID(), head_region(mr), layout)  # by id: no volume is kept in memory
    if settled:
        fit()
    else:
        _settling = Settling(fit, [one.mrmlSliceNode() for one in comparison_widgets(ULTRASOUND, FUSED, MR)])
    return True


def is_settling() -> bool:
    """Whether views that were opened just now may still change their size and their slice."""
    return _settling is not None and _settling.pending


def settle() -> None:
    """Wait until new views are fitted, for captures. Processes events."""
    for _turn in range(MOST_TURNS):
        if is_settling():
            slicer.app.processEvents()


def _fit(ultrasound_id: str, mr_id: str, region: Region, layout: int) -> bool:
    """Fit the views; returns False where they no longer show these two volumes."""
    manager = slicer.app.layoutManager()
    ultrasound = slicer.mrmlScene.GetNodeByID(ultrasound_id)
    if manager is None or manager.layout != layout or slicer.mrmlScene.IsClosing() or ultrasound is None:
        return False
    for role, shown in ((ULTRASOUND, ultrasound_id), (FUSED, ultrasound_id), (MR, mr_id)):
        for widget in comparison_widgets(role):
            if widget.mrmlSliceCompositeNode().GetBackgroundVolumeID() != shown:
                return False
    for plane in planes_shown():
        fit_views(
            [manager.sliceWidget(view_tag(role, plane)) for role in (ULTRASOUND, FUSED, MR)], ultrasound, region, plane
        )
    return True
