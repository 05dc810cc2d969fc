"""Answers that no worker should give, and geometry that no volume should have: a sentence, an idle panel, no trace."""

from __future__ import annotations

import gc
import os
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
from played_worker import PlayedWorker
from scenery import add_frame, add_head, add_stack, is_idle, leftovers, play, scene_state, spin_until
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisScene.nodes import nodes
from USMRISynthesisScene.runs.worker_process import WorkerProcess

UNREADABLE = (
    "The result of the synthesis process could not be read. Check the free space in Slicer's temporary "
    "folder and run it again."
)


class Strange(PlayedWorker):
    """Does its part, then spoils what it answers or what it has written."""

    def __init__(self, spoil: Callable[[dict[str, Any], dict[str, Any]], Any]) -> None:
        super().__init__()
        self._spoil = spoil

    def _result(self, request: dict[str, Any], part: str) -> Any:
        result = super()._result(request, part)
        other = self._spoil(request, result)
        return result if other is None else other


def rewrite(field: str, change: Callable[[np.ndarray], np.ndarray], shift: float = 0.0) -> Callable[..., None]:
    """Spoils a file that the worker has written."""

    def spoil(request: dict[str, Any], result: dict[str, Any]) -> None:
        volume = Volume.read(request[field])
        matrix = volume.ijk_to_ras.copy()
        matrix[0, 3] += shift
        Volume(change(volume.array.copy()), matrix).write(request[field], compress=False)

    return spoil


