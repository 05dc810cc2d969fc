"""Builds the stand-in: environment, modules `qt`, `ctk`, the missing parts of `slicer`, and the application."""

from __future__ import annotations

import ctypes
import os
import sys
import types
from functools import cache
from typing import Any


@cache
def start() -> Any:
    """Start the host, once for each process, and return its controls (an `application.Host`)."""
    _keep_singletons_alive()
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")
    import slicer
    import slicer.util  # the real one, from the wheel
    import vtk

    vtk.vtkObject.GlobalWarningDisplayOn()
    slicer.selfTests = {}
    slicer.modules = types.SimpleNamespace()

    from slicer_standin import parameter_node, scripted_module
    from slicer_standin.qt_modules import CtkModule, QtModule

    sys.modules["qt"], sys.modules["ctk"] = QtModule("qt"), CtkModule("ctk")
    slicer.i18n = sys.modules["slicer.i18n"] = scripted_module.i18n_module()
    sys.modules["slicer.ScriptedLoadableModule"] = slicer.ScriptedLoadableModule = scripted_module  # type: ignore[assignment]
    sys.modules["slicer.parameterNodeWrapper"] = parameter_node.parameter_node_module()
    slicer.parameterNodeWrapper = sys.modules["slicer.parameterNodeWrapper"]
    from slicer_standin import node_combo_box, view_controller, widgets  # noqa: F401  (they register what they play)
    from slicer_standin.application import Host, qSlicerApplication
    from slicer_standin.generated import slicer_class

    slicer.qMRMLWidget = slicer_class("qMRMLWidget")
    app = qSlicerApplication(sys.argv[:1])
    app._start()
    return Host(app)


def _keep_singletons_alive() -> None:
    """PySide6 6.12 gives references away: `emit` returns True without one, and None is lost as well.

    After some thousand signals Python 3.11 would end; from 3.12 on these objects are immortal.
    """
    if sys.version_info < (3, 12):
        for one in (True, False, None):
            ctypes.c_ssize_t.from_address(id(one)).value += 1 << 40
