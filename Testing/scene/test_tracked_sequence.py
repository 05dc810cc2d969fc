"""Sequences whose frames lie elsewhere or are in colour: every frame keeps its own place, voxels and provenance."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import slicer
from scenery import head_array, ijk_to_ras, is_idle, play, put_under_a_transform, spin_until
from scipy.spatial.transform import Rotation
from USMRISynthesisLib.errors import Refused
from USMRISynthesisScene.nodes import conversion, nodes
from USMRISynthesisScene.runs import sequence

COUNT = 3


def places() -> list[np.ndarray]:
    """A sweep: oblique, anisotropic, left-handed frames that turn and move."""
    made = []
    for n in range(COUNT):
        matrix = np.eye(4)
        matrix[:3, :3] = Rotation.from_rotvec([0.3, 0.2 + 0.15 * n, -0.5]).as_matrix() * (0.9, 0.8, -1.0)
        matrix[:3, 3] = (10.123456789 * n, -40, 7 * n)
        made.append(matrix)
    return made


def sweep(colour: bool, tint: int = -1) -> tuple[Any, Any, Any]:
    """(sequence, browser, proxy); tint: a frame with real colour in it."""
    frames = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "Sweep")
    frames.SetIndexName("time")
    frames.SetIndexUnit("s")
    kind = "vtkMRMLVectorVolumeNode" if colour else "vtkMRMLScalarVolumeNode"
    for n, matrix in enumerate(places()):
        node = slicer.mrmlScene.AddNewNodeByClass(kind, f"Frame {n}")
        array = head_array((1, 120, 112), (1.0, 1.0, 1.0), seed=n + 1)
        if colour:
            array = np.repeat(array[..., None], 3, axis=-1)
            if n == tint:
                array[:, 40:80, 40:80] = (250, 20, 10)
        slicer.util.updateVolumeFromArray(node, array)
        node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrix))
        frames.SetDataNodeAtValue(node, f"{n / 10}")
        slicer.mrmlScene.RemoveNode(node)
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "Browser")
    browser.AddSynchronizedSequenceNode(frames)
    return frames, browser, browser.GetProxyNode(frames)


def selected(browser: Any, index: int) -> None:
    browser.SetSelectedItemNumber(index)
    slicer.app.moduleLogic("Sequences").UpdateProxyNodesFromSequences(browser)


def matrices(frames: Any) -> list[np.ndarray]:
    return [ijk_to_ras(frames.GetNthDataNode(n)) for n in range(frames.GetNumberOfDataNodes())]


def test_every_frame_keeps_its_place_voxels_and_provenance(panel: Any, ui: Any) -> None:
    frames, browser, proxy = sweep(colour=False)
    put_under_a_transform(proxy)
    parameters = panel.logic.getParameterNode()
    parameters.inputVolume, parameters.allFrames = proxy, True
    play(panel, "copy")
    spin_until(lambda: is_idle(ui))
    assert ui.statusLabel.text.startswith("Done"), ui.statusLabel.text
    output = nodes.result_of(proxy)
    made = browser.GetSequenceNode(output)
    assert (made.GetIndexName(), made.GetIndexUnit()) == ("time", "s")
    np.testing.assert_allclose(matrices(made), places(), rtol=0, atol=1e-9)
    for n in range(COUNT):
        assert made.GetNthIndexValue(n) == frames.GetNthIndexValue(n)
        one = made.GetNthDataNode(n)
        np.testing.assert_array_equal(
            slicer.util.arrayFromVolume(one), slicer.util.arrayFromVolume(frames.GetNthDataNode(n))
        )
        assert json.loads(one.GetAttribute(nodes.PROVENANCE_ATTRIBUTE))["notice"] == nodes.SYNTHETIC
        assert nodes.is_synthetic(one)
    for n in (2, 0, 1):
        selected(browser, n)
        np.testing.assert_allclose(ijk_to_ras(output), places()[n], rtol=0, atol=1e-9)
        assert output.GetTransformNodeID() == proxy.GetTransformNodeID()


def test_provenance_of_the_frames_differs_where_they_do(panel: Any) -> None:
    from USMRISynthesisLib.io.volume import Volume
    from USMRISynthesisScene.runs.run import Reports

    class Numbered:
        def start(self, source: Any, deliver: Any, reports: Any, **_: Any) -> None:
            volume = nodes.read_volume(source)
            result = {"z": float(volume.ijk_to_ras[2, 3])}
            deliver(nodes.Result(Volume(volume.array.astype(np.int16), volume.ijk_to_ras), np.eye(4), result))
            reports.finished(None, None)

    _, browser, proxy = sweep(colour=False)
    ends: list[Any] = []
    selected(browser, 1)
    sequence.SequenceRun(Numbered()).start(proxy, reports=Reports(finished=lambda *end: ends.append(end)))
    [(output, error)] = ends
    made = browser.GetSequenceNode(output)
    assert error is None
    depths = [json.loads(made.GetNthDataNode(n).GetAttribute(nodes.PROVENANCE_ATTRIBUTE))["z"] for n in range(COUNT)]
    assert depths == [matrix[2, 3] for matrix in places()]
    assert json.loads(output.GetAttribute(nodes.PROVENANCE_ATTRIBUTE)) == {"z": places()[1][2, 3]}  # the one shown


def test_colour_cine_is_converted_frame_by_frame(panel: Any, ui: Any) -> None:
    _, browser, proxy = sweep(colour=True)
    proxy.SetAttribute(nodes.DICOM_UIDS, "1.2.3")
    put_under_a_transform(proxy)
    panel.logic.getParameterNode().inputVolume = proxy
    panel.panel.refresh()
    ui.greyscaleButton.click()
    grey = panel.logic.getParameterNode().inputVolume
    assert ui.statusLabel.text == f"{grey.GetName()} was made and selected." and grey is not proxy
    assert sequence.frame_count(grey) == COUNT and sequence.frame_count(proxy) == COUNT
    assert grey.GetAttribute(nodes.DICOM_UIDS) == "1.2.3" and grey.GetTransformNodeID() == proxy.GetTransformNodeID()
    made = browser.GetSequenceNode(grey)
    np.testing.assert_allclose(matrices(made), places(), rtol=0, atol=1e-9)
    for n in range(COUNT):
        voxels = slicer.util.arrayFromVolume(made.GetNthDataNode(n))
        np.testing.assert_array_equal(voxels, head_array((1, 120, 112), (1.0, 1.0, 1.0), seed=n + 1))
        selected(browser, n)
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(grey), voxels)
    assert ui.allFramesCheckBox.enabled


def test_real_colour_in_one_frame_refuses_the_whole_sequence(panel: Any) -> None:
    _, _, proxy = sweep(colour=True, tint=1)
    before = slicer.mrmlScene.GetNumberOfNodes()
    with pytest.raises(Refused, match=r"^Frame 2 of 3: .* in colour, like Doppler or an overlay\."):
        conversion.greyscale_copy(proxy)
    assert slicer.mrmlScene.GetNumberOfNodes() == before
