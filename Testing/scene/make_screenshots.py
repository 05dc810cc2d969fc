"""Pictures of the panel for the README, made in the stand-in from the simulated sample and the shipped model.

QT_QPA_PLATFORM=offscreen python Testing/scene/make_screenshots.py [FOLDER]         # Resources/Screenshots
QT_QPA_PLATFORM=offscreen python Testing/scene/make_screenshots.py --thumbnails     # of the Sample Data module
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [str(REPOSITORY / "Testing"), str(REPOSITORY / "USMRISynthesis"), str(Path(__file__).parent)]

from slicer_standin import start  # noqa: E402

HOST = start()

import slicer  # noqa: E402
from PIL import Image  # noqa: E402
from scenery import MODULE_FILE, is_idle, spin_until  # noqa: E402
from slicer_standin.slice_view import picture_of  # noqa: E402
from USMRISynthesisScene.files.sample_data import FILES, SIMULATED, sample_file  # noqa: E402
from USMRISynthesisScene.views import layout  # noqa: E402

THUMBNAIL = (260, 280)
SECTIONS = (
    ("inputs", "output", "display", "alignment", "registration"),
    ("live", "respace", "batch", "export", "advanced"),
)


def thumbnails(folder: Path) -> None:
    """The samples as the ultrasound view shows them, in the size of the Sample Data module's buttons."""
    for name in FILES:
        image = slicer.util.loadVolume(str(sample_file(name)), {"name": name, "singleFile": True})
        image.GetDisplayNode().SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")
        layout.show_comparison(image, image)
        picture = Image.fromarray(picture_of(slicer.app.layoutManager().sliceWidget(layout.ULTRASOUND)))
        left, top, right, bottom = picture.convert("L").point(lambda grey: 255 * (grey > 30)).getbbox() or (
            0,
            0,
            *picture.size,
        )
        scale = min(THUMBNAIL[0] / (right - left), THUMBNAIL[1] / (bottom - top))
        head = picture.crop((left, top, right, bottom)).resize(
            (round(scale * (right - left)), round(scale * (bottom - top))), Image.Resampling.LANCZOS
        )
        button = Image.new("RGB", THUMBNAIL)
        button.paste(head, ((THUMBNAIL[0] - head.width) // 2, (THUMBNAIL[1] - head.height) // 2))
        button.save(folder / f"{name}.png", optimize=True)


def main(folder: Path) -> None:
    widget = HOST.open_module(HOST.load_module(MODULE_FILE))
    ui = widget.ui
    ultrasound = slicer.util.loadVolume(str(sample_file(SIMULATED)), {"name": SIMULATED, "singleFile": True})
    ultrasound.GetDisplayNode().SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")  # Slicer's reader does it
    ui.runButton.click()
    spin_until(lambda: is_idle(ui), 900)
    for button, name in (
        (ui.batchInputButton, "ultrasound"),
        (ui.batchOutputButton, "mr-like"),
        (ui.exportFolderButton, "for the report"),
    ):
        button.directory = f"/home/me/{name}"
    widget.parent.show()
    halves = [panel_with(widget, names) for names in SECTIONS]
    height = max(half.height for half in halves)
    picture = Image.new("RGB", (sum(half.width for half in halves), height), halves[0].getpixel((2, 2)))
    for index, half in enumerate(halves):
        picture.paste(half, (index * halves[0].width, 0))
    folder.mkdir(parents=True, exist_ok=True)
    picture.quantize(64).save(folder / "panel.png", optimize=True)  # a third of the bytes of full colour
    widget.cleanup()


def panel_with(widget: Any, names: tuple[str, ...]) -> Image.Image:
    """A picture of the panel with these sections open and the others closed."""
    for name in sum(SECTIONS, ()):
        getattr(widget.ui, f"{name}CollapsibleButton").collapsed = name not in names
    for _ in range(6):
        slicer.app.processEvents()
    widget.parent.resize(420, widget.parent.minimumSizeHint().height())
    for _ in range(6):
        slicer.app.processEvents()
    with tempfile.TemporaryDirectory() as folder:
        widget.parent.grab().save(str(Path(folder) / "panel.png"))
        with Image.open(Path(folder) / "panel.png") as picture:
            return picture.convert("RGB")


if __name__ == "__main__":
    if "--thumbnails" in sys.argv:
        thumbnails(MODULE_FILE.parent / "Resources" / "Icons")
    else:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / "Resources" / "Screenshots")
    sys.stdout.flush()
    os._exit(0)  # without taking Qt and VTK apart
