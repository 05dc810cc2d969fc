"""GE Kretz volumes (.vol, .v00), which SlicerHeart reads and Slicer alone does not."""
from __future__ import annotations

from pathlib import Path

import slicer
from slicer.i18n import tr as _

EXTENSIONS = ["GE Kretz ultrasound volume (*.vol)", "GE Kretz ultrasound volume (*.v00)"]
_MAGIC = b"KRETZFILE"


def is_kretz(path: str | Path) -> bool:
    """Whether a file begins as Kretz files do; other formats end in .vol as well."""
    try:
        with open(path, "rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def is_unreadable_kretz(path: str | Path) -> bool:
    """Whether it is a Kretz file and nothing that reads them is installed."""
    return not hasattr(slicer.modules, "kretzfilereader") and is_kretz(path)


def kretz_advice(path: str | Path) -> str:
    """What to do with such a file."""
    return _("{name} is a GE Kretz volume, which Slicer alone cannot read. Install the extension SlicerHeart, restart "
             "Slicer and open it again; if it is compressed, save it uncompressed on the scanner first.").format(
                 name=Path(path).name)
