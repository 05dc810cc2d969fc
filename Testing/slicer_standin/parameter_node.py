"""`slicer.parameterNodeWrapper`: typed access to a parameter node and its connection to widgets.

The part that the product uses: node, str, int, float and bool parameters, unions, defaults, `Choice`; node selectors,
check boxes, combo boxes, spin boxes and sliders. A type or widget outside that raises. Values are cached and read
again when the node is modified; while widgets are set from the node, none of them writes back.
"""

from __future__ import annotations

import types
import typing
import weakref
from collections.abc import Callable
from typing import Any

import slicer
import vtk
from PySide6 import QtWidgets

from slicer_standin.parameter_types import Choice, WithinRange, kept, node_classes

PARAMETER_NAME = "SlicerParameterName"


class _Parameter:
    """One member of a wrapper: how it is kept in the parameter node."""

    def __init__(self, owner: type, name: str, annotated: Any) -> None:
        self.name = name
        is_annotated = typing.get_origin(annotated) is typing.Annotated
        self.type = typing.get_args(annotated)[0] if is_annotated else annotated
        self.validators = [one for one in getattr(annotated, "__metadata__", ()) if hasattr(one, "validate")]
        try:
            self.how = kept(self.type)
        except NotImplementedError:
            raise
        except Exception as error:
            raise Exception(f"Unable to create serializer for {owner} member {name}") from error
        self.default = getattr(owner, name) if hasattr(owner, name) else self.how.default

    def read(self, node: Any) -> Any:
        if not self.how.is_in(node, self.name):
            self.write(node, self.default)
        return self.how.read(node, self.name)

    def write(self, node: Any, value: Any) -> None:
        self.how.check(value)
        for validator in self.validators:
            validator.validate(value)
        modified = node.StartModify()
        try:
            self.how.write(node, self.name, value)
        finally:
            node.EndModify(modified)


def parameterNodeWrapper(cls: type | None = None) -> Any:
    """Class decorator: annotated members become properties that live in the parameter node."""
    if cls is None:
        return parameterNodeWrapper
    members = typing.get_type_hints(cls, include_extras=True)
    parameters = {name: _Parameter(cls, name, kind) for name, kind in members.items()}
    for name in parameters:
        setattr(
            cls,
            name,
            property(
                lambda self, one=name: self.getValue(one), lambda self, value, one=name: self.setValue(one, value)
            ),
        )
    for name, function in vars(_Wrapper).items():
        if isinstance(function, types.FunctionType):
            if name != "__init__" and name in vars(cls):
                raise ValueError(f"Cannot use reserved name '{name}' in a parameterNodeWrapper")
            setattr(cls, name, function)
    cls.allParameters = parameters  # type: ignore[attr-defined]
    return cls


class _Wrapper:
    """What every wrapper class is given."""

    allParameters: dict[str, _Parameter]

    def __init__(self, parameterNode: Any) -> None:
        self.parameterNode = parameterNode
        self._guis: dict[int, tuple[list[_Connection], int]] = {}
        self._next_tag = 0
        self._showing = False
        for parameter in self.allParameters.values():
            if not parameter.how.is_in(parameterNode, parameter.name):
                parameter.write(parameterNode, parameter.default)
        self._values: dict[str, Any] = {}
        self._writing = ""
        wrapper = weakref.ref(self)  # a scene that goes on must not keep the wrappers of its node alive
        for name in self.allParameters:  # one observer for each value, as in Slicer: VTK calls the first one last
            _read_again(self, name)
            tag = parameterNode.AddObserver(
                vtk.vtkCommand.ModifiedEvent, lambda *_, one=name: _read_again(wrapper(), one)
            )
            weakref.finalize(self, parameterNode.RemoveObserver, tag)

    def connectGui(self, gui: Any) -> int:
        widgets = gui.findChildren(QtWidgets.QWidget) if hasattr(gui, "isWidgetType") else vars(gui).values()
        chosen = {widget.property(PARAMETER_NAME): widget for widget in widgets if widget.property(PARAMETER_NAME)}
        for name in chosen:
            if name not in self.allParameters:
                raise ValueError(f"Cannot find a param with the given name: {name}")
        connections = [_Connection(self, self.allParameters[name], widget) for name, widget in chosen.items()]
        for connection in connections:
            connection.show()
            connection.open()
        tag, self._next_tag = self._next_tag, self._next_tag + 1
        self._guis[tag] = connections, self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: _show(self))
        return tag

    def disconnectGui(self, tag: int) -> None:
        connections, observer = self._guis.pop(tag, ([], None))
        for connection in connections:
            connection.close()
        if observer is not None:
            self.RemoveObserver(observer)

    def getValue(self, name: str) -> Any:
        return self._values[name]

    def setValue(self, name: str, value: Any) -> None:
        modified = self.StartModify()
        self._writing = name
        try:
            self.allParameters[name].write(self.parameterNode, value)
            self._values[name] = self.allParameters[name].read(self.parameterNode)
        finally:
            self.EndModify(modified)
            self._writing = ""

    def StartModify(self) -> int:
        return self.parameterNode.StartModify()

    def EndModify(self, modified: int) -> None:
        self.parameterNode.EndModify(modified)

    def AddObserver(self, event: Any, callback: Callable, priority: float = 0.0) -> int:
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag: int) -> None:
        self.parameterNode.RemoveObserver(tag)

    def Modified(self) -> None:
        self.parameterNode.Modified()


