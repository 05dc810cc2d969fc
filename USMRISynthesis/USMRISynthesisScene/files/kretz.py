"""GE Kretz volumes (.vol, .v00), which need the extension SlicerHeart."""

from __future__ import annotations

from pathlib import Path

import slicer
from slicer.i18n import tr as _

EXTENSIONS = ["GE Kretz ultrasound volume (*.vol)", "GE Kretz ultrasound volume (*.v00)"]
_MAGIC = b"KRETZFILE"


def is_kretz(path: str | Path) -> bool:
    """Whether a file has the signature of Kretz files; other formats use the suffix .vol as well."""
    try:
        with open(path, "rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def is_unreadable_kretz(path: str | Path) -> bool:
    """Whether it is a Kretz file and no reader for it is installed."""
    return not hasattr(slicer.modules, "kretzfilereader") and is_kretz(path)


def kretz_advice(path: str | Path) -> str:
    """How such a file can be opened."""
    return _(
        "{name} is a GE Kretz volume, which Slicer alone cannot read. Install the extension SlicerHeart, restart "
        "Slicer and open it again; if it is compressed, save it uncompressed on the scanner first."
    ).format(name=Path(path).name)
