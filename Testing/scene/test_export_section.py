"""The Export section: its buttons write a report, captures and DICOM that are marked as synthetic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
from PIL import Image
from scenery import PICTURES, add_head, add_result, is_idle, play, spin_until
from USMRISynthesisScene.views import layout

pydicom = pytest.importorskip("pydicom")


@pytest.fixture
def folder(panel: Any, ui: Any, tmp_path: Path) -> Any:
    """A panel with a finished result, and the folder it writes to."""
    source = add_head()
    play(panel, "copy")
    spin_until(lambda: is_idle(ui))
    output = slicer.mrmlScene.GetNodeByID(panel.panel._last_output_id)
    slicer.util.updateVolumeFromArray(output, slicer.util.arrayFromVolume(add_result(source)))
    ui.exportFolderButton.directory = str(tmp_path)
    yield tmp_path
    slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)


def test_nothing_can_be_exported_before_there_is_a_result(ui: Any) -> None:
    add_head()
    assert not any(button.enabled for button in (ui.reportButton, ui.captureButton, ui.dicomButton))


def test_captures_carry_the_mark_in_pixels_and_names(folder: Path, ui: Any) -> None:
    ui.captureButton.click()
    assert ui.statusLabel.text == (
        "Written: ultrasound.png, ultrasound-and-mr-like-SYNTHETIC.png, mr-like-SYNTHETIC.png."
    )
    us, fused, mr = (
        np.asarray(Image.open(folder / name))
        for name in ("ultrasound.png", "ultrasound-and-mr-like-SYNTHETIC.png", "mr-like-SYNTHETIC.png")
    )
    band = slice(0, 18)
    assert us.std() > 10 and fused.std() > 10 and mr.std() > 10
    assert (us[band] > 200).sum() == 0
    assert (fused[band] > 200).sum() > 300 and (mr[band] > 200).sum() > 300
    assert layout.is_shown()


def test_report_never_replaces_an_older_one(folder: Path, ui: Any, panel: Any) -> None:
    ui.reportButton.click()
    assert ui.statusLabel.text == "Written: MR-like-report-SYNTHETIC.pdf."
    ui.reportButton.click()
    assert ui.statusLabel.text == "Written: MR-like-report-SYNTHETIC-2.pdf."
    assert (folder / "MR-like-report-SYNTHETIC.pdf").read_bytes().startswith(b"%PDF")
    from USMRISynthesisScene.files.export import save_report

    PICTURES.mkdir(parents=True, exist_ok=True)
    save_report(PICTURES / "report.png", slicer.mrmlScene.GetNodeByID(panel.panel._last_output_id))


def test_dicom_has_the_geometry_of_the_volume(folder: Path, ui: Any, panel: Any) -> None:
    ui.dicomButton.click()
    assert ui.statusLabel.text == "Written: 48 DICOM files in MR-like-SYNTHETIC."
    output = slicer.mrmlScene.GetNodeByID(panel.panel._last_output_id)
    files = sorted((folder / "MR-like-SYNTHETIC").iterdir())
    one = pydicom.dcmread(files[7])
    np.testing.assert_array_equal(one.pixel_array, slicer.util.arrayFromVolume(output)[7])

    matrix = slicer.util.arrayFromVTKMatrix(ijk_matrix(output))
    ras = matrix @ [0, 0, 7, 1]
    np.testing.assert_allclose(np.array(one.ImagePositionPatient, float), ras[:3] * (-1, -1, 1), atol=1e-3)
    assert one[0x0008, 0x001C].value == "YES"
    ui.dicomButton.click()
    assert ui.statusLabel.text == "Written: 48 DICOM files in MR-like-SYNTHETIC-2."


def ijk_matrix(node: Any) -> Any:
    import vtk

    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return matrix


def test_status_names_a_missing_folder(folder: Path, ui: Any) -> None:
    ui.exportFolderButton.directory = str(folder / "gone")
    ui.reportButton.click()
    assert ui.statusLabel.text == (
        "The folder for MR-like-report-SYNTHETIC.pdf does not exist. Create it or choose another one."
    )
    ui.dicomButton.click()
    assert ui.statusLabel.text == (
        "The folder for the DICOM files could not be made. Choose a folder that exists and may be written."
    )
    ui.captureButton.click()
    assert ui.statusLabel.text == "The captures could not be written. Check that the folder exists and has free space."


def test_requirements_are_installed_by_slicer(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util
    import sys
    import types

    from USMRISynthesisLib.errors import Failed
    from USMRISynthesisScene.setup import packages

    requests: list[Any] = []
    fake = types.ModuleType("slicer.packaging")
    fake.load_requirements = lambda path: [line for line in Path(path).read_text().splitlines() if line[0] != "#"]
    fake.pip_ensure = lambda requirements, requester: requests.append((requirements, requester))
    monkeypatch.setitem(sys.modules, "slicer.packaging", fake)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    packages.ensure_packages()
    assert requests == [(["scipy>=1.11", "pydicom>=3.0", "pillow>=10.1"], "USMRISynthesis")]

    def declined(*_: Any, **__: Any) -> None:
        raise RuntimeError("declined")

    fake.pip_ensure = declined
    with pytest.raises(Failed, match=r"Python packages that are needed were not installed\. Press the button again"):
        packages.ensure_packages()
