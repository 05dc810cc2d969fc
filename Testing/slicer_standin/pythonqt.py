"""PythonQt's conventions on top of Qt for Python.

A property is an attribute: `button.text = "Go"`, never `button.text()`. A signal is connected by its signature:
`button.connect("clicked(bool)", f)`, or as `button.clicked.connect(f)`. Setting an attribute that is no property
raises AttributeError, except on classes that Python code derives itself, where PythonQt allows it too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

from PySide6 import QtCore

# Virtual functions that are properties as well: an attribute of that name would be taken for an override.
_VIRTUAL = {"sizeHint", "minimumSizeHint"}
_classes: dict[type, type] = {}


class PythonQtObject:
    """What every Qt object can do under PythonQt. Mixed into the generated classes."""

    _python_signals: ClassVar[dict[str, str]] = {}  # signature -> attribute, for signals that are not C++

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, QtCore.QObject) and QtCore.QObject.objectName(value) == name:
            return  # Qt for Python's .ui loader hangs the children on the top widget; PythonQt's does not
        known = name.startswith("_") or isinstance(
            inspect.getattr_static(type(self), name, None), (property, QtCore.Property)
        )
        if not known and "_pythonqt_generated" in vars(type(self)):
            raise AttributeError(f"{type(self).__name__} has no property {name!r}")
        super().__setattr__(name, value)

    def connect(self, signature: str, receiver: Callable) -> bool:
        self._signal(signature).connect(receiver)
        return True

    def disconnect(self, signature: str, receiver: Callable) -> bool:
        self._signal(signature).disconnect(receiver)
        return True

    def className(self) -> str:
        return type(self).__name__

    def _signal(self, signature: str) -> Any:
        normal = normalised(signature)
        if normal in self._python_signals:
            return getattr(self, self._python_signals[normal])
        meta = self.metaObject()
        if meta.indexOfSignal(normal) < 0:
            raise AttributeError(f"{type(self).__name__} has no signal {signature!r}")
        name, _, arguments = normal.partition("(")
        bound = getattr(self, name)
        overloads = [
            meta.method(i)
            for i in range(meta.methodCount())
            if meta.method(i).methodType() == QtCore.QMetaMethod.Signal
            and bytes(meta.method(i).name()).decode() == name
        ]
        if len(overloads) > 1:
            return bound[_argument_types(arguments.rstrip(")"))]
        return bound


# Qt for Python finds its own `connect` on an instance unless the very class has one.
CONNECTIONS = {"connect": PythonQtObject.connect, "disconnect": PythonQtObject.disconnect}


def normalised(signature: str) -> str:
    """Qt's normal form: no spaces, no `const ...&`."""
    return bytes(QtCore.QMetaObject.normalizedSignature(signature)).decode()


def _argument_types(text: str) -> Any:
    python = {"bool": bool, "int": int, "double": float, "QString": str}
    types = tuple(python.get(one, one) for one in text.split(",") if one)
    return types[0] if len(types) == 1 else types


class _QtProperty(property):
    """On an instance the property; on the class what Qt has there, such as the function QTimer.singleShot."""

    on_class: Any = None

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self.on_class if instance is None else super().__get__(instance, owner)


def _property(name: str, writable: bool, on_class: Any) -> property:
    def read(self: Any) -> Any:
        return QtCore.QObject.property(self, name)

    def write(self: Any, value: Any) -> None:
        if not QtCore.QObject.setProperty(self, name, value):
            raise TypeError(f"{type(self).__name__}.{name} cannot be {value!r}")

    made = _QtProperty(read, write if writable else None)
    made.on_class = on_class
    return made


def properties_of(base: type) -> dict[str, property]:
    """Every Qt property of a class as a Python property; `name` is PythonQt's alias of objectName."""
    meta = base.staticMetaObject
    found = {}
    for index in range(meta.propertyCount()):
        one = meta.property(index)
        if one.name() not in _VIRTUAL:
            found[one.name()] = _property(one.name(), one.isWritable(), getattr(base, one.name(), None))
    found["name"] = found["objectName"]
    return found


def pythonqt_class(base: type) -> type:
    """The class that stands for `base` under PythonQt; the same one every time."""
    if base not in _classes:
        content = {**properties_of(base), **CONNECTIONS, "_pythonqt_generated": True, "__module__": "qt"}
        _classes[base] = type(base)(base.__name__, (PythonQtObject, base), content)
    return _classes[base]
