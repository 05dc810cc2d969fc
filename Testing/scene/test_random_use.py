"""Whatever a user does in whatever order: no exception, no half-made node, nothing left running, watched or alive.

50 sequences of random actions, reproducible by their seeds. Most run on a worker that is played in this process, since
starting 50 real ones would take minutes; the last ones run on real processes, and look for those that were left behind.
"""
from __future__ import annotations

import gc
import json
import random
import shutil
import sys
import types
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qt
import slicer
from scenery import add_head, is_idle, leftovers, spin_until
from slicer_standin.slice_view import leave_mouse, move_mouse
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisScene.nodes import nodes
from USMRISynthesisScene.nodes.masks import SEGMENTATION_ROLE, SEGMENTS
from USMRISynthesisScene.runs.worker_process import WorkerProcess
from USMRISynthesisScene.views import layout, marking

SEQUENCES = 50
REAL = 4             # of them on real processes
STEPS = 8
PARTS = ("copy", "copy", "copy", "slow", "refuse", "exit 3", "nothing", "doubt", "foreign")


class PlayedWorker:
    """Plays a worker in this process, one event at a time, in the parts of `scripted_worker.py`."""

    def __init__(self) -> None:
        self._steps: list[dict[str, Any]] = []
        self._handler: Callable[[dict[str, Any]], None] | None = None

    def send(self, request: dict[str, Any], on_event: Callable[[dict[str, Any]], None]) -> str:
        assert self._handler is None, "two requests at a time"
        self._handler = on_event
        part = request["model"]
        progress = [{"event": "progress", "value": 0.1 * step, "stage": "Synthesising"} for step in range(4)]
        if part == "refuse" or part.startswith("exit") or (part == "foreign" and not request["trust_model"]):
            kind = {"refuse": "extent", "foreign": "consent"}.get(part, "worker-exit")
            self._steps = [*progress[:1], {"event": "error", "category": "refused" if part != "exit 3" else "failed",
                                           "kind": kind, "message": "It did not work.", "remedy": "Try again."}]
        elif part == "slow":
            self._steps = progress * 1000
        else:
            self._steps = [*progress, {"event": "done", "result": self._result(request, part)}]
        qt.QTimer.singleShot(0, self._next)
        return "1"

    def _result(self, request: dict[str, Any], part: str) -> dict[str, Any]:
        if part != "nothing":
            shutil.copy(request["input"], request["output"])
        image = Volume.read(request["input"])
        for key, array in (("confidence", (image.array > 60).astype(np.float32)),
                           ("masks", (image.array > 0).astype(np.uint8) + (image.array > 60))):
            if request.get(key):
                Volume(array.astype(array.dtype), image.ijk_to_ras).write(request[key])
        score = 0.2 if part == "doubt" else 0.9
        if request["op"] == "respace":
            return {"provenance": {"notice": nodes.SYNTHETIC, "operation": "respace"}}
        return {"ras_to_canonical": request["transform"] or np.eye(4).ravel().tolist(), "masks": request.get("masks"),
                "confidence": request.get("confidence"), "provenance": {
                    "notice": nodes.SYNTHETIC, "alignment": {"score": score}, "alignment_trusted": score > 0.5}}

    def _next(self) -> None:
        if self._handler is None:
            return
        event, handler = self._steps.pop(0), self._handler
        if event["event"] in ("done", "error"):
            self._handler = None
        else:
            qt.QTimer.singleShot(0, self._next)
        handler(event)

    def wait(self, milliseconds: int) -> None:
        slicer.app.processEvents()

    def kill(self) -> None:
        self._handler = None

    def shutdown(self) -> None:
        self.kill()


