"""`slicer.parameterNodeWrapper`: typed access to a parameter node and its connection to widgets.

The part that the product uses: node, str, int, float and bool parameters, defaults, `Choice`; node selectors, check
boxes, combo boxes, spin boxes and sliders. A type or widget outside that raises, as it does in Slicer.
"""
from __future__ import annotations

import types
import typing
from collections.abc import Callable
from typing import Any

import slicer
import vtk
from PySide6 import QtWidgets

PARAMETER_NAME = "SlicerParameterName"


class Choice:
    """Validator: the value must be one of these."""

    def __init__(self, choices: list[Any]) -> None:
        self.choices = choices

    def validate(self, value: Any) -> None:
        if value not in self.choices:
            raise ValueError(f"Value {value!r} must be within {self.choices}")


class WithinRange:
    """Validator: the number must lie between these two."""

    def __init__(self, minimum: float, maximum: float) -> None:
        self.minimum, self.maximum = minimum, maximum

    def validate(self, value: Any) -> None:
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"Value must be within [{self.minimum}, {self.maximum}], is {value}")


class _Parameter:
    """One member of a wrapper: how it is kept in the parameter node."""

    def __init__(self, name: str, annotated: Any, default: Any) -> None:
        self.name = name
        is_annotated = typing.get_origin(annotated) is typing.Annotated
        self.type = typing.get_args(annotated)[0] if is_annotated else annotated
        self.validators = [one for one in getattr(annotated, "__metadata__", ()) if hasattr(one, "validate")]
        union = typing.get_origin(self.type) is typing.Union
        self.types = typing.get_args(self.type) if union else (self.type,)
        self.is_node = all(isinstance(one, type) and issubclass(one, slicer.vtkMRMLNode) for one in self.types)
        if not self.is_node and self.type not in (str, int, float, bool):
            raise TypeError(f"Unable to create serializer for member {name}: {self.type}")
        self.default = default if default is not None or self.is_node else self.type()
        if not self.is_node:
            self.check(self.default)

    def check(self, value: Any) -> None:
        if self.is_node:
            if value is not None and not isinstance(value, self.types):
                raise TypeError(f"{self.name} must be a {self.type}, not {type(value).__name__}")
        elif type(value) is not self.type and not (self.type is float and isinstance(value, int)):
            raise TypeError(f"{self.name} must be {self.type.__name__}, not {type(value).__name__}")
        for validator in self.validators:
            validator.validate(value)

    def read(self, node: Any) -> Any:
        if self.is_node:
            return node.GetNodeReference(self.name)
        text = node.GetParameter(self.name)
        return text == "True" if self.type is bool else self.type(text)

    def write(self, node: Any, value: Any) -> None:
        self.check(value)
        if self.is_node:
            node.SetParameter(self.name, "")
            node.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)
        else:
            node.SetParameter(self.name, str(value))


def parameterNodeWrapper(cls: type | None = None) -> Any:
    """Class decorator: annotated members become properties that live in the parameter node."""
    if cls is None:
        return parameterNodeWrapper
    members = typing.get_type_hints(cls, include_extras=True)
    parameters = {name: _Parameter(name, kind, getattr(cls, name, None)) for name, kind in members.items()}
    for name, parameter in parameters.items():
        setattr(cls, name, property(lambda self, one=parameter: one.read(self.parameterNode),
                                    lambda self, value, one=parameter: one.write(self.parameterNode, value)))
    for name, function in vars(_Wrapper).items():
        if isinstance(function, types.FunctionType):
            if name != "__init__" and name in vars(cls):
                raise ValueError(f"Cannot use reserved name {name!r} in a parameterNodeWrapper")
            setattr(cls, name, function)
    cls.allParameters = parameters  # type: ignore[attr-defined]
    return cls


class _Wrapper:
    """What every wrapper class is given."""

    allParameters: dict[str, _Parameter]

    def __init__(self, parameterNode: Any) -> None:
        self.parameterNode = parameterNode
        self._guis: dict[int, list[_Connection]] = {}
        self._next_tag = 0
        for name, parameter in self.allParameters.items():
            if not parameterNode.HasParameter(name):
                parameter.write(parameterNode, parameter.default)

    def connectGui(self, gui: Any) -> int:
        widgets = (gui.findChildren(QtWidgets.QWidget) if hasattr(gui, "isWidgetType") else vars(gui).values())
        connections = []
        for widget in widgets:
            name = widget.property(PARAMETER_NAME)
            if name:
                if name not in self.allParameters:
                    raise ValueError(f"Cannot find a param with the given name: {name}")
                connections.append(_Connection(self, self.allParameters[name], widget))
        tag, self._next_tag = self._next_tag, self._next_tag + 1
        self._guis[tag] = connections
        return tag

    def disconnectGui(self, tag: int) -> None:
        for connection in self._guis.pop(tag, []):
            connection.close()

    def getValue(self, name: str) -> Any:
        return getattr(self, name)

    def setValue(self, name: str, value: Any) -> None:
        setattr(self, name, value)

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


class _Connection:
    """One widget and one parameter, kept the same both ways."""

    def __init__(self, wrapper: Any, parameter: _Parameter, widget: Any) -> None:
        import ctk
        import qt

        self.number = False
        self.wrapper, self.parameter, self.widget = wrapper, parameter, widget
        self.choices: list[Any] = []
        self.updating = False
        if parameter.is_node and type(widget) is slicer.qMRMLNodeComboBox:
            widget.nodeTypes = [one.__name__ for one in parameter.types]
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
            raise RuntimeError(f"No GUI connector for {type(widget).__name__} and {parameter.type}")
        self.show()
        self.signal.connect(self.changed)
        self.tag = wrapper.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self.show())

    def changed(self, *_: Any) -> None:
        if not self.updating:
            if self.parameter.is_node:
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
        self.updating = True
        try:
            if self.parameter.is_node:
                self.widget.setCurrentNode(value)
            elif self.choices:
                self.widget.currentIndex = self.choices.index(value)
            elif self.number:
                self.widget.value = value
            else:
                self.widget.checked = value
        finally:
            self.updating = False

    def close(self) -> None:
        self.signal.disconnect(self.changed)
        self.wrapper.RemoveObserver(self.tag)


def parameter_node_module() -> types.ModuleType:
    module = types.ModuleType("slicer.parameterNodeWrapper")
    module.Choice = Choice  # type: ignore[attr-defined]
    module.WithinRange = WithinRange  # type: ignore[attr-defined]
    module.parameterNodeWrapper = parameterNodeWrapper  # type: ignore[attr-defined]
    return module
