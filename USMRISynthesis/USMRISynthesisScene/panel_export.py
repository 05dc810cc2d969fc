"""The Export section: report, captures, volume file, DICOM."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _
from USMRISynthesisLib.errors import USMRIError

from USMRISynthesisScene import export


class ExportSection:
    """Writes the result at hand into the folder that was chosen.

    Args:
        result: the MR-like volume at hand, or None.
        say: where one sentence for the user goes.
        prepare: makes the packages available that are needed, or raises.
    """

    def __init__(self, ui: Any, result: Callable[[], Any], say: Callable[[str], None],
                 prepare: Callable[[], None]) -> None:
        self.ui = ui
        self._result, self._say, self._prepare = result, say, prepare
        ui.reportButton.connect("clicked(bool)", self.on_report)
        ui.captureButton.connect("clicked(bool)", self.on_captures)
        ui.saveButton.connect("clicked(bool)", self.on_save)
        ui.dicomButton.connect("clicked(bool)", self.on_dicom)

    def refresh(self) -> None:
        there = self._result() is not None
        for button in (self.ui.reportButton, self.ui.captureButton, self.ui.saveButton, self.ui.dicomButton):
            button.enabled = there

    def on_report(self, checked: bool = False) -> None:
        def write(folder: Path) -> str:
            path = _free(folder / "MR-like-report-SYNTHETIC.pdf")
            export.save_report(path, self._result(), self.ui.fadeSlider.value)
            return path.name

        self._write(write)

    def on_captures(self, checked: bool = False) -> None:
        self._write(lambda folder: ", ".join(path.name for path in export.save_captures(
            folder, self._result(), self.ui.fadeSlider.value)))

    def on_save(self, checked: bool = False) -> None:
        def write(folder: Path) -> str:
            path = _free(folder / "MR-like-SYNTHETIC.nrrd")
            return f"{path.name}, {export.save_volume(path, self._result()).name}"

        self._write(write)

    def on_dicom(self, checked: bool = False) -> None:
        def write(folder: Path) -> str:
            files = export.save_dicom(folder, self._result())
            return _("{n} DICOM files in {folder}").format(n=len(files), folder=files[0].parent.name)

        self._write(write)

    def _write(self, write: Callable[[Path], str]) -> None:
        try:
            self._prepare()
            self._say(_("Written: {names}.").format(names=write(Path(self.ui.exportFolderButton.directory))))
        except USMRIError as error:
            self._say(str(error))


def _free(path: Path) -> Path:
    """The path, numbered if it is taken: an older report is not lost."""
    taken, count = path, 1
    while taken.exists():
        count += 1
        taken = path.with_stem(f"{path.stem}-{count}")
    return taken
