"""What the host's tests share: heads as nodes, the scene's state, waiting for events."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from USMRISynthesisScene.runs.worker_process import descendants

REPOSITORY = Path(__file__).resolve().parents[2]
MODULE_FILE = REPOSITORY / "USMRISynthesis" / "USMRISynthesis.py"
PICTURES = REPOSITORY / "build" / "scene"


WIDE, NARROW = 0.55, 0.22


def head_array(
    shape: tuple[int, int, int] = (48, 60, 56),
    spacing: tuple[float, float, float] = (2.0, 2.0, 2.0),
    seed: int = 3,
    opening: float = WIDE,
) -> np.ndarray:
    """Ultrasound-like head: bright skull, speckled brain, dark ventricles, in a cone-shaped fan. (k, j, i) uint8.

    opening: the tangent of half the fan's angle: the head lies inside a WIDE fan and reaches beyond a NARROW one.
    """
    rng = np.random.default_rng(seed)
    z, y, x = (s * (np.arange(n) - (n - 1) / 2) for n, s in zip(shape, spacing, strict=True))
    z, y, x = z[:, None, None], y[None, :, None], x[None, None, :]
    radius = np.sqrt((x / 34) ** 2 + (y / 44) ** 2 + (z / 33) ** 2)
    image = np.where(radius < 0.96, 70, 25) * rng.rayleigh(0.8, shape)
    image[(radius > 0.93) & (radius < 1.03)] = 235
    for side in (-1, 1):
        image[((x - side * 9) / 4) ** 2 + ((y + 4) / 14) ** 2 + (z / 6) ** 2 < 1] = 6
    fan = (np.hypot(x, z) < opening * (y + 120)) & (np.sqrt(x**2 + z**2 + (y + 120) ** 2) < 172)
    return np.where(fan, np.clip(image, 4, 255), 0).astype(np.uint8)


def put_under_a_transform(node: Any) -> None:
    """A parent that turns by a quarter and moves, as a tracked probe does."""
    parent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Probe")
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]], (30, 10, -20)
    parent.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(pose))
    node.SetAndObserveTransformNodeID(parent.GetID())


def add_head(
    name: str = "Fetal head",
    spacing: tuple[float, float, float] = (2.0, 2.0, 2.0),
    shape: tuple[int, int, int] = (48, 60, 56),
    directions: np.ndarray | None = None,
) -> Any:
    """A head as a volume node. spacing and shape are (k, j, i); directions are columns i, j, k in RAS."""
    array = head_array(shape, spacing)
    matrix = np.eye(4)
    matrix[:3, :3] = (np.eye(3) if directions is None else directions) * np.array(spacing[::-1])
    matrix[:3, 3] = np.array([12.0, -7.0, 30.0]) - matrix[:3, :3] @ ((np.array(shape[::-1]) - 1) / 2)
    node = slicer.util.addVolumeFromArray(array, name=name)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrix))
    node.CreateDefaultDisplayNodes()
    return node


def add_stack(name: str = "Fetal MR", shape: tuple[int, int, int] = (9, 40, 36), side_mm: float = 3.3) -> Any:
    """Thick oblique slices of something smooth, as a node that stands under a transform."""
    rng = np.random.default_rng(5)
    waves = [np.sin(np.linspace(0, rng.uniform(3, 9), n) + rng.uniform(0, 6)) for n in shape]
    array = 400 + 130 * (waves[0][:, None, None] + waves[1][None, :, None] + waves[2][None, None, :])
    node = slicer.util.addVolumeFromArray(array.astype(np.int16), name=name)
    angle = np.deg2rad(20)
    matrix = np.eye(4)
    matrix[:3, :3] = np.array([[np.cos(angle), 0, np.sin(angle)], [0, -1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    matrix[:3, :3] *= (1.1, 1.1, side_mm)
    matrix[:3, 3] = (4, -30, 11)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrix))
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetWindowLevel(321, 123)
    put_under_a_transform(node)
    return node


def add_frame(name: str = "Frame") -> Any:
    """The head's middle slice as a frame of its own: a volume of one slice."""
    array = head_array((3, 200, 180), (1.0, 0.6, 0.6))[1:2]
    node = slicer.util.addVolumeFromArray(array, name=name)
    matrix = np.diag([0.6, 0.6, 1.0, 1.0])
    matrix[:3, 3] = (-54, -60, 5)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrix))
    node.CreateDefaultDisplayNodes()
    return node


def ijk_to_ras(node: Any) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def add_result(source: Any) -> Any:
    """A made-up MR-like image: smooth brain where the head is bright enough."""
    from scipy.ndimage import gaussian_filter
    from USMRISynthesisLib.io.volume import Volume
    from USMRISynthesisScene.nodes import nodes

    voxels = slicer.util.arrayFromVolume(source).astype(float)
    smooth = gaussian_filter(voxels, 0 if voxels.shape[0] == 1 else 1.5)
    mr = np.where(voxels > 0, np.clip(1000 - 6 * smooth, 0, 1000), 0).astype(np.int16)
    return nodes.write_result(nodes.Result(Volume(mr, ijk_to_ras(source)), np.eye(4), {}), source)


def spin_until(condition: Callable[[], bool], seconds: float = 240.0) -> None:
    """Let events happen until the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        slicer.app.processEvents()
        time.sleep(0.005)


def when_progress(panel: Any, value: int, action: Callable[[], Any]) -> None:
    """Do something once, at the very moment when the progress bar gets that far."""
    pending = [action]

    def changed(now: int) -> None:
        if now >= value and pending:
            pending.pop()()

    panel.ui.progressBar.connect("valueChanged(int)", changed)


def scene_state() -> dict[str, Any]:
    """Everything that a cancelled run must leave as it was."""
    scene = slicer.mrmlScene
    nodes = [scene.GetNthNode(i) for i in range(scene.GetNumberOfNodes())]
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    return {
        "nodes": [(node.GetID(), node.GetName()) for node in nodes],
        "transforms": [node.GetTransformNodeID() for node in nodes if hasattr(node, "GetTransformNodeID")],
        "shown": [
            (node.GetBackgroundVolumeID(), node.GetForegroundVolumeID())
            for node in nodes
            if node.IsA("vtkMRMLSliceCompositeNode")
        ],
        "layout": slicer.app.layoutManager().layout,
        "items": hierarchy.GetNumberOfItems(),
        "voxels": [
            hashlib.sha256(slicer.util.arrayFromVolume(node).tobytes()).hexdigest()
            for node in nodes
            if node.IsA("vtkMRMLVolumeNode") and node.GetImageData()
        ],
    }


# Child processes from before the test: multiprocessing keeps its resource tracker until Python ends.
BYSTANDERS: set[int] = set()


def remember_bystanders() -> None:
    """Child processes that run now are not this test's own."""
    BYSTANDERS.clear()
    BYSTANDERS.update(descendants(os.getpid()))


def own_processes() -> list[int]:
    """Child processes that this test has started."""
    return [pid for pid in descendants(os.getpid()) if pid not in BYSTANDERS]


def leftovers() -> list[str]:
    """Child processes and temporary files of this test that nobody needs any more."""
    files = [path.name for path in Path(slicer.app.temporaryPath).iterdir()]
    return [f"process {pid}" for pid in own_processes()] + files


def play(panel: Any, part: str) -> None:
    """Press Synthesize with the scripted worker playing that part, and no change of layout."""
    panel.logic.getParameterNode().showComparison = False
    panel.ui.modelComboBox.setCurrentText(part)
    panel.ui.runButton.click()


def is_idle(ui: Any) -> bool:
    return ui.runButton.text == "Synthesize MR"
