"""The Display section, slices in 3D, and what follows another parent transform."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk

from slicer_walkthrough import views
from slicer_walkthrough.transcript import NotTried
from slicer_walkthrough.walk import Walk, expect

US, FUSED, MR = views.ROLES


def display(walk: Walk, sample: str, output: Any) -> None:
    """Every widget of the section, and back to the layout from before."""
    if output is None:
        with walk.transcript.step(f"{sample}: display"):
            raise NotTried("there is no result to show")
        return
    _fade(walk, sample)
    _overlays(walk, sample)
    _reveal(walk, sample)
    _window(walk, sample, output)
    for name in ("Three planes", "One plane and 3D", "One plane"):
        with walk.transcript.step(f"{sample}: {name.lower()}") as state:
            walk.choose(walk.ui.viewsComboBox, name)
            state["views"] = views.views_state()
            walk.photograph(f"{sample}-{name.lower().replace(' ', '-')}")
            expect(not any(view["blank"] for view in _slices(state["views"]).values()), "a view shows nothing")
            expect(state["views"]["3D marked"] == [True] * name.endswith("3D"), "no 3D view, or unmarked")
    with walk.transcript.step(f"{sample}: back and compare") as state:
        walk.click(walk.ui.backButton)
        state["layout before"] = slicer.app.layoutManager().layout
        walk.click(walk.ui.compareButton)
        state["views"] = views.views_state()


def _slices(state: dict[str, Any]) -> dict[str, Any]:
    return {name: view for name, view in state.items() if name != "3D marked"}


def _fade(walk: Walk, sample: str) -> None:
    with walk.transcript.step(f"{sample}: fade") as state:
        walk.unfold("display")
        walk.tick(walk.ui.reliabilityCheckBox)
        pictures, opacities = {}, {}
        for value in (0.0, 1.0, 0.5):
            walk.ui.fadeSlider.value = value
            walk.rest()
            opacities[value] = {name: view["opacity"] for name, view in _slices(views.views_state()).items()}
            pictures[value] = _picture(FUSED)
        state["opacities"] = [opacities[value] for value in sorted(opacities)]
        walk.tick(walk.ui.reliabilityCheckBox, False)
        expect(_change(pictures[0.0], pictures[1.0]) > 1, "Fade changes nothing")
        for name in (US, MR):
            expect(len({opacities[value].get(name) for value in opacities}) == 1, f"Fade changes {name}")


def _overlays(walk: Walk, sample: str) -> None:
    for box, title in ((walk.ui.contourCheckBox, "contours"), (walk.ui.reliabilityCheckBox, "reliability map")):
        with walk.transcript.step(f"{sample}: {title}") as state:
            before = {role: _picture(role) for role in (US, FUSED, MR)}
            walk.tick(box)
            state["views"] = views.views_state()
            state["changed"] = [role for role in (US, FUSED, MR) if _change(before[role], _picture(role)) > 0.02]
            walk.photograph(f"{sample}-{title.replace(' ', '-')}")
            walk.tick(box, False)
            expect(bool(state["changed"]), f"{title} change no view")
            for role in (US, FUSED, MR):
                expect(_change(before[role], _picture(role)) < 0.02, f"{title} do not go away in {role}")


def _reveal(walk: Walk, sample: str) -> None:
    with walk.transcript.step(f"{sample}: reveal") as state:
        walk.ui.fadeSlider.value = 0.0
        walk.tick(walk.ui.revealCheckBox)
        before, view = _picture(FUSED), slicer.app.layoutManager().sliceWidget(FUSED).sliceView()
        interactor, (width, height) = view.interactor(), view.renderWindow().GetSize()
        interactor.SetEventPosition(width // 2, height // 2)
        interactor.InvokeEvent(vtk.vtkCommand.EnterEvent)
        interactor.InvokeEvent(vtk.vtkCommand.MouseMoveEvent)
        walk.rest()
        state["window at the mouse"] = _change(before, _picture(FUSED)) > 0.1
        walk.photograph(f"{sample}-reveal")
        interactor.InvokeEvent(vtk.vtkCommand.LeaveEvent)
        walk.tick(walk.ui.revealCheckBox, False)
        walk.ui.fadeSlider.value = 0.5
        walk.rest()
        expect(state["window at the mouse"], "nothing shows at the mouse")


def _window(walk: Walk, sample: str, output: Any) -> None:
    with walk.transcript.step(f"{sample}: MR window") as state:
        for text in ("Brain tissue", "Fluid", "Whole range"):
            walk.choose(walk.ui.windowComboBox, text)
            shown = output.GetDisplayNode()
            state[text] = [shown.GetWindowLevelMin(), shown.GetWindowLevelMax()]


def slice_in_3d(walk: Walk, sample: str, output: Any) -> None:
    """The eye of a slice view, opened last."""
    with walk.transcript.step(f"{sample}: synthetic slice in 3D") as state:
        if output is None:
            raise NotTried("there is no result to show")
        manager = slicer.app.layoutManager()
        manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        walk.rest()
        red = manager.sliceWidget("Red")
        red.mrmlSliceCompositeNode().SetBackgroundVolumeID(output.GetID())
        red.sliceLogic().FitSliceToAll()
        walk.rest()
        state["before"] = views.views_state()["3D marked"]
        red.mrmlSliceNode().SetSliceVisible(True)
        for widget in views.three_d_widgets():
            widget.threeDView().resetFocalPoint()
        walk.rest()
        state["eye open"] = views.views_state()["3D marked"]
        walk.photograph(f"{sample}-slice-in-3d")
        red.mrmlSliceNode().SetSliceVisible(False)
        walk.rest()
        state["eye closed"] = views.views_state()["3D marked"]
        expect(state["eye open"] == [True], "the 3D view is not there or not marked")
        expect(not any(state["before"] + state["eye closed"]), "the 3D view is marked without need")


def another_parent(walk: Walk, sample: str, source: Any) -> None:
    """A quarter turn over the ultrasound, hardened at the end: outline and landmarks go along."""
    from USMRISynthesisScene.nodes.manual_alignment import LANDMARKS_ROLE
    from USMRISynthesisScene.nodes.outline import OUTLINE_ROLE

    with walk.transcript.step(f"{sample}: another parent transform") as state:
        companions = [
            source.GetNodeReference(role) if source is not None else None for role in (OUTLINE_ROLE, LANDMARKS_ROLE)
        ]
        if None in companions:
            raise NotTried("there is no outline")
        parent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Probe")
        turn = np.array([[0, -1, 0, 30], [1, 0, 0, 10], [0, 0, 1, -20], [0, 0, 0, 1.0]])
        parent.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(turn))
        before = [_bounds(node) for node in (source, *companions)]
        source.SetAndObserveTransformNodeID(parent.GetID())
        walk.rest()
        moved = [_bounds(node) for node in (source, *companions)]
        state["parents"] = [
            node.GetParentTransformNode().GetName() if node.GetParentTransformNode() else None
            for node in (source, *companions)
        ]
        walk.click(walk.ui.compareButton)
        walk.photograph(f"{sample}-another-parent")
        source.HardenTransform()
        walk.rest()
        hardened = [_bounds(node) for node in (source, *companions)]
        state["moved"] = [float(np.abs(a - b).max()) > 1 for a, b in zip(before, moved, strict=True)]
        state["stay when hardened"] = [float(np.abs(a - b).max()) < 0.1 for a, b in zip(moved, hardened, strict=True)]
        expect(state["parents"] == ["Probe"] * 3 and all(state["moved"]), "outline or landmarks stayed behind")
        expect(all(state["stay when hardened"]), "outline or landmarks moved when the transform was hardened")


def _bounds(node: Any) -> np.ndarray:
    bounds = [0.0] * 6
    node.GetRASBounds(bounds)
    return np.array(bounds)


def _picture(role: str) -> np.ndarray:
    return views.picture_of(slicer.app.layoutManager().sliceWidget(role).sliceView()).astype(int)


def _change(one: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference in grey values; a picture of another size has changed altogether."""
    return float(np.abs(one - other).mean()) if one.shape == other.shape else 255.0