def _read_again(wrapper: Any, name: str) -> None:
    if wrapper is not None and name != wrapper._writing:
        wrapper._values[name] = wrapper.allParameters[name].read(wrapper.parameterNode)


def _show(wrapper: Any) -> None:
    """All connected widgets, from the node; what they signal meanwhile is not written."""
    if wrapper._showing:
        return
    wrapper._showing = True
    modified = wrapper.StartModify()
    try:
        for connections, _observer in list(wrapper._guis.values()):
            for connection in connections:
                connection.show()
    finally:
        wrapper._showing = False
        wrapper.EndModify(modified)


class _Connection:
    """One widget and one parameter, kept the same both ways."""

    def __init__(self, wrapper: Any, parameter: _Parameter, widget: Any) -> None:
        import ctk
        import qt

        self.number = False
        self.wrapper, self.parameter, self.widget = wrapper, parameter, widget
        self.choices: list[Any] = []
        self.nodes = node_classes(parameter.how)
        if self.nodes is not None and type(widget) is slicer.qMRMLNodeComboBox:
            widget.nodeTypes = self.nodes
            self.signal = widget.currentNodeChanged
        elif parameter.type is bool and type(widget) is qt.QCheckBox:
            self.signal = widget.stateChanged
        elif parameter.type is float and type(widget) in (qt.QDoubleSpinBox, ctk.ctkSliderWidget):
            within = [one for one in parameter.validators if isinstance(one, WithinRange)]
            if type(widget) is ctk.ctkSliderWidget and not within:
                raise RuntimeError("Cannot have a connection to ctkSliderWidget where the float types is unbounded.")
            if within:
                widget.minimum, widget.maximum = within[0].minimum, within[0].maximum
            self.number = True
            self.signal = widget.valueChanged
        elif type(widget) is qt.QComboBox:
            choices = [one for one in parameter.validators if isinstance(one, Choice)]
            if not choices:
                raise RuntimeError("ComboBoxToStringableConnector requires the Choice annotation to be used.")
            self.choices = choices[0].choices
            widget.clear()
            widget.addItems([str(one) for one in self.choices])
            self.signal = widget.currentIndexChanged
        else:
            raise RuntimeError(
                f"Unable to create GUI connector from datatype '{parameter.type}' to widget type '{type(widget)}'."
            )

    def open(self) -> None:
        self.signal.connect(self.changed)

    def changed(self, *_: Any) -> None:
        if self.wrapper._showing:
            return
        if self.nodes is not None:
            value = self.widget.currentNode()
        elif self.choices:
            value = self.choices[self.widget.currentIndex]
        elif self.number:
            value = self.widget.value
        else:
            value = self.widget.checked
        self.wrapper.setValue(self.parameter.name, value)

    def show(self) -> None:
        value = self.wrapper.getValue(self.parameter.name)
        if self.nodes is not None:
            self.widget.setCurrentNode(value)
        elif self.choices:
            self.widget.currentIndex = self.choices.index(value)
        elif self.number:
            self.widget.value = value
        else:
            self.widget.checked = value

    def close(self) -> None:
        self.signal.disconnect(self.changed)


def parameter_node_module() -> types.ModuleType:
    module = types.ModuleType("slicer.parameterNodeWrapper")
    module.Choice = Choice  # type: ignore[attr-defined]
    module.WithinRange = WithinRange  # type: ignore[attr-defined]
    module.parameterNodeWrapper = parameterNodeWrapper  # type: ignore[attr-defined]
    return module
