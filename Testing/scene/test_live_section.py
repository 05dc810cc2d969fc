"""The section Live: the MR-like image of the newest frame beside a volume that updates, and nothing left behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import slicer
import vtk
from factories.live import HEAD, LIFTED, NO_HEAD, number_in, picture
from played_live_worker import PlayedLiveWorker
from scenery import REPOSITORY, add_head, ijk_to_ras, leftovers, own_processes, put_under_a_transform, spin_until
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisScene.live import recording
from USMRISynthesisScene.nodes import nodes
from USMRISynthesisScene.views import layout

SAMPLE = REPOSITORY / "Resources" / "SampleData" / "fetal-head-hc18.nrrd"
EDGE = vtk.vtkCornerAnnotation.LowerEdge
CHANGED = slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent
SIZE = (70, 80)


@pytest.fixture
def section(panel: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The opened section with a played worker, as `section.worker`."""
    panel.ui.liveCollapsibleButton.collapsed = False
    made = panel.panel.live
    made.worker = PlayedLiveWorker()
    made.make_worker = lambda: made.worker
    return made


@pytest.fixture
def stream(section: Any) -> Any:
    """A node that has one picture, selected in the section."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Probe image")
    show(node, 1)
    put_under_a_transform(node)
    section.ui.liveSelector.setCurrentNode(node)
    return node


def show(node: Any, number: int, kind: int = HEAD, shape: tuple[int, int] = SIZE) -> None:
    """A new picture in the node, as a connector brings it."""
    one = picture(number, kind, shape)
    slicer.util.updateVolumeFromArray(node, one.array)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(one.ijk_to_ras))


def output_of(source: Any) -> Any:
    [found] = [n for n in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") if nodes.source_of(n) is source]
    return found


def image_in(node: Any) -> np.ndarray:
    return slicer.util.arrayFromVolume(node)


def corner(role: str = layout.MR) -> str:
    return slicer.app.layoutManager().sliceWidget(role).sliceView().cornerAnnotation().GetText(EDGE) or ""


def observers(node: Any) -> bool:
    """Whether the live run still observes the node's image."""
    return any(run.node is node for run in _OBSERVERS)


