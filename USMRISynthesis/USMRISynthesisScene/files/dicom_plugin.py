"""Plugin for Slicer's DICOM export that writes an MR-like volume as derived and synthetic.

Slicer's export of a scalar volume writes "original, primary" and a real modality, so that an MR-like volume would pass
for a real scan. This plugin is offered first, with a higher confidence, and warns of the other.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _
from USMRISynthesisLib.errors import USMRIError

from USMRISynthesisScene.files import export
from USMRISynthesisScene.nodes.nodes import is_synthetic

log = logging.getLogger(__name__)

NAME = "USMRISynthesisDICOMPlugin"
TITLE = _("MR-like image, SYNTHETIC")


def register_dicom_plugin() -> None:
    """Register the plugin where the DICOM module is available. Calling it again changes nothing."""
    try:
        from DICOMLib import DICOMPlugin
    except ImportError:
        return

    class Plugin(_SyntheticExport, DICOMPlugin):
        """Export only: the plugin for scalar volumes loads synthetic series."""

        def __init__(self) -> None:
            super().__init__()
            self.loadType = TITLE

        def examineForImport(self, fileList: Any) -> list[Any]:
            return []

    Plugin.__name__ = NAME
    if not hasattr(slicer.modules, "dicomPlugins"):
        slicer.modules.dicomPlugins = {}
    slicer.modules.dicomPlugins[NAME] = Plugin


class _SyntheticExport:
    """The part of a DICOM plugin that exports."""

    def examineForExport(self, subjectHierarchyItemID: int) -> list[Any]:
        """One exportable for a synthetic volume; nothing for any other item."""
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
        node = hierarchy.GetItemDataNode(subjectHierarchyItemID)
        if node is None or node.GetClassName() != "vtkMRMLScalarVolumeNode" or not is_synthetic(node):
            return []
        exportable = slicer.qSlicerDICOMExportable()
        exportable.name = TITLE
        exportable.tooltip = _(
            'Derived, synthetic, for research only. Do not use "Scalar volume" for this image: it '
            "would write a series that looks like a real scan."
        )
        exportable.subjectHierarchyItemID = subjectHierarchyItemID
        exportable.pluginClass = NAME
        exportable.confidence = 1.0  # above the 0.5 of a plain scalar volume
        return [exportable]

    def export(self, exportables: list[Any]) -> str:
        """Write all exportables; returns an error message, empty on success."""
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
        for exportable in exportables:
            node = hierarchy.GetItemDataNode(exportable.subjectHierarchyItemID)
            try:
                export.save_dicom(Path(exportable.directory), node)
            except USMRIError as error:
                log.debug("DICOM export failed", exc_info=True)
                return str(error)
        return ""
