"""Inputs that can be put right: colour pictures of grey images, and voxel sizes that cannot be true."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.colour import to_grey
from USMRISynthesisLib.ultrasound.gate import MAX_EXTENT_MM, MAX_UNIT_EXTENT_MM, MIN_EXTENT_MM

from USMRISynthesisScene.nodes.inputs import browser_of
from USMRISynthesisScene.nodes.nodes import DICOM_UIDS


def is_colour(node: slicer.vtkMRMLNode | None) -> bool:
    image = node.GetImageData() if node is not None and node.IsA("vtkMRMLVolumeNode") else None
    return image is not None and image.GetNumberOfScalarComponents() in (3, 4)


def to_greyscale(colours: np.ndarray) -> np.ndarray:
    """The grey image in (k, j, i, 3 or 4) RGB(A) voxels; Refused where there is real colour, which means something."""
    try:
        return to_grey(colours)
    except Refused as error:
        raise Refused(
            "doppler",
            error.message,
            _("Switch colour and overlays off on the scanner and export the B-mode image again."),
        ) from error


def greyscale_copy(node: slicer.vtkMRMLVectorVolumeNode) -> Any:
    """A new scalar volume in the same place; the colour volume stays. Raises Refused for real colour.

    Of a sequence every frame is converted: the volume is the proxy of a new sequence under the same browser.
    """
    if not is_colour(node):
        raise Refused(
            "no-colour", _("{name} is not a colour image.").format(name=node.GetName()), _("It needs no conversion.")
        )
    browser = browser_of(node)
    if browser is not None:
        return _greyscale_sequence(node, browser)
    grey = to_greyscale(slicer.util.arrayFromVolume(node))
    made = node.GetScene().AddNewNodeByClass("vtkMRMLScalarVolumeNode", f"{node.GetName()} greyscale")
    slicer.util.updateVolumeFromArray(made, grey)
    made.CopyOrientation(node)
    made.SetAndObserveTransformNodeID(node.GetTransformNodeID())
    made.SetAttribute(DICOM_UIDS, node.GetAttribute(DICOM_UIDS))  # so that a DICOM export finds the patient
    made.CreateDefaultDisplayNodes()
    return made


def _greyscale_sequence(node: slicer.vtkMRMLVectorVolumeNode, browser: Any) -> Any:
    """The proxy of the converted sequence. The scene is touched when every frame has been converted."""
    frames = browser.GetSequenceNode(node)
    count = frames.GetNumberOfDataNodes()
    greys = [_grey_frame(frames.GetNthDataNode(index), index + 1, count) for index in range(count)]
    scene, name = node.GetScene(), f"{node.GetName()} greyscale"
    made = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", f"{name} sequence")
    sequence.SetIndexName(frames.GetIndexName())
    sequence.SetIndexUnit(frames.GetIndexUnit())
    sequence.SetIndexType(frames.GetIndexType())
    made.SetAttribute(DICOM_UIDS, node.GetAttribute(DICOM_UIDS))
    now = min(max(0, browser.GetSelectedItemNumber()), count - 1)
    for index in [*range(count), now]:  # the one that is shown comes last, once more
        slicer.util.updateVolumeFromArray(made, greys[index])
        made.CopyOrientation(frames.GetNthDataNode(index))
        sequence.SetDataNodeAtValue(made, frames.GetNthIndexValue(index))
    made.SetAndObserveTransformNodeID(node.GetTransformNodeID())
    made.CreateDefaultDisplayNodes()
    browser.AddSynchronizedSequenceNode(sequence)
    browser.AddProxyNode(made, sequence, False)
    return made


def _grey_frame(frame: Any, number: int, count: int) -> np.ndarray:
    if not is_colour(frame):
        raise Refused(
            "no-colour",
            _("Frame {n} of {count} is not a colour image.").format(n=number, count=count),
            _("Convert a sequence whose frames are all in colour."),
        )
    try:
        return to_greyscale(slicer.util.arrayFromVolume(frame))
    except Refused as error:
        raise Refused(
            error.kind,
            _("Frame {n} of {count}: {message}").format(n=number, count=count, message=error.message),
            error.remedy,
        ) from error


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
        raise Refused(
            "pixel-size",
            _("The voxel size must be a positive number of millimetres."),
            _("Enter the size that the scanner states."),
        )
    if not all(np.isfinite(mm) and mm > 0 for mm in node.GetSpacing()):
        raise Refused(
            "geometry",
            _("The voxel size of {name} is no number.").format(name=node.GetName()),
            _("Enter all three in the module Volumes."),
        )
    factor = first_mm / node.GetSpacing()[0]
    node.SetSpacing(*[mm * factor for mm in node.GetSpacing()])