_OBSERVERS: list[Any] = []


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every observer that a live run makes is known."""
    from USMRISynthesisScene.live import run

    made = run.NodeObserver

    def make(*arguments: Any) -> Any:
        _OBSERVERS.append(made(*arguments))
        return _OBSERVERS[-1]

    monkeypatch.setattr(run, "NodeObserver", make)
    yield
    assert not [one for one in _OBSERVERS if one.node is not None], "an observer is left"
    _OBSERVERS.clear()


def test_start_needs_a_volume_and_says_so(section: Any) -> None:
    assert not section.ui.liveButton.enabled
    assert section.ui.liveButton.toolTip == "Select the volume that updates first."
    assert not section.ui.liveRecordButton.enabled


def test_start_shows_the_image_of_each_new_picture_in_place(section: Any, stream: Any) -> None:
    ui = section.ui
    ui.liveButton.click()
    output = output_of(stream)
    assert ui.liveButton.text == "Stop" and not ui.liveSelector.enabled
    assert number_in(image_in(output)) == 1
    for number in (2, 3):
        show(stream, number)
        assert number_in(image_in(output_of(stream))) == number and output_of(stream) is output
    assert np.allclose(ijk_to_ras(output), ijk_to_ras(stream))
    assert output.GetTransformNodeID() == stream.GetTransformNodeID()
    assert nodes.is_synthetic(output) and nodes.SYNTHETIC in output.GetName()
    assert (image_in(output)[0, :10] == 1000).any()  # the mark in the pixels
    assert layout.is_shown() and corner().startswith("MR-like: live  age 0.")
    assert "confidence 0.90" in corner() and corner(layout.ULTRASOUND) == ""
    assert ui.liveStatusLabel.text == corner().removeprefix("MR-like: ")
    assert nodes.result_of(stream) is None  # the still image's tools do not take it for a result


def test_one_picture_is_in_flight_and_only_the_newest_follows(section: Any, stream: Any) -> None:
    section.ui.liveButton.click()
    worker = section.worker
    worker.eager = False
    before = len(worker.requests)
    for number in (2, 3, 4):
        show(stream, number)
    assert len(worker.requests) == before + 1
    worker.answer()
    assert number_in(image_in(output_of(stream))) == 2 and len(worker.requests) == before + 2
    worker.answer()
    assert number_in(image_in(output_of(stream))) == 4 and not worker.busy


@pytest.mark.parametrize(("kind", "reason"), [(LIFTED, "There is hardly any signal"), (NO_HEAD, "shows no brain")])
def test_a_loss_blanks_the_output_with_the_reason(section: Any, stream: Any, kind: int, reason: str) -> None:
    if kind == NO_HEAD:
        show(stream, 5, NO_HEAD)
    section.ui.liveButton.click()
    show(stream, 6, kind)
    output = output_of(stream)
    assert (output.GetImageData() is None or not image_in(output).any()) and reason in section.ui.liveStatusLabel.text
    assert section.ui.liveStatusLabel.text.startswith("blank: ")


def test_another_size_begins_anew(section: Any, stream: Any) -> None:
    section.ui.liveButton.click()
    show(stream, 2, shape=(90, 100))
    output = output_of(stream)
    assert image_in(output).shape == (1, 90, 100) and number_in(image_in(output)) == 2
    assert section.worker.exchange.engine.searches == [1, 2]


def test_a_frozen_picture_is_said_to_be_frozen_and_grows_old(section: Any, stream: Any) -> None:
    section.ui.liveButton.click()
    run = section.run
    section.worker.exchange.ahead = 2.0
    run._clock = section.worker.exchange._clock
    run.tick()
    assert section.ui.liveStatusLabel.text.startswith("frozen  age 2.")
    assert section.ui.liveStatusLabel.text.endswith("No new picture comes.")
    image = image_in(stream).copy()
    slicer.util.updateVolumeFromArray(stream, image)  # the scanner sends the same picture again
    run.tick()
    assert section.ui.liveStatusLabel.text.endswith("The picture is frozen.")
    assert number_in(image_in(output_of(stream))) == 1 and corner().startswith("MR-like: frozen  age 2.")
    assert corner().endswith("\nThe picture is frozen.")
    show(stream, 2)
    assert section.ui.liveStatusLabel.text.startswith("live  age 0.")


def test_a_slow_worker_makes_no_picture_a_frozen_one(section: Any, stream: Any) -> None:
    section.ui.liveButton.click()
    section.worker.eager = False
    section.run._clock = section.worker.exchange._clock
    show(stream, 2)
    section.worker.exchange.ahead = 2.0
    show(stream, 3)
    section.run.tick()
    assert section.ui.liveStatusLabel.text.startswith("live  age 2.")


def test_stop_in_mid_frame_shows_nothing_and_observes_nothing(section: Any, stream: Any) -> None:
    section.ui.liveButton.click()
    section.worker.eager = False
    show(stream, 2)
    output = output_of(stream)
    section.ui.liveButton.click()
    assert section.worker.killed and not observers(stream)
    assert not image_in(output).any() and corner() == ""
    assert section.ui.liveStatusLabel.text == "Live is stopped." and section.ui.liveButton.text == "Start"
    show(stream, 3)
    assert len(section.worker.requests) == 2 and not image_in(output).any() and leftovers() == []


def test_start_again_uses_the_same_output(section: Any, stream: Any) -> None:
    for number in (2, 3):
        section.ui.liveButton.click()
        show(stream, number)
        assert number_in(image_in(output_of(stream))) == number
        section.ui.liveButton.click()
    assert [request["restart"] for request in section.worker.requests] == [True, False, True, False]


@pytest.mark.parametrize("way", ["scene closed", "panel closed", "another module", "ultrasound deleted"])
def test_every_way_out_ends_the_run(host: Any, module: Any, panel: Any, section: Any, stream: Any, way: str) -> None:
    section.ui.liveButton.click()
    assert observers(stream)
    if way == "scene closed":
        slicer.mrmlScene.Clear(False)
    elif way == "panel closed":
        panel.panel.close()
    elif way == "another module":
        panel.exit()
    else:
        slicer.mrmlScene.RemoveNode(stream)
        section.run.tick()
        assert section.ui.liveStatusLabel.text.startswith("The ultrasound or its live image was deleted.")
    assert not section.running and section.worker.killed and not observers(stream) and leftovers() == []


def test_a_worker_that_dies_is_one_sentence_and_start_works_again(section: Any, stream: Any) -> None:
    section.ui.liveButton.click()
    section.worker.eager = False
    show(stream, 2)
    died = {"event": "error", "kind": "worker-exit", "message": "The process ended.", "remedy": "Start it again."}
    section.worker.say(died)
    assert section.ui.statusLabel.text == section.ui.liveStatusLabel.text == "The process ended. Start it again."
    assert not image_in(output_of(stream)).any() and not section.running
    section.worker.eager = True
    section.ui.liveButton.click()
    assert number_in(image_in(output_of(stream))) == 2


def test_a_worker_that_dies_between_two_pictures_is_noticed(section: Any, stream: Any) -> None:
    section.ui.liveButton.click()
    section.worker.running = False
    show(stream, 2)
    section.run.tick()
    assert section.ui.statusLabel.text == "The live process has ended unexpectedly. Press Start again."
    assert not section.running and not image_in(output_of(stream)).any()


@pytest.mark.parametrize("strange", [{}, {"state": "cheerful"}, {"image": True, "number": 9, "taken_s": "now"}])
def test_an_answer_that_is_none_ends_it_with_a_sentence(section: Any, stream: Any, strange: dict[str, Any]) -> None:
    section.ui.liveButton.click()
    section.worker.eager = False
    show(stream, 2)
    whole = {"state": "live", "reason": "", "image": True, "taken_s": 0.0, "rate": 1, "confidence": 1, "number": 9}
    section.worker.say({"event": "done", "result": {**whole, **strange} if strange else {}})
    assert section.ui.liveStatusLabel.text == "The live process gave an unusable answer. Start again."
    assert not image_in(output_of(stream)).any()


def test_what_cannot_be_a_stream_is_refused(section: Any, stream: Any) -> None:
    section.ui.liveSelector.setCurrentNode(add_head())
    section.ui.liveButton.click()
    assert section.ui.statusLabel.text == "Fetal head is a volume, not a frame. Choose the 2D image of the stream."
    stream.SetAttribute(nodes.SYNTHETIC_ATTRIBUTE, nodes.SYNTHETIC)
    section.ui.liveSelector.setCurrentNode(stream)
    section.ui.liveButton.click()
    assert section.ui.statusLabel.text.startswith("Probe image is synthetic itself.")
    assert not section.running and not section.worker.requests


def test_a_recording_keeps_pictures_and_images_in_step(section: Any, stream: Any) -> None:
    section.ui.liveButton.click()
    section.ui.liveRecordButton.click()
    assert section.ui.liveRecordButton.text == "Stop recording"
    clock = iter(np.arange(500.0, 600.0, 0.05))
    section.run._clock = lambda: float(next(clock))
    for number in (2, 3, 4):
        show(stream, number)
    section.ui.liveRecordButton.click()
    assert section.ui.statusLabel.text == "Recorded 3 pairs: Probe image live recording"
    [browser] = slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode")
    ultrasound, mr = slicer.util.getNodesByClass("vtkMRMLSequenceNode")
    assert browser.GetNumberOfSynchronizedSequenceNodes(True) == 2
    assert nodes.SYNTHETIC in mr.GetName()
    for n in range(3):
        assert ultrasound.GetNthIndexValue(n) == mr.GetNthIndexValue(n)
        one, other = ultrasound.GetNthDataNode(n), mr.GetNthDataNode(n)
        assert int(image_in(one)[0, 0, 0]) == number_in(image_in(other)) == n + 2
        assert nodes.is_synthetic(other) and not nodes.is_synthetic(one)
        np.testing.assert_allclose(ijk_to_ras(one), ijk_to_ras(other))
    browser.SetSelectedItemNumber(1)
    slicer.app.moduleLogic("Sequences").UpdateProxyNodesFromSequences(browser)
    assert (
        number_in(image_in(browser.GetProxyNode(mr))) == int(image_in(browser.GetProxyNode(ultrasound))[0, 0, 0]) == 3
    )
    assert browser.GetProxyNode(mr).GetTransformNodeID() == stream.GetTransformNodeID()
    assert section.running  # the live view goes on


def test_a_full_recording_ends_by_itself_and_a_stop_keeps_it(
    section: Any, stream: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    section.ui.liveButton.click()
    section.ui.liveRecordButton.click()
    show(stream, 2)
    section.ui.liveButton.click()
    [first] = slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode")
    assert first.GetNumberOfItems() == 1
    section.ui.liveButton.click()
    section.ui.liveRecordButton.click()
    monkeypatch.setattr(recording, "MOST_BYTES", 1)
    show(stream, 3)
    section.run.tick()
    assert section.ui.liveRecordButton.text == "Record"
    assert len(slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode")) == 2


def test_views_of_other_volumes_keep_their_annotation(section: Any, stream: Any) -> None:
    section.ui.liveButton.click()
    annotation = slicer.app.layoutManager().sliceWidget(layout.ULTRASOUND).sliceView().cornerAnnotation()
    annotation.SetText(EDGE, "somebody's own")
    show(stream, 2)
    section.ui.liveButton.click()
    assert annotation.GetText(EDGE) == "somebody's own"
    annotation.SetText(EDGE, "")


def replayed() -> tuple[Any, Any]:
    """(browser, proxy): the bundled real frame, moving, as a sequence."""
    from scipy import ndimage

    sample = Volume.read(SAMPLE)
    frames = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "Sweep")
    for n in range(6):
        node = slicer.vtkMRMLScalarVolumeNode()
        moved = ndimage.shift(sample.array[0], (2 * n, -3 * n), order=1)
        slicer.util.updateVolumeFromArray(node, moved[None])
        node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(sample.ijk_to_ras))
        frames.SetDataNodeAtValue(node, f"{n / 20:.2f}")
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "Browser")
    browser.AddSynchronizedSequenceNode(frames)
    return browser, browser.GetProxyNode(frames)


def select(browser: Any, item: int) -> None:
    browser.SetSelectedItemNumber(item)
    slicer.app.moduleLogic("Sequences").UpdateProxyNodesFromSequences(browser)


def test_a_replayed_sequence_is_followed_by_the_real_worker(panel: Any) -> None:
    """The bundled networks in the real child process; it is killed on the way, and Start works again."""
    browser, proxy = replayed()
    ui, section = panel.ui, panel.panel.live
    ui.liveCollapsibleButton.collapsed = False
    ui.liveSelector.setCurrentNode(proxy)
    ui.liveButton.click()
    assert ui.liveStatusLabel.text.startswith(("waiting", "searching"))
    spin_until(lambda: ui.liveStatusLabel.text.startswith(("live", "frozen")))
    output, seen = output_of(proxy), []
    for item in range(6):
        select(browser, item)
        before = section.run._number
        if item:
            spin_until(lambda before=before: section.run._number > before)
        image = image_in(output).copy()
        image[0, :20] = 0  # the mark
        seen.append(np.argwhere(image[0] > 0).mean(axis=0))
        assert (image > 0).sum() > 5000
    drift = np.diff(seen, axis=0).mean(axis=0)
    assert np.allclose(drift, (2, -3), atol=0.7)  # the image moves with the head
    [pid] = own_processes()
    os.kill(pid, signal.SIGKILL)
    spin_until(lambda: not section.running)
    assert ui.statusLabel.text == "The live process has ended unexpectedly. Press Start again."
    assert not image_in(output).any()
    ui.liveButton.click()
    spin_until(lambda: ui.liveStatusLabel.text.startswith(("live", "frozen")))
    ui.liveButton.click()
    assert leftovers() == [] and not observers(proxy)
