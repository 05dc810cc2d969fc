"""Slicer's and CTK's Qt classes, generated from the list of what Python can reach on them.

Properties hold a value, signals can be connected and emitted, and every slot or invokable exists but raises
NotImplementedError until a class in this package plays it (`@plays`). Other names raise AttributeError, as in
Slicer.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets

from slicer_standin.pythonqt import CONNECTIONS, PythonQtObject, normalised, pythonqt_class

_TYPES = {
    "QString": str,
    "bool": bool,
    "int": int,
    "double": float,
    "float": float,
    "QStringList": "QStringList",
    "QColor": QtGui.QColor,
    "QIcon": QtGui.QIcon,
}
_EMPTY: dict[Any, Callable[[], Any]] = {
    str: str,
    bool: bool,
    int: int,
    float: float,
    "QStringList": list,
    QtGui.QColor: QtGui.QColor,
    QtGui.QIcon: QtGui.QIcon,
}
_played: dict[str, type] = {}


@cache
def api() -> dict[str, Any]:
    with gzip.open(Path(__file__).parent / "qt-classes.json.gz", "rt", encoding="utf-8") as file:
        return json.load(file)["classes"]


def slicer_class(name: str) -> type:
    """The class of that name: the one the host plays, else the bare generated one. KeyError for others."""
    return _played.get(name) or bare_class(name)


@cache
def bare_class(name: str) -> type:
    """The generated class, before the host gives it behaviour."""
    entry = api()[name]
    base = _base(entry["base"])
    content: dict[str, Any] = {**CONNECTIONS, "_pythonqt_generated": True, "__module__": "slicer"}
    signals = dict(getattr(base, "_python_signals", {}))
    for signature in entry.get("signals", []):
        attribute = _signal_attribute(signature, content)
        content[attribute] = QtCore.Signal(*[object] * _argument_count(signature))
        signals[normalised(signature)] = attribute
    content["_python_signals"] = signals
    for signature in [*entry.get("slots", []), *entry.get("invokables", [])]:
        method = signature.partition("(")[0]
        content.setdefault(method, _not_played(name, method))
    for property_name, description in entry.get("properties", {}).items():
        content[property_name] = _stored_property(property_name, description)
    return type(base)(name, (base,), content)


def plays(cls: type) -> type:
    """Class decorator: the host's behaviour for a generated class. Public names that Slicer lacks are an error."""
    name = cls.__name__
    known = reachable_names(name)
    extra = [
        one
        for one in vars(cls)
        if not one.startswith("_") and one not in known and not hasattr(QtWidgets.QAbstractButton, one)
    ]
    if extra:
        raise AttributeError(f"Slicer's {name} has no {', '.join(extra)}")
    cls._pythonqt_generated = True
    for method, function in CONNECTIONS.items():
        setattr(cls, method, function)
    _played[name] = cls
    return cls


def reachable_names(name: str) -> set[str]:
    """Everything the list has for a class and its bases."""
    names: set[str] = set()
    while name in api():
        entry = api()[name]
        for signature in [*entry.get("signals", []), *entry.get("slots", []), *entry.get("invokables", [])]:
            names.add(signature.partition("(")[0])
        names.update(entry.get("properties", {}))
        name = entry["base"]
    return names


def _base(name: str) -> type:
    if name in api():
        return slicer_class(name)
    for module in (QtWidgets, QtGui, QtCore):
        if hasattr(module, name):
            return pythonqt_class(getattr(module, name))
    return pythonqt_class(QtCore.QObject)


def _argument_count(signature: str) -> int:
    inside = re.sub(r"<[^<>]*>", "", signature.partition("(")[2].rpartition(")")[0])
    return len([one for one in inside.split(",") if one.strip()])


def _signal_attribute(signature: str, content: dict[str, Any]) -> str:
    """The signal's name; a second overload gets a private one, since Python has one attribute for both."""
    name = signature.partition("(")[0]
    return name if name not in content else f"_{name}_{len(content)}"


def _not_played(class_name: str, method: str) -> Callable:
    def missing(self: Any, *_: Any) -> Any:
        raise NotImplementedError(f"{class_name}.{method} is in Slicer, but the test host does not play it")

    missing.__name__ = method
    return missing


def _stored_property(name: str, description: str) -> Any:
    """A Qt property that keeps its value; `_changed_<name>` of the class is called after a change."""
    kind = _TYPES.get(description.removesuffix(" (read only)"), "QVariant")
    key = f"_value_{name}"

    def read(self: Any) -> Any:
        if key not in self.__dict__:
            return _EMPTY.get(kind, lambda: None)()
        return self.__dict__[key]

    def write(self: Any, value: Any) -> None:
        if self.__dict__.get(key) != value:
            self.__dict__[key] = value
            getattr(self, f"_changed_{name}", lambda: None)()

    if description.endswith("(read only)"):
        return QtCore.Property(kind, read)
    return QtCore.Property(kind, read, write)


__all__ = ["PythonQtObject", "api", "bare_class", "plays", "reachable_names", "slicer_class"]