class User:
    """Does what it is told to the panel."""

    def __init__(self, host: Any, module: Any, chance: random.Random, folder: Path) -> None:
        self.host, self.module, self.chance, self.folder = host, module, chance, folder
        self.real = False
        self.loaded: list[weakref.ref[Any]] = []
        self.open_panel()

    def open_panel(self) -> None:
        self.widget = self.host.open_module(self.module)
        self.widget.parent.show()
        ui = self.widget.ui
        ui.batchInputButton.directory, ui.batchOutputButton.directory = str(self.folder / "empty"), str(self.folder)
        ui.exportFolderButton.directory = str(self.folder)
        self.set_worker()

    def set_worker(self) -> None:
        script = str(Path(__file__).with_name("scripted_worker.py"))
        self.widget.logic.synthesizer._worker = (
            WorkerProcess(sys.executable, [script]) if self.real else PlayedWorker())

    @property
    def ui(self) -> Any:
        return self.widget.ui

    def volumes(self) -> list[Any]:
        return slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")

    def load(self) -> None:
        node = add_head(f"Head {self.chance.randrange(3)}", (8, 8, 8), (12, 15, 14))
        self.loaded.append(weakref.ref(node))
        if self.chance.random() < 0.4:
            parent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Probe")
            node.SetAndObserveTransformNodeID(parent.GetID())

    def choose(self) -> None:
        for selector in (self.ui.inputSelector, self.ui.outputSelector, self.ui.alignmentSelector,
                         self.ui.respaceSelector):
            wanted = [None, *self.volumes()] if selector is not self.ui.alignmentSelector else [
                None, *slicer.util.getNodesByClass("vtkMRMLLinearTransformNode")]
            if self.chance.random() < 0.5:
                selector.setCurrentNode(self.chance.choice(wanted))

    def run(self) -> None:
        if not is_idle(self.ui):
            return
        self.ui.modelComboBox.setCurrentText(self.chance.choice(PARTS))
        for box in (self.ui.makeReliabilityCheckBox, self.ui.makeMasksCheckBox, self.ui.showComparisonCheckBox):
            box.checked = self.chance.random() < 0.5
        self.ui.runButton.click()
        self.wait()

    def wait(self) -> None:
        """Long enough for some, not for all."""
        if self.real:
            for _ in range(self.chance.randrange(30)):
                slicer.app.processEvents()
                qt.QThread.msleep(5)
        for _ in range(self.chance.randrange(12)):
            slicer.app.processEvents()

    def cancel(self) -> None:
        if not is_idle(self.ui):
            self.ui.runButton.click()

    def close_scene(self) -> None:
        slicer.mrmlScene.Clear(False)

    def undo(self) -> None:
        slicer.mrmlScene.SetUndoOn()
        slicer.mrmlScene.SaveStateForUndo()
        slicer.mrmlScene.Undo()

    def delete(self) -> None:
        """The input, also while it runs, or anything else that is there."""
        chosen = self.widget.logic.getParameterNode().inputVolume
        one = chosen if self.chance.random() < 0.5 else self.chance.choice(self.volumes() or [None])
        if one is not None:
            slicer.mrmlScene.RemoveNode(one)

    def switch_module(self) -> None:
        self.widget.parent.hide()
        slicer.app.processEvents()
        self.widget.parent.show()
        self.widget.enter()

    def reload(self) -> None:
        self.widget.cleanup()
        self.widget.parent.close()
        self.open_panel()

    def click_about(self) -> None:
        """Any enabled button, box or list but those that open a dialog."""
        names = ("compareButton", "backButton", "placeLandmarksButton", "useLandmarksButton", "outlineCheckBox",
                 "contourCheckBox", "revealCheckBox", "reliabilityCheckBox", "shareTransformButton",
                 "allFramesCheckBox",
                 "spacingButton", "greyscaleButton", "openRegistrationButton", "saveButton", "batchButton",
                 "modelFolderButton", "respaceButton", "unreliableCheckBox", "offlineButton")
        for name in self.chance.sample(names, 4):
            if getattr(self.ui, name).enabled:
                getattr(self.ui, name).click()
        for box in (self.ui.viewsComboBox, self.ui.planesComboBox):
            if box.enabled:
                index = self.chance.randrange(box.count)
                box.currentIndex = index
                box.activated.emit(index)
        for widget in layout.comparison_widgets(layout.FUSED):
            move_mouse(widget, self.chance.randrange(300), self.chance.randrange(300))
            leave_mouse(widget)
        self.ui.fadeSlider.setValue(self.chance.random())

    def save_and_load(self) -> None:
        bundle = str(self.folder / "scene.mrb")
        if slicer.mrmlScene.WriteToMRB(bundle):
            slicer.mrmlScene.Clear(False)
            slicer.mrmlScene.ReadFromMRB(bundle, True)

    ACTIONS = (load, load, load, choose, run, run, run, run, wait, cancel, close_scene, undo, delete, delete,
               switch_module, reload, click_about, click_about, save_and_load)


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What was raised where nobody catches it: in Qt's slots and VTK's observers."""
    import traceback
    import warnings

    seen: list[str] = []
    monkeypatch.setattr(sys, "excepthook", lambda *what: seen.append("".join(traceback.format_exception(*what))))
    monkeypatch.setattr(sys, "unraisablehook", lambda what: seen.append(f"{what.exc_value!r} in {what.object!r}"))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        yield seen
        # The mixin warns of observers that are added twice or were not there.
        seen += [str(one.message) for one in warned if "observer" in str(one.message)]
    assert seen == []


def check_whole() -> None:
    """Every result in the scene is complete."""
    for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
        if node.GetAttribute(nodes.PROVENANCE_ATTRIBUTE):
            assert node.GetImageData() is not None and node.GetImageData().GetNumberOfPoints() > 1
            assert node.GetDisplayNode() is not None and nodes.is_synthetic(node)
            assert json.loads(node.GetAttribute(nodes.PROVENANCE_ATTRIBUTE))["notice"] == nodes.SYNTHETIC
            segmentation = node.GetNodeReference(SEGMENTATION_ROLE)
            if segmentation is not None:
                assert segmentation.GetSegmentation().GetNumberOfSegments() == len(SEGMENTS)
        elif node.GetNodeReference(nodes.SOURCE_ROLE) is None and not nodes.is_synthetic(node):
            assert node.GetName().startswith(("Head", "Volume")), node.GetName()   # nothing nameless or half-made
    for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        assert node.GetNumberOfDisplayNodes() > 0


def kept_by(loaded: list[weakref.ref[Any]]) -> list[str]:
    """Which objects keep volumes of a closed scene alive. (Qt for Python may lose count of one by itself.)"""
    holders = gc.get_referrers(*[one() for one in loaded if one() is not None])
    return [f"{type(holder).__name__} {list(holder)[:9] if isinstance(holder, dict) else ''}" for holder in holders
            if not isinstance(holder, types.FrameType)]


@pytest.mark.parametrize("block", range(5))
def test_random_sequences_of_actions_leave_nothing_broken_or_behind(
        block: int, host: Any, module: Any, faults: list[str], three_planes: Path, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(block)
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda *_: chance.random() < 0.5)
    monkeypatch.setattr(qt.QFileDialog, "getExistingDirectory",
                        lambda *_: str(chance.choice([tmp_path / "none", three_planes, ""])))
    marking.keep_marked()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    user = User(host, module, chance, tmp_path)
    for index in range(SEQUENCES // 5):
        user.real = block == 4 and index >= SEQUENCES // 5 - REAL
        user.set_worker()
        done = []
        for action in [User.load, *chance.choices(User.ACTIONS, k=STEPS)]:
            done.append(action.__name__)
            action(user)
            check_whole()
            assert faults == [], f"block {block}, sequence {index}: {done}: {faults[0]}"
        if is_idle(user.ui) is False and chance.random() < 0.5:
            user.cancel()
        slicer.mrmlScene.Clear(False)
        spin_until(lambda: is_idle(user.ui), 20)
        assert user.volumes() == [] and faults == [], f"block {block}, sequence {index}: {done}"
        gc.collect()
        assert kept_by(user.loaded) == [], f"in memory after {done}"
        user.loaded.clear()
    panel = user.widget.panel
    user.widget.cleanup()
    assert panel.Observations == [] and panel.display._reveal is None
    assert [one.node for one in (panel._source, panel._choices, panel.alignment._followed)] == [None] * 3
    user.widget.parent.close()
    spin_until(lambda: leftovers() == [], 20)
    slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
