"""The section Reduce slice spacing: a volume with thin slices beside its source, and no change on failure."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import slicer
from scenery import PICTURES, add_stack, ijk_to_ras, leftovers, play, scene_state, spin_until, when_progress
from USMRISynthesisScene.nodes import nodes
from USMRISynthesisScene.panel.spacing import RespaceOptions
from USMRISynthesisScene.runs import respacing

BUTTON = "Reduce slice spacing"


@pytest.fixture
def stack(panel: Any, ui: Any) -> Any:
    node = add_stack()
    ui.respaceCollapsibleButton.collapsed = False
    ui.respaceSelector.setCurrentNode(node)
    return node


@pytest.fixture
def play_part(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the section request a behaviour of the scripted worker in place of a model."""

    def choose(part: str) -> None:
        monkeypatch.setattr(
            "USMRISynthesisScene.panel.spacing.RespaceOptions",
            lambda *given, **named: RespaceOptions(*given, **{**named, "model": part}),
        )

    return choose


def is_over(ui: Any) -> bool:
    return ui.respaceButton.text == BUTTON


def made(source: Any) -> Any:
    found = [
        node
        for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        if node.GetNodeReference(respacing.SOURCE_ROLE) is source
    ]
    assert len(found) == 1
    return found[0]


def test_button_is_disabled_without_a_volume(panel: Any, ui: Any) -> None:
    ui.respaceSelector.setCurrentNode(None)
    assert not ui.respaceButton.enabled
    ui.respaceSelector.setCurrentNode(add_stack())
    assert ui.respaceButton.enabled


def test_the_real_worker_makes_thin_slices_in_the_same_place(panel: Any) -> None:
    node, ui = add_stack(), panel.ui
    ui.respaceCollapsibleButton.collapsed = False
    ui.respaceSelector.setCurrentNode(node)
    ui.respaceSpacingSpinBox.value = 1.1
    ui.respaceConsistencyCheckBox.checked = True
    ui.respaceButton.click()
    assert ui.respaceButton.text == "Cancel" and not ui.runButton.enabled and not ui.batchButton.enabled
    assert ui.runButton.toolTip.startswith("Wait until the slice spacing")
    spin_until(lambda: is_over(ui))
    assert ui.statusLabel.text.startswith("Done: Fetal MR thin slices"), ui.statusLabel.text
    thin = made(node)
    assert slicer.util.arrayFromVolume(thin).shape == (27, 40, 36)
    assert np.allclose(thin.GetSpacing(), (1.1, 1.1, 1.1))
    before, after = ijk_to_ras(node), ijk_to_ras(thin)
    for corner in np.array(np.meshgrid((0, 1), (0, 1), (0, 1))).reshape(3, -1).T:  # voxel edges, not centres
        old = before @ [*(corner * (36, 40, 9) - 0.5), 1]
        new = after @ [*(corner * (36, 40, 27) - 0.5), 1]
        assert np.allclose(old, new, atol=1e-6)
    assert thin.GetTransformNodeID() == node.GetTransformNodeID()
    assert nodes.is_synthetic(thin) and nodes.SYNTHETIC in thin.GetName()
    provenance = json.loads(thin.GetAttribute(nodes.PROVENANCE_ATTRIBUTE))
    assert provenance["operation"] == "respace" and provenance["slices"]["after"] == 27
    assert provenance["consistency"] < 0.005
    assert (thin.GetDisplayNode().GetWindow(), thin.GetDisplayNode().GetLevel()) == (321, 123)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(thin)) == hierarchy.GetItemParent(
        hierarchy.GetItemByDataNode(node)
    )
    panel.parent.resize(420, 900)
    slicer.app.processEvents()
    PICTURES.mkdir(parents=True, exist_ok=True)
    panel.parent.grab().save(str(PICTURES / "panel-spacing.png"))


def test_a_refusal_is_one_sentence_and_the_scene_does_not_change(panel: Any) -> None:
    node = add_stack(side_mm=1.2)
    panel.ui.respaceSelector.setCurrentNode(node)
    before = scene_state()
    panel.ui.respaceButton.click()
    spin_until(lambda: is_over(panel.ui))
    assert panel.ui.statusLabel.text.startswith("The voxels are isotropic already, or nearly")
    assert scene_state() == before


