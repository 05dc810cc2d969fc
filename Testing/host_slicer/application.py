"""`slicer.app`: scene, logics, settings, views and scripted modules."""
from __future__ import annotations

import importlib.util
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import slicer
from PySide6 import QtCore, QtWidgets

from host_slicer.generated import bare_class, plays
from host_slicer.scene import create_scene


class Host:
    """What tests ask of the host itself; in Slicer the user or the start-up does it."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def load_module(self, path: Path) -> Any:
        """Import a scripted module file as Slicer does at start-up, and instantiate it."""
        path = Path(path).resolve()
        name = path.stem
        if str(path.parent) not in sys.path:
            sys.path.insert(0, str(path.parent))
        spec = importlib.util.spec_from_file_location(name, path)
        python = importlib.util.module_from_spec(spec)
        sys.modules[name] = python
        spec.loader.exec_module(python)
        parent = _core_module(name, path)
        setattr(slicer.modules, name.lower(), parent)
        parent._instance = getattr(python, name)(parent)
        return parent

    def open_module(self, module: Any) -> Any:
        """Make the module's panel and enter it; returns the Python widget object."""
        name = module.name
        parent = slicer.qMRMLWidget()
        QtWidgets.QVBoxLayout(parent)
        parent.setMRMLScene(slicer.mrmlScene)
        widget = getattr(sys.modules[name], f"{name}Widget")(parent)
        widget.setup()
        if hasattr(widget, "enter"):
            widget.enter()
        setattr(slicer.modules, f"{name}Widget", widget)
        return widget

    def set_main_window(self, shown: bool) -> None:
        """Without a main window there is no layout manager."""
        self.app._no_main_window = not shown


@plays
class qSlicerApplication(bare_class("qSlicerApplication")):  # type: ignore[misc]
    """The Qt application with Slicer's services."""

    def _start(self) -> None:
        slicer.app = self
        self._folder = tempfile.TemporaryDirectory(prefix="host-slicer-")
        self._value_temporaryPath = str(Path(self._folder.name) / "temp")
        self._value_cachePath = str(Path(self._folder.name) / "cache")
        for folder in (self._value_temporaryPath, self._value_cachePath):
            Path(folder).mkdir()
        self._settings = QtCore.QSettings(str(Path(self._folder.name) / "Slicer.ini"), QtCore.QSettings.IniFormat)
        self._scene, self._application_logic, self._logics = create_scene()
        self._no_main_window = False
        self._modules = _ModuleManager()
        from host_slicer.layout_manager import qSlicerLayoutManager

        self._layout_manager = qSlicerLayoutManager(self._scene)

    def mrmlScene(self) -> Any:
        return self._scene

    def applicationLogic(self) -> Any:
        return self._application_logic

    def moduleLogic(self, name: str) -> Any:
        return self._logics.get(name)

    def moduleManager(self) -> Any:
        return self._modules

    def settings(self) -> Any:
        return self._settings

    def userSettings(self) -> Any:
        return self._settings

    def layoutManager(self) -> Any:
        return None if self._no_main_window else self._layout_manager

    def commandOptions(self) -> Any:
        return types.SimpleNamespace(noMainWindow=self._no_main_window, testingEnabled=True)

    def coreIOManager(self) -> Any:
        return _VolumeReader(self._logics["Volumes"])

    ioManager = coreIOManager


class _ModuleManager:
    def modulesNames(self) -> list[str]:
        return [name for name in vars(slicer.modules) if not name.endswith("Widget")]


class _VolumeReader:
    """The file types that tests load."""

    def __init__(self, logic: Any) -> None:
        self._logic = logic

    def loadNodes(self, file_type: str, properties: dict, loaded: Any = None, messages: Any = None) -> bool:
        if file_type != "VolumeFile":
            raise NotImplementedError(f"the test host does not read {file_type}")
        path = properties["fileName"]
        node = self._logic.AddArchetypeVolume(path, properties.get("name") or Path(path).stem)
        if node is not None and loaded is not None:
            loaded.AddItem(node)
        return node is not None


def _core_module(name: str, path: Path) -> Any:
    """The C++ side of a scripted module: the `parent` that metadata is set on."""
    module = bare_class("qSlicerScriptedLoadableModule")()
    module.setObjectName(name)
    module._value_name, module._value_path = name, str(path)
    return module
