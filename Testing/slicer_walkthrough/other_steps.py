"""Alignment, registration, slice spacing, batch and export."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import slicer

from slicer_walkthrough.transcript import NotTried
from slicer_walkthrough.walk import Walk, expect, listed_nodes, need_torch

MARKS = ("Front", "Back", "Top")


def alignment(walk: Walk, sample: str, source: Any, output: Any) -> None:
    """Three landmarks clicked into the red view, the transform that they give, the outline."""
    with walk.transcript.step(f"{sample}: landmarks") as state:
        if output is None:
            raise NotTried("there is no result whose head could be marked")
        walk.unfold("alignment")
        walk.click(walk.ui.useLandmarksButton)
        state["too few"] = walk.ui.statusLabel.text
        slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode().SetBackgroundVolumeID(source.GetID())
        walk.rest()
        walk.click(walk.ui.placeLandmarksButton)
        state["prompt"] = walk.ui.statusLabel.text
        _place(walk, source, _ends_of_the_head(output))
        walk.click(walk.ui.useLandmarksButton)
        state["status"] = walk.ui.statusLabel.text
        state["outline"] = walk.ui.outlineCheckBox.checked
        lists = [one["name"] for one in listed_nodes() if one["class"].startswith("vtkMRMLMarkups")]
        state["lists"] = lists
        interaction = slicer.mrmlScene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
        state["mouse is free"] = interaction is None or (
            interaction.GetCurrentInteractionMode() != slicer.vtkMRMLInteractionNode.Place
        )
        walk.click(walk.ui.compareButton)
        walk.photograph(f"{sample}-landmarks")
        expect(state["status"].startswith("Aligned by landmarks"), state["status"])
        expect(state["outline"] and len(lists) == 1, "no outline, or a stray list")
        expect(state["mouse is free"], "place mode goes on")


def _ends_of_the_head(output: Any) -> np.ndarray:
    """(3, 3) world mm: the ends of the head along +A and -A and its top, by the alignment of the synthesis."""
    from USMRISynthesisScene.nodes import nodes

    to_canonical = nodes.read_transform(output.GetNodeReference(nodes.TRANSFORM_ROLE))
    points = np.array([[0, 50, 0, 1], [0, -50, 0, 1], [0, 5, 40, 1.0]])
    return (points @ np.linalg.inv(to_canonical).T)[:, :3]


def _place(walk: Walk, source: Any, points: np.ndarray) -> None:
    """Click at each point in the red view; where the view takes no click, the point is set by its coordinates."""
    from USMRISynthesisScene.nodes.manual_alignment import LANDMARKS_ROLE

    widget = slicer.app.layoutManager().sliceWidget("Red")
    landmarks = source.GetNodeReference(LANDMARKS_ROLE)
    by_clicks = 0
    for index, point in enumerate(points):
        node = widget.mrmlSliceNode()
        widget.sliceLogic().FitSliceToAll()
        node.JumpSliceByCentering(*point)
        walk.rest()
        width, height = widget.sliceView().renderWindow().GetSize()
        before = landmarks.GetNumberOfDefinedControlPoints()
        interactor = widget.sliceView().interactor()
        for event in ("EnterEvent", "MouseMoveEvent", "LeftButtonPressEvent", "LeftButtonReleaseEvent"):
            interactor.SetEventPosition(width // 2, height // 2)
            interactor.InvokeEvent(event)
        walk.rest()
        by_clicks += landmarks.GetNumberOfDefinedControlPoints() > before
        if landmarks.GetNumberOfDefinedControlPoints() == before:
            landmarks.SetNthControlPointPositionWorld(index, *point)
    walk.transcript.application["landmarks placed by clicks"] = int(by_clicks)
    expect([landmarks.GetNthControlPointLabel(index) for index in range(3)] == list(MARKS), "other landmarks")


def registration(walk: Walk, sample: str, source: Any, output: Any) -> None:
    with walk.transcript.step(f"{sample}: the ultrasound follows the result") as state:
        if output is None:
            raise NotTried("there is no result to register")
        walk.unfold("registration")
        walk.click(walk.ui.shareTransformButton)
        state["refused"] = walk.ui.statusLabel.text
        found = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Registration")
        shift = np.eye(4)
        shift[:3, 3] = 5, -4, 3
        found.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(shift))
        output.SetAndObserveTransformNodeID(found.GetID())
        walk.click(walk.ui.shareTransformButton)
        state["status"], state["nodes"] = walk.ui.statusLabel.text, listed_nodes()
        expect(source.GetTransformNodeID() == found.GetID(), "the ultrasound does not follow")
    with walk.transcript.step(f"{sample}: registration module") as state:
        if output is None:
            raise NotTried("there is no result to register")
        if not walk.ui.registrationComboBox.enabled:
            raise NotTried(walk.ui.openRegistrationButton.toolTip)
        fixed = slicer.modules.volumes.logic().CloneVolume(source, "Fixed")
        walk.ui.fixedSelector.setCurrentNode(fixed)
        tool = walk.ui.registrationComboBox.currentText
        walk.click(walk.ui.openRegistrationButton)
        state["tool"], state["status"] = tool, walk.ui.statusLabel.text
        slicer.util.selectModule("USMRISynthesis")
        walk.rest()
        expect("was opened" in state["status"], state["status"])


def respacing(walk: Walk) -> None:
    """A smooth made-up stack of thick, oblique slices."""
    with walk.transcript.step("slice spacing") as state:
        need_torch()
        axes = [np.sin(np.linspace(0, turns, size)) for turns, size in ((5, 9), (8, 48), (7, 40))]
        array = 400 + 130 * (axes[0][:, None, None] + axes[1][None, :, None] + axes[2][None, None, :])
        stack = slicer.util.addVolumeFromArray(array.astype(np.int16), name="Stack")
        matrix = np.diag([1.1, -1.1, 3.3, 1.0])
        matrix[:3, 3] = 4, -30, 11
        stack.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrix))
        stack.CreateDefaultDisplayNodes()
        walk.unfold("respace")
        walk.ui.respaceSelector.setCurrentNode(stack)
        walk.rest()
        state.update(walk.run(walk.ui.respaceButton, "Reduce slice spacing"))
        expect(state["status"].startswith("Done"), state["status"])
        thin = slicer.util.getNode("Stack thin slices*")
        state["name"], state["spacing"] = thin.GetName(), [float(one) for one in thin.GetSpacing()]
        state["slices"] = thin.GetImageData().GetDimensions()[2]
        walk.photograph("slice-spacing")


def batch(walk: Walk) -> None:
    """Two samples and a file that is no image, twice: the second time nothing is done again."""
    from USMRISynthesisScene.files.sample_data import FILES, sample_file

    with walk.transcript.step("batch") as state:
        need_torch()
        source, target = walk.folder / "batch-in", walk.folder / "batch-out"
        for folder in (source, target):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        sure = [name for name in FILES if name != "FetalHeadReal"]  # its confidence is near the limit
        for name in sure:
            shutil.copy(sample_file(name), source)
        (source / "no-image.nrrd").write_text("This is no image.\n", encoding="utf-8")
        walk.unfold("batch")
        walk.ui.batchInputButton.directory, walk.ui.batchOutputButton.directory = str(source), str(target)
        table = walk.ui.batchTable
        for turn in ("first", "again"):
            state[turn] = walk.run(walk.ui.batchButton, "Run batch")["status"]
            state[f"{turn}, rows"] = [
                [table.item(row, column).text() for column in (0, 1)] for row in range(table.rowCount)
            ]
        state["files"] = sorted(path.name for path in target.iterdir())
        walk.photograph("batch")
        expect(sum(row[1].startswith("done") for row in state["first, rows"]) == len(sure), state["first"])


def export(walk: Walk, sample: str, output: Any) -> None:
    with walk.transcript.step(f"{sample}: export") as state:
        if output is None:
            raise NotTried("there is no result to export")
        folder = walk.folder / f"export-{sample}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        walk.unfold("export")
        walk.ui.exportFolderButton.directory = str(folder)
        for button in (walk.ui.reportButton, walk.ui.captureButton, walk.ui.saveButton, walk.ui.dicomButton):
            walk.click(button)
            state[button.objectName] = walk.ui.statusLabel.text
        names = sorted(path.name for path in folder.rglob("*") if path.is_file())
        state["files"] = [name for name in names if not name.endswith(".dcm")]
        state["DICOM files"] = len(names) - len(state["files"])
        for button in ("reportButton", "captureButton", "saveButton", "dicomButton"):
            expect(state[button].startswith("Written"), state[button])
