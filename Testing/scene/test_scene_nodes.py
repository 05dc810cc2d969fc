"""The nodes that a run adds to the scene. The worker copies its input, so voxels can be compared exactly."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
import vtk
from scenery import add_frame, add_head, ijk_to_ras, leftovers, scene_state
from USMRISynthesisLib.errors import Failed, Refused
from USMRISynthesisScene.nodes import nodes
from USMRISynthesisScene.runs.run import Reports
from USMRISynthesisScene.runs.synthesis import Synthesizer
from USMRISynthesisScene.runs.worker_process import WorkerProcess

ROTATION = np.array([[0.8, -0.36, 0.48], [0.6, 0.48, -0.64], [0.0, 0.8, 0.6]])


@pytest.fixture
def synthesizer() -> Any:
    worker = WorkerProcess(sys.executable, [str(Path(__file__).with_name("scripted_worker.py"))])
    synthesizer = Synthesizer(worker)
    yield synthesizer
    synthesizer.close()
    assert leftovers() == []


def run(synthesizer: Synthesizer, source: Any, output: Any = None, **options: Any) -> Any:
    synthesizer.start(source, output, **{"model": "copy", **options})
    return synthesizer.wait()


@pytest.mark.parametrize(
    "directions",
    [np.eye(3), ROTATION, ROTATION * [1, 1, -1], np.eye(3)[:, [2, 0, 1]]],
    ids=["axis-aligned", "oblique", "left-handed", "permuted"],
)
@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (3.0, 1.5, 2.0)], ids=["isotropic", "anisotropic"])
def test_result_lies_on_the_grid_of_its_input(synthesizer: Any, directions: Any, spacing: Any) -> None:
    source = add_head(directions=directions, spacing=spacing)
    output = run(synthesizer, source)
    assert output.GetImageData().GetDimensions() == source.GetImageData().GetDimensions()
    np.testing.assert_allclose(ijk_to_ras(output), ijk_to_ras(source), atol=1e-9)
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(output), slicer.util.arrayFromVolume(source))


def test_frame_stays_a_volume_of_one_slice(synthesizer: Any) -> None:
    source = add_frame()
    output = run(synthesizer, source)
    assert output.GetImageData().GetDimensions()[2] == 1
    np.testing.assert_allclose(ijk_to_ras(output), ijk_to_ras(source), atol=1e-9)


def test_result_has_mark_provenance_and_source(synthesizer: Any) -> None:
    source = add_head("Patient A")
    output = run(synthesizer, source)
    assert output.GetName() == "Patient A MR-like (SYNTHETIC - not for diagnosis)"
    assert output.GetNodeReference("USMRISynthesis.SourceUltrasound") is source
    assert json.loads(output.GetAttribute("USMRISynthesis.Provenance"))["model"]["name"] == "copy"
    assert output.GetDisplayNode().GetWindowLevelMin() == 0
    assert output.GetDisplayNode().GetWindowLevelMax() == 1000
    assert not output.GetDisplayNode().GetAutoWindowLevel()
    assert output.GetDisplayNode() is not source.GetDisplayNode()


def test_second_result_gets_a_name_of_its_own(synthesizer: Any) -> None:
    source = add_head()
    first, second = run(synthesizer, source), run(synthesizer, source)
    assert first is not second
    assert first.GetName() != second.GetName()
    assert "SYNTHETIC" in second.GetName()


def test_result_moves_with_the_parent_transform_of_its_input(synthesizer: Any) -> None:
    source = add_head()
    parent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Probe")
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = ROTATION, (40, -20, 10)
    parent.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    source.SetAndObserveTransformNodeID(parent.GetID())
    output = run(synthesizer, source)
    assert output.GetTransformNodeID() == parent.GetID()
    np.testing.assert_allclose(ijk_to_ras(output), ijk_to_ras(source), atol=1e-9)
    bounds = [[0.0] * 6, [0.0] * 6]
    source.GetRASBounds(bounds[0])
    output.GetRASBounds(bounds[1])
    np.testing.assert_allclose(bounds[1], bounds[0])
    canonical = output.GetNodeReference("USMRISynthesis.CanonicalTransform")
    assert canonical.GetTransformNodeID() is None  # from local RAS, so under nothing


def test_canonical_transform_is_a_node_and_keeps_its_scale(synthesizer: Any) -> None:
    output = run(synthesizer, add_head("Patient A"))
    node = output.GetNodeReference("USMRISynthesis.CanonicalTransform")
    assert node.GetName() == "Patient A to canonical fetal space"
    matrix = slicer.util.arrayFromTransformMatrix(node)
    np.testing.assert_allclose(matrix, [[1.1, 0, 0, 5], [0, 1.1, 0, 6], [0, 0, 1.1, 7], [0, 0, 0, 1]])


def test_transform_that_is_passed_in_reaches_the_worker(synthesizer: Any) -> None:
    given = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = np.eye(4)
    matrix[:3, 3] = (1, 2, 3)
    given.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    source = add_head()
    for transform in (given, matrix):
        output = run(synthesizer, source, transform=transform)
        node = output.GetNodeReference("USMRISynthesis.CanonicalTransform")
        np.testing.assert_allclose(slicer.util.arrayFromTransformMatrix(node), matrix)


def test_result_stands_beside_its_input_in_the_subject_hierarchy(synthesizer: Any) -> None:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    subject = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "Mother")
    study = hierarchy.CreateStudyItem(subject, "Week 24")
    source = add_head()
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(source), study)
    output = run(synthesizer, source)
    canonical = output.GetNodeReference("USMRISynthesis.CanonicalTransform")
    for node in (output, canonical):
        assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study


def test_chosen_output_is_written_into_and_keeps_its_transform_node(synthesizer: Any) -> None:
    source = add_head()
    output = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Mine")
    assert run(synthesizer, source, output) is output
    canonical = output.GetNodeReference("USMRISynthesis.CanonicalTransform")
    count = slicer.mrmlScene.GetNumberOfNodes()
    assert run(synthesizer, source, output) is output
    assert output.GetNodeReference("USMRISynthesis.CanonicalTransform") is canonical
    assert slicer.mrmlScene.GetNumberOfNodes() == count


def test_worker_stays_warm_between_runs(synthesizer: Any) -> None:
    source = add_head()
    run(synthesizer, source)
    pid = synthesizer._worker.pid
    run(synthesizer, source)
    assert pid == synthesizer._worker.pid


def test_garbage_between_the_events_ends_up_in_the_log(synthesizer: Any) -> None:
    lines: list[str] = []
    output = run(
        synthesizer, add_head(), model="chatter", reports=Reports(message=lambda level, text: lines.append(text))
    )
    assert output is not None
    assert "Hello from a library" in lines


@pytest.mark.parametrize(
    ("part", "kind", "sentence"),
    [
        ("refuse", Refused, "The image is 5 mm wide. Correct the spacing."),
        ("exit 0", Failed, "ended before it was done"),
        ("exit 3", Failed, "exit code 3"),
        ("nothing", Failed, "could not be read"),
    ],
)
def test_failed_run_leaves_the_scene_as_it_was(synthesizer: Any, part: str, kind: type, sentence: str) -> None:
    source = add_head()
    before = scene_state()
    with pytest.raises(kind, match=sentence):
        run(synthesizer, source, model=part)
    assert scene_state() == before
    assert run(synthesizer, source) is not None


def unusable_inputs() -> dict[str, Any]:
    scene = slicer.mrmlScene
    empty = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Empty")
    colour = slicer.util.addVolumeFromArray(
        np.zeros((4, 5, 6, 3), np.uint8), name="Screenshot", nodeClassName="vtkMRMLVectorVolumeNode"
    )
    labels = slicer.util.addVolumeFromArray(
        np.ones((4, 5, 6), np.uint8), name="Labels", nodeClassName="vtkMRMLLabelMapVolumeNode"
    )
    return {
        "No ultrasound volume is selected": None,
        "Empty holds no image": empty,
        "Screenshot is in colour": colour,
        "Labels is a label map": labels,
    }


def test_unusable_nodes_are_refused_with_a_remedy(synthesizer: Any) -> None:
    for sentence, node in unusable_inputs().items():
        with pytest.raises(Refused, match=sentence) as caught:
            run(synthesizer, node)
        assert caught.value.remedy.endswith(".")


def test_input_cannot_be_its_own_output(synthesizer: Any) -> None:
    source = add_head()
    with pytest.raises(Refused, match="the same volume"):
        run(synthesizer, source, source)


def test_transform_that_is_no_matrix_is_refused(synthesizer: Any) -> None:
    source = add_head()
    warp = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode", "Warp")
    warp.SetAndObserveTransformToParent(vtk.vtkThinPlateSplineTransform())
    for transform in (warp, np.zeros((4, 4)), np.eye(3)):
        with pytest.raises(Refused, match=r"not a linear transform|not an invertible"):
            run(synthesizer, source, transform=transform)


def test_result_whose_input_was_deleted_is_not_added(synthesizer: Any) -> None:
    source = add_head()
    synthesizer.start(source, model="copy")
    slicer.mrmlScene.RemoveNode(source)
    before = scene_state()
    with pytest.raises(Exception, match="Fetal head was removed while it was worked on"):
        synthesizer.wait()
    assert scene_state() == before


def test_source_of_other_volumes_is_none() -> None:
    assert nodes.source_of(None) is None
    assert nodes.source_of(add_head()) is None
