"""Pictures of the panel and the views for the README, made by the host from the simulated sample and the shipped model.

    QT_QPA_PLATFORM=offscreen python Testing/host/make_screenshots.py [FOLDER]         # Resources/Screenshots
    QT_QPA_PLATFORM=offscreen python Testing/host/make_screenshots.py --thumbnails     # of the Sample Data module
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
from PIL import Image  # noqa: E402
from scenery import MODULE_FILE, is_idle, spin_until  # noqa: E402
from USMRISynthesisScene import layout  # noqa: E402
from USMRISynthesisScene.sample_data import FILES, SIMULATED, sample_file  # noqa: E402

THUMBNAIL = (260, 280)


def thumbnails(folder: Path) -> None:
    """The samples as the ultrasound view shows them, in the size of the Sample Data module's buttons."""
    for name in FILES:
        image = slicer.util.loadVolume(str(sample_file(name)), {"name": name, "singleFile": True})
        image.GetDisplayNode().SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")
        layout.show_comparison(image, image)
        picture = Image.fromarray(picture_of(slicer.app.layoutManager().sliceWidget(layout.ULTRASOUND)))
        left, top, right, bottom = picture.convert("L").point(lambda grey: 255 * (grey > 30)).getbbox() or (
            0, 0, *picture.size)
        scale = min(THUMBNAIL[0] / (right - left), THUMBNAIL[1] / (bottom - top))
        head = picture.crop((left, top, right, bottom)).resize(
            (round(scale * (right - left)), round(scale * (bottom - top))), Image.Resampling.LANCZOS)
        button = Image.new("RGB", THUMBNAIL)
        button.paste(head, ((THUMBNAIL[0] - head.width) // 2, (THUMBNAIL[1] - head.height) // 2))
        button.save(folder / f"{name}.png", optimize=True)


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
    if "--thumbnails" in sys.argv:
        thumbnails(MODULE_FILE.parent / "Resources" / "Icons")
    else:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / "Resources" / "Screenshots")
    sys.stdout.flush()
    os._exit(0)     # without taking Qt and VTK apart
