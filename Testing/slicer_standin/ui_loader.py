"""Loads .ui files with the host's classes, and refuses what Slicer's loader would refuse or silently ignore."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

from PySide6 import QtCore, QtUiTools, QtWidgets

from slicer_standin.generated import api, slicer_class
from slicer_standin.pythonqt import normalised, pythonqt_class


class QUiLoader:
    """`qt.QUiLoader`: `load(file)` returns the top widget."""

    def load(self, file: QtCore.QIODevice, parent: Any = None) -> Any:
        root = ElementTree.fromstring(bytes(file.readAll().data()))
        # Connections name C++ types that exist in Slicer only: they are made below, by name and checked.
        connections = root.find("connections")
        listed = (
            []
            if connections is None
            else [tuple(one.findtext(tag) for tag in ("sender", "signal", "receiver", "slot")) for one in connections]
        )
        if connections is not None:
            root.remove(connections)
        buffer = QtCore.QBuffer()
        buffer.setData(ElementTree.tostring(root))
        buffer.open(QtCore.QIODevice.ReadOnly)
        loader = _Loader()
        widget = loader.load(buffer, parent)
        if widget is None:
            raise RuntimeError(loader.errorString())
        _check_properties(root, loader.created)
        for sender, signal, receiver, slot in listed:
            _connect(loader.created[sender], signal, loader.created[receiver], slot)
        return widget


class _Loader(QtUiTools.QUiLoader):
    """Makes every widget and layout of the host's classes and remembers them by name."""

    def __init__(self) -> None:
        super().__init__()
        self.created: dict[str, Any] = {}

    def createWidget(self, class_name: str, parent: Any = None, name: str = "") -> Any:
        if class_name in api():
            widget = slicer_class(class_name)(parent)
        else:
            widget = pythonqt_class(getattr(QtWidgets, class_name))(parent)
        widget.setObjectName(name)
        self.created[name] = widget
        return widget

    def createLayout(self, class_name: str, parent: Any = None, name: str = "") -> Any:
        # A layout inside a layout is given its parent by the loader.
        owner = parent if isinstance(parent, QtWidgets.QWidget) and QtWidgets.QWidget.layout(parent) is None else None
        layout = pythonqt_class(getattr(QtWidgets, class_name))(*([owner] if owner is not None else []))
        layout.setObjectName(name)
        self.created[name] = layout
        return layout


def _check_properties(root: ElementTree.Element, created: dict[str, Any]) -> None:
    """A misspelt property in a .ui file is otherwise only a line in a log."""
    for element in root.iter("widget"):
        widget = created[element.get("name")]
        for entry in element.findall("property"):
            name = entry.get("name")
            # A label's buddy is a name in the file, not a property of the widget.
            if name != "buddy" and entry.get("stdset") != "0" and widget.metaObject().indexOfProperty(name) < 0:
                raise AttributeError(f"{element.get('class')} {element.get('name')} has no property {name!r}")


def _connect(sender: Any, signal: str, receiver: Any, slot: str) -> None:
    entry_name = type(receiver).__name__
    slots: set[str] = set()
    while entry_name in api():
        slots.update(normalised(one) for one in api()[entry_name].get("slots", []))
        entry_name = api()[entry_name]["base"]
    if normalised(slot) not in slots and receiver.metaObject().indexOfSlot(normalised(slot)) < 0:
        raise AttributeError(f"{type(receiver).__name__} has no slot {slot!r}")
    sender.connect(signal, getattr(receiver, slot.partition("(")[0]))
