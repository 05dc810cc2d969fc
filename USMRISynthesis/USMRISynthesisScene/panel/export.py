"""The Export section: report, captures, volume file, DICOM."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from USMRISynthesisScene.files import export
from USMRISynthesisScene.panel.slots import NO_RESULT, allow, status_slot


class ExportSection:
    """Writes the current result into the chosen folder.

    Args:
        result: the current MR-like volume, or None.
        set_status: shows one sentence in the status line.
        prepare: makes the required packages available, or raises USMRIError.
    """

    def __init__(
        self, ui: Any, result: Callable[[], Any], set_status: Callable[[str], None], prepare: Callable[[], None]
    ) -> None:
        self.ui = ui
        self._result, self._set_status, self._prepare = result, set_status, prepare
        ui.reportButton.connect("clicked(bool)", self.on_report)
        ui.captureButton.connect("clicked(bool)", self.on_captures)
        ui.saveButton.connect("clicked(bool)", self.on_save)
        ui.dicomButton.connect("clicked(bool)", self.on_dicom)

    def refresh(self) -> None:
        allow(
            (self.ui.reportButton, self.ui.captureButton, self.ui.saveButton, self.ui.dicomButton),
            self._result() is not None,
            NO_RESULT,
        )

    @status_slot
    def on_report(self) -> str:
        path = _free(self._folder() / "MR-like-report-SYNTHETIC.pdf")
        export.save_report(path, self._result(), self.ui.fadeSlider.value)
        return _written(path.name)

    @status_slot
    def on_captures(self) -> str:
        files = export.save_captures(self._folder(), self._result(), self.ui.fadeSlider.value)
        return _written(*[path.name for path in files])

    @status_slot
    def on_save(self) -> str:
        path = _free(self._folder() / "MR-like-SYNTHETIC.nrrd")
        return _written(path.name, export.save_volume(path, self._result()).name)

    @status_slot
    def on_dicom(self) -> str:
        files = export.save_dicom(self._folder(), self._result())
        return _written(_("{n} DICOM files in {folder}").format(n=len(files), folder=files[0].parent.name))

    def _folder(self) -> Path:
        """The folder to write to, after the required packages were made available."""
        self._prepare()
        return Path(self.ui.exportFolderButton.directory)


def _written(*names: str) -> str:
    return _("Written: {names}.").format(names=", ".join(names))


def _free(path: Path) -> Path:
    """The path, with a number where it exists already: no file is replaced."""
    taken, count = path, 1
    while taken.exists():
        count += 1
        taken = path.with_stem(f"{path.stem}-{count}")
    return taken
