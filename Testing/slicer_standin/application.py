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

from slicer_standin.generated import bare_class, plays
from slicer_standin.pythonqt import CONNECTIONS
from slicer_standin.scene import create_scene

PANEL_SIZE = (420, 600)


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
        if hasattr(python, f"{name}FileReader"):
            self.app._io._add_reader(getattr(python, f"{name}FileReader"))
        return parent

    def open_module(self, module: Any) -> Any:
        """Make the module's panel anew and go to it; returns the Python widget object."""
        module._panel = None
        self.app._window.moduleSelector().selectModule(module.name)
        return module.widgetRepresentation().self()

    def close_module(self, module: Any) -> None:
        """As at the end of Slicer, or before a reload."""
        selector = self.app._window.moduleSelector()
        if selector.selectedModule == module.name:
            selector.selectedModule = ""
        if module._panel is not None:
            widget, module._panel = module._panel.self(), None
            widget.cleanup()
            widget.parent.close()

    def add_module(self, name: str, ui: Any = None) -> Any:
        """Another module, as an extension brings it: scripted with these widgets, or a command line module."""
        gui = None if ui is None else qSlicerScriptedLoadableModuleWidget(types.SimpleNamespace(ui=ui))
        module = types.SimpleNamespace(name=name, widgetRepresentation=lambda: gui)
        setattr(slicer.modules, name.lower(), module)
        return module

    def remove_module(self, name: str) -> None:
        delattr(slicer.modules, name.lower())

    def selected_module(self) -> str:
        """Which module is shown."""
        return self.app._window.moduleSelector().selectedModule

    def set_main_window(self, shown: bool) -> None:
        """Without a main window there is no layout manager."""
        self.app._no_main_window = not shown
        self.app._window.setObjectName("qSlicerMainWindow" if shown else "")


@plays
class qSlicerModuleSelectorToolBar(bare_class("qSlicerModuleSelectorToolBar")):  # type: ignore[misc]
    """Leaves the module that was selected, remembers the new one and makes, at its first time, and enters its panel."""

    def selectModule(self, name: str) -> None:
        module = slicer.app.moduleManager().module(name)
        if module is None:
            raise ValueError(f"There is no module {name}")
        before = slicer.app.moduleManager().module(self.selectedModule)
        if before is not None:
            _tell(before, "exit")
        self.selectedModule = name
        _tell(module, "enter")


@plays
class qSlicerMainWindow(bare_class("qSlicerMainWindow")):  # type: ignore[misc]
    """The window, as far as modules are selected in it."""

    def __init__(self) -> None:
        super().__init__(None)
        self.setObjectName("qSlicerMainWindow")
        self._selector = qSlicerModuleSelectorToolBar()

    def moduleSelector(self) -> Any:
        return self._selector


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
        self._window = qSlicerMainWindow()
        self._io = qSlicerCoreIOManager(self._logics["Volumes"])
        self._opened: list[Any] = []
        slicer.qSlicerScriptedLoadableModuleWidget = qSlicerScriptedLoadableModuleWidget
        from slicer_standin.layout_manager import qSlicerLayoutManager

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

    def openNodeModule(self, node: Any, role: str = "", context: str = "") -> None:
        self._opened.append(node)

    def coreIOManager(self) -> Any:
        return self._io

    ioManager = coreIOManager


class _ModuleManager:
    """The modules that were loaded, and those that a test puts there (`Host.add_module`)."""

    def modulesNames(self) -> list[str]:
        return [one.name for name, one in vars(slicer.modules).items() if not name.endswith("Widget")]

    def module(self, name: str) -> Any:
        return getattr(slicer.modules, name.lower(), None)


@plays
class qSlicerScriptedLoadableModuleWidget(bare_class("qSlicerScriptedLoadableModuleWidget")):  # type: ignore[misc]
    """A scripted module's panel as the application holds it."""

    def __init__(self, widget: Any) -> None:
        super().__init__(None)
        self._self = widget

    def self(self) -> Any:
        return self._self