def test_cancel_stops_at_once_and_leaves_nothing(panel: Any, ui: Any, stack: Any, play_part: Any) -> None:
    play_part("slow")
    before = scene_state()
    when_progress(panel, 20, ui.respaceButton.click)
    ui.respaceButton.click()
    spin_until(lambda: is_over(ui))
    assert ui.statusLabel.text == "Cancelled. Nothing was changed."
    assert scene_state() == before and ui.respaceButton.enabled
    spin_until(lambda: leftovers() == [])


@pytest.mark.parametrize("part", ["exit 3", "nothing"])
def test_a_crash_or_a_missing_result_leaves_the_scene(
    panel: Any, ui: Any, stack: Any, play_part: Any, part: str
) -> None:
    play_part(part)
    before = scene_state()
    ui.respaceButton.click()
    spin_until(lambda: is_over(ui))
    assert ui.statusLabel.text and not ui.statusLabel.text.startswith("Done")
    assert scene_state() == before
    assert [left for left in leftovers() if not left.startswith("process")] == []  # a warm worker may stay


def test_an_mr_like_result_can_be_the_input_and_keeps_its_mark(panel: Any, ui: Any, play_part: Any) -> None:
    node = add_stack("Head MR-like (SYNTHETIC - not for diagnosis)")
    node.SetAttribute(nodes.SYNTHETIC_ATTRIBUTE, nodes.SYNTHETIC)
    assert respacing.read_mr(node).metadata[nodes.SYNTHETIC_ATTRIBUTE] == nodes.SYNTHETIC
    play_part("copy")
    ui.respaceSelector.setCurrentNode(node)
    ui.respaceButton.click()
    spin_until(lambda: is_over(ui))
    assert made(node).GetName() == "Head MR-like thin slices (SYNTHETIC - not for diagnosis)"


def test_a_source_removed_meanwhile_gives_no_result(panel: Any, ui: Any, stack: Any, play_part: Any) -> None:
    play_part("copy")
    ui.respaceButton.click()
    slicer.mrmlScene.RemoveNode(stack)
    spin_until(lambda: is_over(ui))
    assert ui.statusLabel.text == "Fetal MR was removed while it was worked on. Nothing was added to the scene."


def test_closing_the_scene_cancels(panel: Any, ui: Any, stack: Any, play_part: Any) -> None:
    play_part("slow")
    ui.respaceButton.click()
    slicer.mrmlScene.Clear()
    spin_until(lambda: is_over(ui))
    spin_until(lambda: leftovers() == [])
    assert slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") == []


def test_the_console_call_blocks_and_returns_the_node(panel: Any, ui: Any) -> None:
    node = add_stack()
    heard: list[float] = []
    thin = panel.logic.respace(node, spacing=1.1, model="copy", progress=lambda value, stage: heard.append(value))
    assert thin is made(node) and heard
    from USMRISynthesisLib.errors import Failed, Refused

    with pytest.raises(Refused, match="5 mm wide"):
        panel.logic.respace(node, model="refuse")
    with pytest.raises(Failed):
        panel.logic.respace(node, model="exit 3")


def test_while_a_synthesis_runs_it_waits(panel: Any, ui: Any, stack: Any) -> None:
    panel.logic.getParameterNode().inputVolume = stack
    play(panel, "slow")
    assert not ui.respaceButton.enabled
    ui.runButton.click()
    assert ui.respaceButton.enabled


@pytest.mark.parametrize("source", ["DICOM", "header"])
def test_modality_is_passed_to_the_worker(panel: Any, source: str) -> None:
    node = add_stack()
    assert "Modality" not in respacing.read_mr(node).metadata
    if source == "DICOM":
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
        hierarchy.SetItemAttribute(hierarchy.GetItemByDataNode(node), "DICOM.Modality", "MR")
    else:
        node.SetAttribute("Modality", "MR")
    assert respacing.read_mr(node).metadata["Modality"] == "MR"


def test_a_label_map_is_refused(panel: Any) -> None:
    from USMRISynthesisLib.errors import Refused

    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Labels")
    with pytest.raises(Refused, match="Labels is a label map"):
        respacing.read_mr(labels)
    with pytest.raises(Refused, match="No MR volume is selected"):
        respacing.read_mr(None)
