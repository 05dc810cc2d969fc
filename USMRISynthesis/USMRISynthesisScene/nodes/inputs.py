"""The volume that is most likely the ultrasound, and a summary of a volume."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from USMRISynthesisScene.nodes.nodes import is_synthetic

_MODALITY = "DICOM.Modality"
_ULTRASOUND_WORDS = re.compile(
    r"(?<![a-z])(us|[34]d\s?us|ultrasound|sono\w*|fetal|fetus|foetal|head|brain|voluson)(?![a-z])"
)
_OTHER_WORDS = re.compile(r"(?<![a-z])(mri?|t1w?|t2w?|ct|pet|dwi|flair|atlas|template)(?![a-z])")
_SAMPLE = 50_000


def likely_ultrasound(
    scene: slicer.vtkMRMLScene,
    current: slicer.vtkMRMLScalarVolumeNode | None = None,
    without: slicer.vtkMRMLNode | None = None,
) -> Any:
    """The scalar volume that is most likely an ultrasound image, or None where there is no volume.

    `current` stays unless another one is more likely; `without`, which is about to be deleted, and synthetic images are
    left out.
    """
    candidates = [
        node
        for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode", scene)
        if node.GetClassName() in ("vtkMRMLScalarVolumeNode", "vtkMRMLVectorVolumeNode")
        and node is not without
        and not node.GetHideFromEditors()
        and not is_synthetic(node)
    ]
    if current in candidates:
        candidates.insert(0, current)  # max() keeps the first of equals
    return max(candidates, key=ultrasound_likelihood, default=None)


def ultrasound_likelihood(node: slicer.vtkMRMLScalarVolumeNode) -> int:
    """Points for typical properties of ultrasound: modality, name, 8 bits, black outside a fan."""
    points = 0
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    item = hierarchy.GetItemByDataNode(node) if hierarchy is not None else 0
    modality = hierarchy.GetItemAttribute(item, _MODALITY) if item else ""
    if modality:
        points += 6 if modality == "US" else -6
    name = re.sub(r"[_\-.]", " ", (node.GetName() or "").lower())
    points += 2 * bool(_ULTRASOUND_WORDS.search(name)) - 3 * bool(_OTHER_WORDS.search(name))
    image = node.GetImageData()
    if image is None or image.GetNumberOfPoints() == 0:
        return points - 10
    if image.GetNumberOfScalarComponents() != 1:
        return points - 5  # it has to be converted first
    voxels = slicer.util.arrayFromVolume(node)
    points += 2 * (voxels.dtype == np.uint8)
    sample = voxels.ravel()[:: 1 + voxels.size // _SAMPLE]
    points += bool(0.1 < np.mean(sample == sample.min()) < 0.9)
    return points


def describe(node: slicer.vtkMRMLScalarVolumeNode | None) -> str:
    """Size and spacing in one line, so that the user can recognise a wrong spacing."""
    image = node.GetImageData() if node is not None else None
    if node is None or image is None or image.GetNumberOfPoints() == 0:
        return _("No image is selected.")
    i, j, k = image.GetDimensions()
    si, sj, sk = node.GetSpacing()
    if k == 1:
        return _("Frame of {i} x {j} pixels of {si:.3g} x {sj:.3g} mm: {w:.0f} x {h:.0f} mm.").format(
            i=i, j=j, si=si, sj=sj, w=i * si, h=j * sj
        )
    return _(
        "Volume of {i} x {j} x {k} voxels of {si:.3g} x {sj:.3g} x {sk:.3g} mm: {w:.0f} x {h:.0f} x {d:.0f} mm."
    ).format(i=i, j=j, k=k, si=si, sj=sj, sk=sk, w=i * si, h=j * sj, d=k * sk)


def browser_of(volume: slicer.vtkMRMLNode | None) -> Any:
    """The sequence browser that drives this volume with several frames, or None."""
    if volume is None:
        return None
    for browser in slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode"):
        sequence = browser.GetSequenceNode(volume)
        if sequence is not None and sequence.GetNumberOfDataNodes() > 1:
            return browser
    return None
