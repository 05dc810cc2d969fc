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
import slicer  # noqa: E402
from PIL import Image  # noqa: E402
from scenery import MODULE_FILE, spin_until  # noqa: E402
from scipy import ndimage  # noqa: E402
from slicer_standin.slice_view import picture_of  # noqa: E402
from USMRISynthesisLib.io.volume import Volume  # noqa: E402
from USMRISynthesisScene.views import layout  # noqa: E402

SAMPLE = REPOSITORY / "Resources" / "SampleData" / "fetal-head-hc18.nrrd"
WIDTH = 900


def moved(sample: Volume, right: float, down: float, degrees: float) -> np.ndarray:
    """(1, j, i): the sample moved in its plane."""
    turn = np.deg2rad(degrees)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    middle = (np.array(sample.shape[1:]) - 1) / 2
    image = ndimage.affine_transform(
        sample.array[0].astype(float), rotation, middle - rotation @ (middle + np.array([down, right])), order=1
    )
    return image.astype(np.uint8)[None]


def show(node: Any, array: np.ndarray, line: str, ui: Any) -> None:
    """A picture in the node; wait until the status line begins so for it."""
    slicer.util.updateVolumeFromArray(node, array)
    run = WIDGET.panel.live.run
    number = run._number
    spin_until(lambda: ui.liveStatusLabel.text.startswith(line) and (line == "blank" or run._number > number), 300)


def photograph(path: Path) -> None:
    """Ultrasound, both, and the MR-like image, as the views show them."""
    layout.settle()
    for _ in range(6):
        slicer.app.processEvents()
    views = [picture_of(slicer.app.layoutManager().sliceWidget(role)) for role in (layout.ULTRASOUND, layout.MR)]
    height = min(view.shape[0] for view in views)
    row = Image.fromarray(np.concatenate([view[:height] for view in views], axis=1)).convert("RGB")
    row = row.resize((WIDTH, round(row.height * WIDTH / row.width)), Image.Resampling.LANCZOS)
    row.quantize(64).save(path, optimize=True)


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
    for n in range(1, 26):  # a sweep, so that the rate is that of a stream
        show(node, moved(sample, 1.6 * n, -0.8 * n, 0.6 * n), "live", ui)
        if n in (1, 12, 25):
            photograph(folder / f"{('1-first', '2-moving', '3-moved')[(1, 12, 25).index(n)]}.png")
    end = time.monotonic() + 2.5
    spin_until(lambda: time.monotonic() > end)
    photograph(folder / "4-frozen.png")
    show(node, np.maximum(moved(sample, 40, -20, 15) // 40, 0).astype(np.uint8), "blank", ui)
    photograph(folder / "5-lifted.png")
    WIDGET.parent.resize(420, 900)
    for _ in range(6):
        slicer.app.processEvents()
    ui.liveCollapsibleButton.grab().save(str(folder / "section.png"))
    ui.liveButton.click()
    WIDGET.cleanup()


if __name__ == "__main__":
    WIDGET = HOST.open_module(HOST.load_module(MODULE_FILE))
    WIDGET.parent.resize(420, 600)
    WIDGET.parent.show()
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / "docs" / "live")
    sys.stdout.flush()
    os._exit(0)  # without taking Qt and VTK apart
