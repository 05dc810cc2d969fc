"""When Slicer saves an MR-like volume, write its provenance beside the file and show a note.

Slicer writes scalar volumes without their attributes. The JSON file beside the image brings the mark back when the
image is loaded, in Slicer and by `usmri`.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _
from USMRISynthesisLib.io.provenance import marks, sidecar_of

from USMRISynthesisScene.nodes import nodes

log = logging.getLogger(__name__)

_SIGNAL = "fileSaved(qSlicerIO::IOProperties)"
_SHOWN_MS = 15_000
_followed = False


def follow_saves() -> None:
    """Start this for as long as Slicer runs. Calling it again changes nothing."""
    global _followed
    if not _followed:
        slicer.app.coreIOManager().connect(_SIGNAL, on_saved)
        _followed = True


def stop_following() -> None:
    """Stop it, before the module is reloaded."""
    global _followed
    if _followed:
        slicer.app.coreIOManager().disconnect(_SIGNAL, on_saved)
        _followed = False


def on_saved(properties: Any) -> None:
    """properties: those of the saved file, with "nodeID" and "fileName"."""
    if not isinstance(properties, dict):
        return
    node = slicer.mrmlScene.GetNodeByID(str(properties.get("nodeID", "")))
    name = str(properties.get("fileName", ""))
    if node is None or not node.IsA("vtkMRMLVolumeNode") or not nodes.is_synthetic(node) or not Path(name).is_file():
        return
    if not marks(name):
        _write_sidecar(Path(name), node)
    slicer.util.showStatusMessage(
        _("{name} is a SYNTHETIC image, not for diagnosis: keep its .json file beside it when you pass it on.").format(
            name=Path(name).name
        ),
        _SHOWN_MS,
    )


def _write_sidecar(image: Path, node: slicer.vtkMRMLVolumeNode) -> None:
    """Write the provenance, unless a file of that name exists."""
    sidecar = sidecar_of(image)
    content = {"notice": nodes.SYNTHETIC, **json.loads(node.GetAttribute(nodes.PROVENANCE_ATTRIBUTE) or "{}")}
    try:
        with open(sidecar, "x", encoding="utf-8") as file:
            file.write(json.dumps(content, indent=2) + "\n")
    except OSError:
        log.warning("The provenance could not be written beside a saved MR-like volume.", exc_info=True)
