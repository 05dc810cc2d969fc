"""Whatever a user does in whatever order: no exception, no half-made node, nothing left running, watched or alive.

50 sequences of random actions, reproducible by their seeds. Most run on a worker that is played in this process, since
starting 50 real ones would take minutes; the last ones run on real processes, and look for those that were left behind.

More of them from the command line, as many as wanted; a seed is a block of ten sequences:

    QT_QPA_PLATFORM=offscreen python Testing/scene/random_use.py [--first 1000] [--blocks 100] [--real 0]
"""

from __future__ import annotations

import gc
import json
import logging
import os
import random
import sys
import types
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import qt
import slicer
from played_worker import PlayedWorker
from scenery import add_head, is_idle, leftovers, spin_until
from slicer_standin.slice_view import leave_mouse, move_mouse
from USMRISynthesisScene.nodes import nodes
from USMRISynthesisScene.nodes.masks import SEGMENTATION_ROLE, SEGMENTS
from USMRISynthesisScene.runs.worker_process import WorkerProcess
from USMRISynthesisScene.views import layout, marking

SEQUENCES = 50  # in the test suite
BLOCK = 10  # sequences in one panel
REAL = 4  # of them on real processes
STEPS = 8
PARTS = ("copy", "copy", "copy", "slow", "refuse", "exit 3", "nothing", "doubt", "foreign")


# How the command line asks for other seeds than the suite's.
FIRST, BLOCKS, REAL_ONES = "USMRI_RANDOM_FIRST", "USMRI_RANDOM_BLOCKS", "USMRI_RANDOM_REAL"


def seeds() -> range:
    first = int(os.environ.get(FIRST, 0))
    return range(first, first + int(os.environ.get(BLOCKS, SEQUENCES // BLOCK)))


class User:
    """Does one action after another on the panel."""

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
        self.widget.logic.synthesizer._worker = WorkerProcess(sys.executable, [script]) if self.real else PlayedWorker()

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
        for selector in (
            self.ui.inputSelector,
            self.ui.outputSelector,
            self.ui.alignmentSelector,
            self.ui.respaceSelector,
        ):
            wanted = (
                [None, *self.volumes()]
                if selector is not self.ui.alignmentSelector
                else [None, *slicer.util.getNodesByClass("vtkMRMLLinearTransformNode")]
            )
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

    def save_after_undo(self) -> None:
        """Undo may take the image from under a result that is chosen."""
        self.undo()
        for button in (self.ui.saveButton, self.ui.reportButton, self.ui.dicomButton, self.ui.captureButton):
            if button.enabled and self.chance.random() < 0.5:
                button.click()

    def spoil(self) -> None:
        """Matrices that no volume should have, provenance that is none, a volume without an image."""
        node = self.chance.choice(self.volumes() or [None])
        if node is None:
            return
        kind = self.chance.randrange(5)
        if kind == 0:
            node.SetIJKToRASDirections(1, 0, 0, 1, 0, 0, 0, 0, 1)
        elif kind == 1:
            node.SetIJKToRASDirections(float("nan"), 0, 0, 0, 1, 0, 0, 0, 1)
        elif kind == 2:
            node.SetOrigin(float("inf"), 0, 0)
        elif kind == 3:
            node.SetSpacing(0, 1, 1)
        elif not nodes.is_synthetic(node):
            node.SetAndObserveImageData(None)

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
        names = (
            "compareButton",
            "backButton",
            "placeLandmarksButton",
            "useLandmarksButton",
            "outlineCheckBox",
            "contourCheckBox",
            "revealCheckBox",
            "reliabilityCheckBox",
            "shareTransformButton",
            "allFramesCheckBox",
            "spacingButton",
            "greyscaleButton",
            "openRegistrationButton",
            "saveButton",
            "batchButton",
            "modelFolderButton",
            "respaceButton",
            "unreliableCheckBox",
            "offlineButton",
        )
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

    ACTIONS = (
        load,
        load,
        load,
        choose,
        run,
        run,
        run,
        run,
        wait,
        cancel,
        close_scene,
        undo,
        delete,
        delete,
        switch_module,
        reload,
        click_about,
        click_about,
        save_and_load,
        save_after_undo,
        spoil,
    )


class Heard(logging.Handler):
    """Notes down the exceptions that were caught and only logged: a user sees a sentence, a test must see the fault."""

    def __init__(self, seen: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._seen = seen

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self._seen.append(logging.Formatter().format(record))


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
        heard = Heard(seen)
        logging.getLogger().addHandler(heard)
        try:
            yield seen
        finally:
            logging.getLogger().removeHandler(heard)
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
            assert node.GetName().startswith(("Head", "Volume")), node.GetName()  # nothing nameless or half-made
    for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        assert node.GetNumberOfDisplayNodes() > 0


def kept_by(loaded: list[weakref.ref[Any]]) -> list[str]:
    """Which objects keep volumes of a closed scene alive. (Qt for Python may lose count of one by itself.)"""
    holders = gc.get_referrers(*[one() for one in loaded if one() is not None])
    return [
        f"{type(holder).__name__} {list(holder)[:9] if isinstance(holder, dict) else ''}"
        for holder in holders
        if not isinstance(holder, types.FrameType)
    ]


@pytest.mark.parametrize("seed", seeds())
def test_random_sequences_of_actions_leave_nothing_broken_or_behind(
    seed: int,
    host: Any,
    module: Any,
    faults: list[str],
    three_planes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda *_: chance.random() < 0.5)
    monkeypatch.setattr(
        qt.QFileDialog, "getExistingDirectory", lambda *_: str(chance.choice([tmp_path / "none", three_planes, ""]))
    )
    monkeypatch.chdir(tmp_path)
    real = int(os.environ.get(REAL_ONES, REAL if seed == SEQUENCES // BLOCK - 1 else 0))
    marking.keep_marked()
    (tmp_path / "empty").mkdir()
    user = User(host, module, chance, tmp_path)
    try:
        play_block(seed, user, faults, real)
    except BaseException:  # the next seed must not meet what this one left
        user.widget.cleanup()
        user.widget.parent.close()
        raise


def play_block(seed: int, user: User, faults: list[str], real: int) -> None:
    """Ten sequences in one panel; the last `real` of them on real processes."""
    chance = user.chance
    for index in range(BLOCK):
        user.real = index >= BLOCK - real
        user.set_worker()
        done = []
        for action in [User.load, *chance.choices(User.ACTIONS, k=STEPS)]:
            done.append(action.__name__)
            action(user)
            check_whole()
            assert faults == [], f"seed {seed}, sequence {index}: {done}: {faults[0]}"
            assert user.ui.statusLabel.text, f"seed {seed}, sequence {index}: {done}: no status is shown"
        if is_idle(user.ui) is False and chance.random() < 0.5:
            user.cancel()
        slicer.mrmlScene.Clear(False)
        spin_until(lambda: is_idle(user.ui), 20)
        assert user.volumes() == [] and faults == [], f"seed {seed}, sequence {index}: {done}"
        gc.collect()
        assert kept_by(user.loaded) == [], f"seed {seed}, in memory after {done}"
        user.loaded.clear()
    panel = user.widget.panel
    user.widget.cleanup()
    assert panel._scene.Observations == [] and panel.display._reveal is None
    observers = (
        panel._source,
        panel._scene._choices,
        panel.alignment._transform_observer,
        panel.alignment._landmark_observer,
    )
    assert [one.node for one in observers] == [None] * 4
    user.widget.parent.close()
    spin_until(lambda: leftovers() == [], 20)
    slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
