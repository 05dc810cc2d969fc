"""The modules `qt` and `ctk`, and the names of Slicer's Qt classes in `slicer`."""

from __future__ import annotations

import types
from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets

from slicer_standin.generated import api, slicer_class
from slicer_standin.pythonqt import pythonqt_class
from slicer_standin.ui_loader import QUiLoader


class QtModule(types.ModuleType):
    """`qt`: every class of QtCore, QtGui and QtWidgets in one namespace, with PythonQt's manners."""

    QUiLoader = QUiLoader

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        for module in (QtCore, QtGui, QtWidgets):
            if hasattr(module, name):
                found = getattr(module, name)
                is_object = isinstance(found, type) and issubclass(found, QtCore.QObject)
                value = pythonqt_class(found) if is_object else found
                setattr(self, name, value)
                return value
        raise AttributeError(f"qt has no {name!r}")


class CtkModule(types.ModuleType):
    """`ctk`: the classes of the list whose names begin with ctk."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("ctk") and name in api():
            return slicer_class(name)
        raise AttributeError(f"ctk has no {name!r}")


def slicer_qt_classes() -> dict[str, type]:
    """qMRML... and qSlicer... widget classes, to be found in `slicer`."""
    names = (
        "qMRMLWidget",
        "qMRMLNodeComboBox",
        "qMRMLSliceWidget",
        "qMRMLSliceView",
        "qMRMLSliceControllerWidget",
        "qSlicerWidget",
        "qSlicerApplication",
        "qSlicerLayoutManager",
    )
    return {name: slicer_class(name) for name in names}
