"""Pictures of the panel and the views for the README, made by the host from the simulated sample and the shipped model.

    QT_QPA_PLATFORM=offscreen python Testing/host/make_screenshots.py [FOLDER]     # Resources/Screenshots
"""
from __future__ import annotations

import os
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [str(REPOSITORY / "Testing"), str(REPOSITORY / "USMRISynthesis"), str(Path(__file__).parent)]

from host_slicer import start  # noqa: E402

HOST = start()

import numpy as np  # noqa: E402
import slicer  # noqa: E402
from host_slicer.slice_view import picture_of, write_png  # noqa: E402
from scenery import MODULE_FILE, is_idle, spin_until  # noqa: E402
from USMRISynthesisScene import layout  # noqa: E402
from USMRISynthesisScene.sample_data import SIMULATED, sample_file  # noqa: E402


def main(folder: Path) -> None:
    widget = HOST.open_module(HOST.load_module(MODULE_FILE))
    ui = widget.ui
    ultrasound = slicer.util.loadVolume(str(sample_file(SIMULATED)), {"name": SIMULATED, "singleFile": True})
    ultrasound.GetDisplayNode().SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")   # Slicer's reader does it
    ui.runButton.click()
    spin_until(lambda: is_idle(ui), 900)
    for name in ("display", "alignment", "registration"):
        getattr(ui, f"{name}CollapsibleButton").collapsed = False
    ui.viewsComboBox.currentIndex = 1
    ui.viewsComboBox.activated.emit(1)
    rows = [np.hstack([picture_of(slicer.app.layoutManager().sliceWidget(layout.view_tag(role, plane)))
                       for role in (layout.ULTRASOUND, layout.FUSED, layout.MR)]) for plane in layout.PLANES]
    write_png(folder / "three-planes.png", [np.vstack(rows)])
    widget.parent.resize(420, 860)
    widget.parent.show()
    for _ in range(6):
        slicer.app.processEvents()
    widget.parent.grab().save(str(folder / "panel.png"))
    widget.cleanup()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / "Resources" / "Screenshots")
    sys.stdout.flush()
    os._exit(0)     # without taking Qt and VTK apart
