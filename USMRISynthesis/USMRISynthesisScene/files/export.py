"""Captures, the one-page report, NRRD and DICOM files of a result, from its nodes and the comparison views."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.io.dicom_write import write_dicom
from USMRISynthesisLib.io.provenance import write_with_sidecar
from USMRISynthesisLib.io.report import Report, write_report
from USMRISynthesisLib.io.volume import COMMENT, Volume
from vtk.util.numpy_support import vtk_to_numpy

from USMRISynthesisScene.nodes import nodes
from USMRISynthesisScene.views import layout, marking

_TITLES = {layout.ULTRASOUND: _("Ultrasound"), layout.FUSED: _("Ultrasound + MR-like"), layout.MR: _("MR-like")}


def provenance_of(output: slicer.vtkMRMLNode) -> dict[str, Any]:
    """The provenance of a result; empty where it has none."""
    text = output.GetAttribute(nodes.PROVENANCE_ATTRIBUTE)
    return dict(json.loads(text)) if text else {}


def capture_views(output: slicer.vtkMRMLScalarVolumeNode, fusion: float = layout.FUSION) -> dict[str, np.ndarray]:
    """Title -> (rows, columns, 3) uint8 of the three comparison views, marks included.

    The views are shown first unless they show this result already. Raises Failed without a main window.
    """
    if not _is_compared(output) and not layout.show_comparison(nodes.require_source(output), output, fusion):
        raise Failed("no-views", _("There are no views to capture."), _("Start Slicer with its main window."))
    marking.keep_marked()
    slicer.app.processEvents()
    layout.settle()
    manager = slicer.app.layoutManager()
    return {title: _picture(manager.sliceWidget(tag).sliceView()) for tag, title in _TITLES.items()}


def save_report(path: Path, output: slicer.vtkMRMLScalarVolumeNode, fusion: float = layout.FUSION) -> None:
    """Write the report as PDF or PNG, by the suffix of the file name."""
    write_report(path, Report(capture_views(output, fusion), provenance_of(output)))


def save_captures(folder: Path, output: slicer.vtkMRMLScalarVolumeNode, fusion: float = layout.FUSION) -> list[Path]:
    """One PNG for each of the three views; the synthetic ones are marked in their pixels and names."""
    try:
        from PIL import Image
    except ImportError as error:
        raise Failed(
            "pillow",
            _("Captures need the Python package Pillow, which is not installed."),
            _("Install it by slicer.util.pip_install('pillow')."),
        ) from error
    files = []
    try:
        for title, picture in capture_views(output, fusion).items():
            synthetic = title != _TITLES[layout.ULTRASOUND]
            name = title.lower().replace(" + ", "-and-") + ("-SYNTHETIC" if synthetic else "")
            files.append(folder / f"{name}.png")
            Image.fromarray(picture).save(files[-1])
    except OSError as error:
        raise Failed(
            "write", _("The captures could not be written."), _("Check that the folder exists and has free space.")
        ) from error
    return files


def save_volume(path: Path, output: slicer.vtkMRMLScalarVolumeNode) -> Path:
    """Write the MR-like volume as NRRD, marked as synthetic, and its provenance beside it; returns the latter's path.

    The file has the volume's own geometry, without its parent transforms.
    """
    provenance = provenance_of(output)
    volume = nodes.read_volume(output)
    marked = Volume(
        volume.array,
        volume.ijk_to_ras,
        {
            COMMENT: nodes.SYNTHETIC,
            nodes.SYNTHETIC_ATTRIBUTE: nodes.SYNTHETIC,
            nodes.PROVENANCE_ATTRIBUTE: json.dumps(provenance, sort_keys=True),
        },
    )
    return write_with_sidecar(marked, {"notice": nodes.SYNTHETIC, **provenance}, path)


def save_dicom(folder: Path, output: slicer.vtkMRMLScalarVolumeNode) -> list[Path]:
    """Write one DICOM file for each slice into a new folder inside `folder`, so that series never mix."""
    target = folder / "MR-like-SYNTHETIC"
    count = 1
    while target.exists():
        count += 1
        target = folder / f"MR-like-SYNTHETIC-{count}"
    source = _dicom_file(nodes.require_source(output))
    volume = nodes.read_volume(output)
    try:
        target.mkdir()
    except OSError as error:
        raise Failed(
            "folder",
            _("The folder for the DICOM files could not be made."),
            _("Choose a folder that exists and may be written."),
        ) from error
    try:
        return write_dicom(target, volume, provenance_of(output), source=source)
    except Exception:
        target.rmdir()
        raise


def _dicom_file(volume: slicer.vtkMRMLNode) -> str | None:
    """A file of the DICOM series that the ultrasound was loaded from, where Slicer's DICOM database has it."""
    uids = (volume.GetAttribute(nodes.DICOM_UIDS) or "").split()
    database = slicer.dicomDatabase if uids and hasattr(slicer, "dicomDatabase") else None
    return (database.fileForInstance(uids[0]) or None) if database is not None else None


def _is_compared(output: slicer.vtkMRMLNode) -> bool:
    if not layout.is_shown():
        return False
    composite = slicer.app.layoutManager().sliceWidget(layout.MR).mrmlSliceCompositeNode()
    return composite.GetBackgroundVolumeID() == output.GetID()


def _picture(view: Any) -> np.ndarray:
    """The pixels of a view as it is now."""
    view.forceRender()
    grabber = vtk.vtkWindowToImageFilter()
    grabber.SetInput(view.renderWindow())
    grabber.ReadFrontBufferOff()
    grabber.Update()
    image = grabber.GetOutput()
    columns, rows, _depth = image.GetDimensions()
    return np.flipud(vtk_to_numpy(image.GetPointData().GetScalars()).reshape(rows, columns, -1)[..., :3]).copy()