@plays
class qSlicerCoreIOManager(bare_class("qSlicerCoreIOManager")):  # type: ignore[misc]
    """The file types that tests load and save."""

    def __init__(self, logic: Any) -> None:
        super().__init__(None)
        self._logic = logic
        self._readers: dict[str, tuple[Any, Any]] = {}

    def _add_reader(self, reader_class: type) -> None:
        from slicer_standin.file_reader import qSlicerScriptedFileReader

        parent = qSlicerScriptedFileReader()
        self._readers[reader_class.__name__] = parent, reader_class(parent)

    def loadNodes(self, file_type: str, properties: dict, loaded: Any = None, messages: Any = None) -> bool:
        """Try every reader of exactly that type in turn; their messages are collected."""
        if file_type != "VolumeFile":
            raise NotImplementedError(f"the test host does not read {file_type}")
        path = properties["fileName"]
        for parent, reader in self._readers.values():
            if reader.fileType() == file_type and reader.canLoadFile(path):
                parent.userMessages().ClearMessages()
                if reader.load(properties):
                    raise NotImplementedError("the test host does not take nodes from a scripted reader")
                if messages is not None:
                    messages.AddMessages(parent.userMessages(), f"Loading {path} - ")
        node = self._logic.AddArchetypeVolume(path, properties.get("name") or Path(path).stem)
        if node is not None and loaded is not None:
            loaded.AddItem(node)
        return node is not None

    def fileWriterFileType(self, node: Any, format: str = "") -> str:
        return "VolumeFile" if node.IsA("vtkMRMLVolumeNode") else "TransformFile"

    def saveNodes(self, file_type: str, properties: dict, messages: Any = None, scene: Any = None) -> bool:
        node = slicer.mrmlScene.GetNodeByID(properties["nodeID"])
        if node.GetStorageNode() is None:
            node.AddDefaultStorageNode()
        storage = node.GetStorageNode()
        storage.SetFileName(properties["fileName"])
        saved = bool(storage.WriteData(node))
        if saved:
            self.fileSaved.emit(dict(properties))
        return saved


class qSlicerScriptedLoadableModule(bare_class("qSlicerScriptedLoadableModule")):  # type: ignore[misc]
    """The C++ side of a scripted module: the `parent` that metadata is set on. Its panel is made when first wanted.

    `widgetRepresentation` is not in the list of names, but `slicer.util` calls it.
    """

    _pythonqt_generated = True
    connect, disconnect = CONNECTIONS["connect"], CONNECTIONS["disconnect"]
    _panel: Any = None

    def widgetRepresentation(self) -> Any:
        if self._panel is None:
            parent = slicer.qMRMLWidget()
            QtWidgets.QVBoxLayout(parent)
            parent.setMRMLScene(slicer.mrmlScene)
            widget = getattr(sys.modules[self.name], f"{self.name}Widget")(parent)
            self._panel = qSlicerScriptedLoadableModuleWidget(widget)
            setattr(slicer.modules, f"{self.name}Widget", widget)
            widget.setup()
        return self._panel


def _tell(module: Any, method: str) -> None:
    """`enter` or `exit` of a scripted module's panel, where there is one with that method; it is shown or hidden."""
    panel = module.widgetRepresentation() if method == "enter" or getattr(module, "_panel", None) else None
    widget = panel.self() if panel is not None else None
    if isinstance(getattr(widget, "parent", None), QtWidgets.QWidget):
        widget.parent.resize(*PANEL_SIZE)
        widget.parent.setVisible(method == "enter")
    if hasattr(widget, method):
        getattr(widget, method)()


def _core_module(name: str, path: Path) -> Any:
    module = qSlicerScriptedLoadableModule()
    module.setObjectName(name)
    module._value_name, module._value_path = name, str(path)
    return module
