"""File readers written in Python: what Slicer does with the class `<Module>FileReader` of a scripted module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer

from slicer_standin.generated import bare_class, plays


@plays
class qSlicerScriptedFileReader(bare_class("qSlicerScriptedFileReader")):  # type: ignore[misc]
    """The C++ side of a reader: the `parent` that a Python reader is given."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._messages = slicer.vtkMRMLMessageCollection()

    def userMessages(self) -> Any:
        return self._messages


def drop_file(python_module: Any, path: Path) -> list[str] | None:
    """Drop a file on Slicer: None where the module's reader does not accept it, else the messages about it."""
    parent = qSlicerScriptedFileReader()
    reader = getattr(python_module, f"{python_module.__name__}FileReader")(parent)
    assert isinstance(reader.description(), str) and isinstance(reader.fileType(), str)
    endings = [one.partition("(*")[2].rstrip(")") for one in reader.extensions()]
    claimed = path.suffix in endings and reader.canLoadFile(str(path))
    assert isinstance(claimed, bool)
    if not claimed:
        return None
    assert isinstance(reader.load({"fileName": str(path)}), bool)
    messages = parent.userMessages()
    return [messages.GetNthMessageText(index) for index in range(messages.GetNumberOfMessages())]
