"""Inputs that can be put right: colour pictures of grey images, and voxel sizes that cannot be true."""
from __future__ import annotations

from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.colour import to_grey
from USMRISynthesisLib.ultrasound.gate import MAX_EXTENT_MM, MAX_UNIT_EXTENT_MM, MIN_EXTENT_MM

from USMRISynthesisScene.nodes.nodes import DICOM_UIDS


def is_colour(node: slicer.vtkMRMLNode | None) -> bool:
    image = node.GetImageData() if node is not None and node.IsA("vtkMRMLVolumeNode") else None
    return image is not None and image.GetNumberOfScalarComponents() in (3, 4)


def to_greyscale(colours: np.ndarray) -> np.ndarray:
    """The grey image in (k, j, i, 3 or 4) RGB(A) voxels; Refused where there is real colour, which means something."""
    try:
        return to_grey(colours)
    except Refused as error:
        raise Refused("doppler", error.message, _("Switch colour and overlays off on the scanner and export the "
                                                  "B-mode image again.")) from error


def greyscale_copy(node: slicer.vtkMRMLVectorVolumeNode) -> Any:
    """A new scalar volume in the same place; the colour volume stays. Raises Refused for real colour."""
    if not is_colour(node):
        raise Refused("no-colour", _("{name} is not a colour image.").format(name=node.GetName()),
                      _("It needs no conversion."))
    grey = to_greyscale(slicer.util.arrayFromVolume(node))
    made = node.GetScene().AddNewNodeByClass("vtkMRMLScalarVolumeNode", f"{node.GetName()} greyscale")
    slicer.util.updateVolumeFromArray(made, grey)
    made.CopyOrientation(node)
    made.SetAndObserveTransformNodeID(node.GetTransformNodeID())
    made.SetAttribute(DICOM_UIDS, node.GetAttribute(DICOM_UIDS))      # so that a DICOM export finds the patient
    made.CreateDefaultDisplayNodes()
    return made


def spacing_complaint(node: slicer.vtkMRMLScalarVolumeNode | None) -> str:
    """Why the voxel size cannot be right, by the rules of the gate, or nothing."""
    image = node.GetImageData() if node is not None else None
    if node is None or image is None or image.GetNumberOfPoints() == 0:
        return ""
    size, spacing = image.GetDimensions(), node.GetSpacing()
    axes = 2 if size[2] == 1 else 3
    extent = max(n * mm for n, mm in zip(size[:axes], spacing[:axes], strict=True))
    if all(abs(mm - 1) < 1e-6 for mm in spacing[:axes]) and extent > MAX_UNIT_EXTENT_MM:
        return _("It seems to carry no voxel size.")
    if not MIN_EXTENT_MM <= extent <= MAX_EXTENT_MM:
        return _("That does not fit a fetal head.")
    return ""


def correct_spacing(node: slicer.vtkMRMLScalarVolumeNode, first_mm: float) -> None:
    """Give the volume's first axis this spacing; the others keep their proportion to it."""
    if not (np.isfinite(first_mm) and first_mm > 0):
        raise Refused("pixel-size", _("The voxel size must be a positive number of millimetres."),
                      _("Enter the size that the scanner states."))
    factor = first_mm / node.GetSpacing()[0]
    node.SetSpacing(*[mm * factor for mm in node.GetSpacing()])
