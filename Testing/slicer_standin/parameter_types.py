"""How `slicer.parameterNodeWrapper` stores values in a parameter node: types, defaults, and refused values.

It follows the rules of Slicer 5.10 to 5.12: a node parameter may be None, a union of node classes only where it
names None; defaults are written, and so checked, when a wrapper is made; texts and numbers are never None. Types that
Slicer knows and the product does not use raise NotImplementedError.
"""

from __future__ import annotations

import enum
import pathlib
import types
import typing
from typing import Any

import slicer


class Choice:
    """Validator: the value must be one of these."""

    def __init__(self, choices: list[Any]) -> None:
        self.choices = choices

    def validate(self, value: Any) -> None:
        if value not in self.choices:
            raise ValueError(f"Value is {value}, but must be in one of the following: {self.choices}")


class WithinRange:
    """Validator: the number must lie between these two."""

    def __init__(self, minimum: float, maximum: float) -> None:
        self.minimum, self.maximum = minimum, maximum

    def validate(self, value: Any) -> None:
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"Value must be within range [{self.minimum}, {self.maximum}], is {value}")


class Kept:
    """One type as it is kept: `default`, and `check`, `is_in`, `write`, `read`, `remove` under a name."""

    default: Any = None

    def takes(self, value_type: type) -> bool:
        """Whether a value of that type may be meant for this member of a union."""
        raise NotImplementedError

    def check(self, value: Any) -> None:
        raise NotImplementedError

    def is_in(self, node: Any, name: str) -> bool:
        return bool(node.HasParameter(name))

    def write(self, node: Any, name: str, value: Any) -> None:
        node.SetParameter(name, str(value))

    def read(self, node: Any, name: str) -> Any:
        raise NotImplementedError

    def remove(self, node: Any, name: str) -> None:
        node.UnsetParameter(name)


class KeptValue(Kept):
    """A text, a number or a truth value."""

    def __init__(self, value_type: type) -> None:
        self._type, self.default = value_type, value_type()

    def takes(self, value_type: type) -> bool:
        return value_type in ((int, float) if self._type in (int, float) else (self._type,))

    def check(self, value: Any) -> None:
        if value is None:
            raise ValueError("Value must not be None")
        if not isinstance(value, (int, float) if self._type is float else self._type):
            raise TypeError(f"Value must be of type '{self._type}', is type '{type(value)}' value '{value}'")

    def read(self, node: Any, name: str) -> Any:
        text = node.GetParameter(name)
        return text == "True" if self._type is bool else self._type(text)


class KeptNode(Kept):
    """A reference to a node of a class, or None."""

    def __init__(self, node_class: type) -> None:
        self.node_class = node_class

    def takes(self, value_type: type) -> bool:
        return issubclass(value_type, slicer.vtkMRMLNode)

    def check(self, value: Any) -> None:
        if value is not None and not isinstance(value, self.node_class):
            raise TypeError(f"Value must be of type '{self.node_class}', is type '{type(value)}' value '{value}'")

    def write(self, node: Any, name: str, value: Any) -> None:
        node.SetParameter(name, "")  # that it was set, to None as well
        node.SetNodeReferenceID(name, value.GetID() if value is not None else None)

    def read(self, node: Any, name: str) -> Any:
        return node.GetNodeReference(name)

    def remove(self, node: Any, name: str) -> None:
        node.UnsetParameter(name)
        node.RemoveNodeReferenceIDs(name)


class KeptNone(Kept):
    """None, as a member of a union."""

    def takes(self, value_type: type) -> bool:
        return value_type is type(None)

    def check(self, value: Any) -> None:
        if value is not None:
            raise ValueError("Value must be None")

    def read(self, node: Any, name: str) -> Any:
        return None


class KeptUnion(Kept):
    """One of several types, each under a name of its own. The default is that of the first, or None for Optional."""

    def __init__(self, members: list[Kept]) -> None:
        self.members = members
        self.default = None if len(members) == 2 and isinstance(members[1], KeptNone) else members[0].default

    def check(self, value: Any) -> None:
        self._member_for(value)

    def is_in(self, node: Any, name: str) -> bool:
        return any(member.is_in(node, f"{name}.{index}") for index, member in enumerate(self.members))

    def write(self, node: Any, name: str, value: Any) -> None:
        index = self._member_for(value)
        self.remove(node, name)
        self.members[index].write(node, f"{name}.{index}", value)

    def read(self, node: Any, name: str) -> Any:
        for index, member in enumerate(self.members):
            if member.is_in(node, f"{name}.{index}"):
                return member.read(node, f"{name}.{index}")
        raise KeyError(f"Unable to find value for name: {name}")

    def remove(self, node: Any, name: str) -> None:
        for index, member in enumerate(self.members):
            member.remove(node, f"{name}.{index}")

    def _member_for(self, value: Any) -> int:
        refusal: Exception | None = None
        for index, member in enumerate(self.members):
            if member.takes(type(value)):
                try:
                    member.check(value)
                    return index
                except (TypeError, ValueError) as error:
                    refusal = error
        raise refusal or TypeError(f"Unable to write value '{value}' of type '{type(value)}'")


def kept(value_type: Any) -> Kept:
    """How a type is kept. Raises Exception for one that Slicer does not know, as Slicer does."""
    if value_type in (str, int, float, bool):
        return KeptValue(value_type)
    if typing.get_origin(value_type) is typing.Union:
        return KeptUnion([kept(one) for one in typing.get_args(value_type)])
    if value_type is type(None):
        return KeptNone()
    if isinstance(value_type, type) and not isinstance(value_type, types.GenericAlias):
        if issubclass(value_type, slicer.vtkMRMLNode):
            return KeptNode(value_type)
        if issubclass(value_type, (enum.Enum, pathlib.PurePath)):
            raise NotImplementedError(f"{value_type} can be a parameter in Slicer, but the test host does not play it")
    if (typing.get_origin(value_type) or value_type) in (list, tuple, dict, typing.Any):
        raise NotImplementedError(f"{value_type} can be a parameter in Slicer, but the test host does not play it")
    # X | Y among them: Slicer knows it from 5.13 on only.
    raise Exception(f"Unable to create serializer for type: {value_type}")


def node_classes(how: Kept) -> list[str] | None:
    """The class names of a node parameter for its selector, or None where it is none."""
    if isinstance(how, KeptNode):
        return [how.node_class.__name__]
    if isinstance(how, KeptUnion) and all(isinstance(one, (KeptNode, KeptNone)) for one in how.members):
        return [one.node_class.__name__ for one in how.members if isinstance(one, KeptNode)]
    return None