def put(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array = array.astype(np.float32)
        array[tuple(n // 2 for n in array.shape)] = value
        return array

    return change


def field(name: str, value: Any) -> Callable[..., None]:
    return lambda request, result: result.update({name: value})


def without(name: str) -> Callable[..., None]:
    return lambda request, result: result.pop(name)


def instead(value: Any) -> Callable[..., Any]:
    return lambda request, result: value


def unlink(name: str) -> Callable[..., None]:
    return lambda request, result: os.unlink(request[name])


ANSWERS = {
    "other shape": rewrite("output", lambda a: a[:-1]),
    "transposed": rewrite("output", lambda a: a.transpose(2, 1, 0)),
    "elsewhere": rewrite("output", lambda a: a, shift=5.0),
    "NaN": rewrite("output", put(np.nan)),
    "infinite": rewrite("output", put(np.inf)),
    "negative": rewrite("output", put(-1)),
    "beyond its range": rewrite("output", put(1e6)),
    "no image": lambda r, _: Path(r["output"]).write_text("NRRD"),
    "a folder": lambda r, _: (os.unlink(r["output"]), os.mkdir(r["output"]), None)[2],
    "no file": unlink("output"),
    "no map": unlink("confidence"),
    "map of NaN": rewrite("confidence", put(np.nan)),
    "map beyond 1": rewrite("confidence", put(1.5)),
    "other map": rewrite("confidence", lambda a: a[:, :-1]),
    "no masks": unlink("masks"),
    "other masks": rewrite("masks", lambda a: a[..., :-1]),
    "mask 7": rewrite("masks", put(7)),
    "no matrix": without("ras_to_canonical"),
    "singular matrix": field("ras_to_canonical", [0.0] * 16),
    "NaN matrix": field("ras_to_canonical", [np.nan] * 16),
    "short matrix": field("ras_to_canonical", [1, 2, 3]),
    "word matrix": field("ras_to_canonical", "identity"),
    "provenance NaN": field("provenance", {"score": float("nan")}),
    "provenance text": field("provenance", "yes"),
    "provenance number": field("provenance", 5),
    "provenance None": field("provenance", None),
    "result None": lambda r, _: [],
    "result list": instead([1, 2]),
    "result text": instead("done"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_strange_result_is_a_sentence(name: str, panel: Any, ui: Any) -> None:
    panel.logic.synthesizer._worker = Strange(ANSWERS[name])
    add_head(shape=(8, 12, 11), spacing=(9.0, 9.0, 9.0))
    ui.makeReliabilityCheckBox.checked = ui.makeMasksCheckBox.checked = True
    before = scene_state()
    play(panel, "copy")
    spin_until(lambda: is_idle(ui), 20)
    assert ui.statusLabel.text == UNREADABLE
    assert scene_state() == before and leftovers() == []


def test_same_worker_unspoiled_is_done(panel: Any, ui: Any) -> None:
    panel.logic.synthesizer._worker = Strange(lambda request, result: None)
    add_head(shape=(8, 12, 11), spacing=(9.0, 9.0, 9.0))
    ui.makeReliabilityCheckBox.checked = ui.makeMasksCheckBox.checked = True
    play(panel, "copy")
    spin_until(lambda: is_idle(ui), 20)
    assert ui.statusLabel.text.startswith("Done")
    made = nodes.result_of(panel.logic.getParameterNode().inputVolume)
    support = made.GetNodeReference(nodes.RELIABILITY_ROLE)
    for node in (made, support):  # the map is as little a scan as the image
        assert node.GetAttribute(nodes.SYNTHETIC_ATTRIBUTE) == nodes.SYNTHETIC and nodes.is_synthetic(node)


LINES = {
    "other id": {"id": "7", "event": "done", "result": {}},
    "no id": {"id": None, "event": "error", "message": "What?"},
    "other error": {"id": 99, "event": "error", "message": "Other."},
    "number": {"event": 5},
    "list": {"event": ["done"]},
    "progress text": {"event": "progress", "value": "half", "stage": 3},
    "progress huge": {"event": "progress", "value": 1e300},
    "progress None": {"event": "progress", "value": None},
    "log": {"event": "log", "level": ["x"], "text": {"a": 1}},
    "error of lists": {"event": "error", "category": ["x"], "kind": {}, "message": ["a"]},
    "done of nothing": {"event": "done"},
}


@pytest.mark.parametrize("name", LINES)
def test_strange_line_ends_in_a_sentence(
    name: str, panel: Any, ui: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[Any] = []
    monkeypatch.setattr(sys, "excepthook", lambda *what: raised.append(what))
    script = tmp_path / "strange.py"
    script.write_text(
        "import json, sys\nid = json.loads(sys.stdin.readline())['id']\n"
        f"line = {LINES[name]!r}\nprint(json.dumps({{'id': id, **line}}))\n"
        "print(json.dumps({'id': id, 'event': 'progress', 'value': float('nan'), 'stage': 'x'}))\n"
    )
    panel.logic.synthesizer._worker = WorkerProcess(sys.executable, [str(script)])
    add_head(shape=(8, 12, 11), spacing=(9.0, 9.0, 9.0))
    before = scene_state()
    play(panel, "copy")
    spin_until(lambda: is_idle(ui), 20)
    assert ui.statusLabel.text.count(".") >= 1 and raised == [] and scene_state() == before
    panel.logic.synthesizer.close()
    spin_until(lambda: leftovers() == [], 10)


def flat(node: Any) -> None:
    node.SetIJKToRASDirections(1, 0, 0, 1, 0, 0, 0, 0, 1)


def no_number(node: Any) -> None:
    node.SetIJKToRASDirections(float("nan"), 0, 0, 0, 1, 0, 0, 0, 1)


def nowhere(node: Any) -> None:
    node.SetOrigin(float("inf"), 0, 0)


def without_size(node: Any) -> None:
    node.SetSpacing(0, 1, 1)


@pytest.mark.parametrize("spoil", [flat, no_number, nowhere, without_size])
@pytest.mark.parametrize("add", [add_head, add_frame])
def test_impossible_geometry_is_refused(
    spoil: Callable[[Any], None], add: Callable[[], Any], panel: Any, ui: Any
) -> None:
    node = add()
    spoil(node)
    panel.panel.refresh()
    count = slicer.mrmlScene.GetNumberOfNodes()
    play(panel, "copy")
    assert is_idle(ui)
    assert ui.statusLabel.text == (
        f"The position and orientation of {node.GetName()} are not usable. Correct spacing "
        "and directions in the module Volumes, or load it again."
    )
    with pytest.raises(nodes.Refused) as caught:
        nodes.read_volume(node)
    assert caught.value.kind == "geometry"
    ui.spacingButton.click()
    assert ui.statusLabel.text.endswith(".") and slicer.mrmlScene.GetNumberOfNodes() == count
    assert leftovers() == []


def test_impossible_geometry_of_thick_slices_is_refused(panel: Any, ui: Any) -> None:
    stack = add_stack()
    no_number(stack)
    ui.respaceSelector.setCurrentNode(stack)
    ui.respaceButton.click()
    spin_until(lambda: not panel.panel.spacing.running, 10)
    assert "position and orientation" in ui.statusLabel.text


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_alignment_that_cannot_be_inverted_is_refused(value: float, panel: Any, ui: Any) -> None:
    add_head()
    chosen = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Mine")
    chosen.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.diag([value, 1, 1, 1])))
    panel.logic.getParameterNode().alignment = chosen
    play(panel, "copy")
    assert is_idle(ui)
    assert ui.statusLabel.text == (
        "The matrix of Mine cannot be inverted. Choose another transform for the anatomical alignment, or none."
    )


def test_bent_parent_transform_is_told(panel: Any, ui: Any) -> None:
    import vtk

    head = add_head()
    bent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "Breathing")
    spline = vtk.vtkThinPlateSplineTransform()
    points, moved = vtk.vtkPoints(), vtk.vtkPoints()
    for n in range(8):
        corner = [50.0 * (n >> axis & 1) for axis in range(3)]
        points.InsertNextPoint(corner)
        moved.InsertNextPoint([corner[0] + 9 * (n == 3), *corner[1:]])
    spline.SetSourceLandmarks(points)
    spline.SetTargetLandmarks(moved)
    spline.SetBasisToR()
    bent.SetAndObserveTransformToParent(spline)
    head.SetAndObserveTransformNodeID(bent.GetID())
    play(panel, "copy")
    spin_until(lambda: is_idle(ui), 20)
    assert ui.statusLabel.text.startswith("Done") and ui.statusLabel.text.endswith(
        "Fetal head lies under a transform that is not linear: the head is found in the image without that transform."
    )
    assert nodes.result_of(head).GetTransformNodeID() == bent.GetID()


def test_fault_of_a_click_is_a_sentence(panel: Any, ui: Any, tmp_path: Path) -> None:
    add_head()
    play(panel, "copy")
    spin_until(lambda: is_idle(ui), 20)
    made = nodes.result_of(panel.logic.getParameterNode().inputVolume)
    made.SetAttribute(nodes.PROVENANCE_ATTRIBUTE, "{not json")
    ui.exportFolderButton.directory = str(tmp_path)
    ui.saveButton.click()
    assert ui.statusLabel.text.endswith(".") and not list(tmp_path.iterdir())


def test_worker_of_the_panel_imports_nothing_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("torch", "numpy", "SimpleITK", "json", "USMRISynthesisLib"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'harm')!r}, 'a').write({name!r})\n")
    monkeypatch.chdir(tmp_path)
    worker, events = WorkerProcess(), []
    worker.send(
        {"op": "normalise", "input": str(tmp_path / "none.nrrd"), "output": str(tmp_path / "o.nrrd")}, events.append
    )
    spin_until(lambda: bool(events) and events[-1]["event"] in ("done", "error"), 60)
    worker.shutdown()
    assert events[-1]["kind"] == "missing" and not (tmp_path / "harm").exists()


def test_result_of_a_closed_scene_is_not_kept_alive(panel: Any, ui: Any) -> None:
    panel.logic.synthesizer._worker = Strange(lambda request, result: None)
    head = add_head(shape=(8, 12, 11), spacing=(9.0, 9.0, 9.0))
    made = add_head("Output", shape=(8, 12, 11), spacing=(9.0, 9.0, 9.0))
    parameters = panel.logic.getParameterNode()
    parameters.inputVolume, parameters.outputVolume = head, made
    kept = weakref.ref(made)
    play(panel, "copy")
    spin_until(lambda: is_idle(ui), 20)
    assert ui.statusLabel.text.startswith("Done")
    del head, made, parameters
    slicer.mrmlScene.Clear(False)
    slicer.app.processEvents()
    gc.collect()
    assert kept() is None
