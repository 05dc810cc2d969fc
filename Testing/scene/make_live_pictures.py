"""Pictures of the Live section for its page, made in the stand-in: a real head that moves, and the lifted probe.

QT_QPA_PLATFORM=offscreen python Testing/scene/make_live_pictures.py [FOLDER]         # docs/live
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [str(REPOSITORY / "Testing"), str(REPOSITORY / "USMRISynthesis"), str(Path(__file__).parent)]

from slicer_standin import start  # noqa: E402

HOST = start()

import numpy as np  # noqa: E402
import qt  # noqa: E402
import slicer  # noqa: E402
from PIL import Image  # noqa: E402
from scenery import MODULE_FILE, spin_until  # noqa: E402
from scipy import ndimage  # noqa: E402
from slicer_standin.slice_view import picture_of  # noqa: E402
from USMRISynthesisLib.io.volume import Volume  # noqa: E402
from USMRISynthesisScene.views import layout  # noqa: E402

SAMPLE = REPOSITORY / "Resources" / "SampleData" / "fetal-head-hc18.nrrd"
WIDTH = 640


def moved(sample: Volume, right: float, down: float, degrees: float) -> np.ndarray:
    """(1, j, i): the sample moved in its plane."""
    turn = np.deg2rad(degrees)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    middle = (np.array(sample.shape[1:]) - 1) / 2
    image = ndimage.affine_transform(
        sample.array[0].astype(float), rotation, middle - rotation @ (middle + np.array([down, right])), order=1
    )
    return image.astype(np.uint8)[None]


class Stream:
    """Puts the next picture of a sweep into a node, twelve times a second, until it is held."""

    def __init__(self, node: Any, sample: Volume) -> None:
        self.node, self.sample, self.count, self.last = node, sample, 0, 0
        self._timer = qt.QTimer()
        self._timer.setInterval(80)
        self._timer.connect("timeout()", self._next)
        self._timer.start()

    def _next(self) -> None:
        """There to the last picture in steps, and then about it with another grain."""
        self.count += 1
        n = min(self.count, self.last)
        grain = np.random.default_rng(self.count).normal(1, 0.05, self.sample.shape)
        image = np.clip(moved(self.sample, 1.6 * n, -0.8 * n, 0.6 * n) * grain, 0, 255).astype(np.uint8)
        slicer.util.updateVolumeFromArray(self.node, image)

    def hold(self) -> None:
        self._timer.stop()


def wait(seconds: float) -> None:
    """Let events happen for so long."""
    end = time.monotonic() + seconds
    spin_until(lambda: time.monotonic() > end)


def photograph(path: Path) -> None:
    """The ultrasound and the MR-like image, as the views show them."""
    layout.settle()
    for _ in range(6):
        slicer.app.processEvents()
    views = [picture_of(slicer.app.layoutManager().sliceWidget(role)) for role in (layout.ULTRASOUND, layout.MR)]
    height = min(view.shape[0] for view in views)
    row = Image.fromarray(np.concatenate([view[:height] for view in views], axis=1)).convert("RGB")
    row = row.resize((WIDTH, round(row.height * WIDTH / row.width)), Image.Resampling.LANCZOS)
    row.quantize(48).save(path, optimize=True)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    ui = WIDGET.ui
    sample = Volume.read(SAMPLE)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Probe image")
    slicer.util.updateVolumeFromArray(node, sample.array)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(sample.ijk_to_ras))
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")
    ui.liveCollapsibleButton.collapsed = False
    ui.liveSelector.setCurrentNode(node)
    ui.liveButton.click()
    spin_until(lambda: ui.liveStatusLabel.text.startswith(("live", "frozen")), 300)
    stream = Stream(node, sample)
    for stream.last, name in ((1, "1-first"), (12, "2-moving"), (25, "3-moved")):
        wait(4)
        spin_until(lambda: ui.liveStatusLabel.text.startswith("live"), 300)
        photograph(folder / f"{name}.png")
    stream.hold()
    wait(2.5)
    photograph(folder / "4-frozen.png")
    slicer.util.updateVolumeFromArray(node, moved(sample, 40, -20, 15) // 40)
    spin_until(lambda: ui.liveStatusLabel.text.startswith("blank"), 60)
    photograph(folder / "5-lifted.png")
    WIDGET.parent.resize(420, 900)
    for _ in range(6):
        slicer.app.processEvents()
    ui.liveCollapsibleButton.grab().save(str(folder / "section.png"))
    with Image.open(folder / "section.png") as section:
        small = section.convert("RGB").quantize(32)
    small.save(folder / "section.png", optimize=True)
    ui.liveButton.click()
    WIDGET.cleanup()


if __name__ == "__main__":
    WIDGET = HOST.open_module(HOST.load_module(MODULE_FILE))
    WIDGET.parent.resize(420, 600)
    WIDGET.parent.show()
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / "docs" / "live")
    sys.stdout.flush()
    os._exit(0)  # without taking Qt and VTK apart
