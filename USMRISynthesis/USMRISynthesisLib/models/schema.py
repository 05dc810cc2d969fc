"""Dataclasses from nested plain values, as TOML and JSON hold them: every key and type is checked in one way.

    build(InputFormat, {"size": 160}, fault)      # raises fault("spacing_mm", "is missing", "Add it.")

`fault(name, reason, remedy)` makes the error to raise: the caller knows whether it read a configuration or a manifest.
The name is empty where the values contradict each other.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from USMRISynthesisLib.errors import USMRIError

Fault = Callable[[str, str, str], USMRIError]  # (dotted name of the key, what is wrong with it, remedy)

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def build(kind: Any, table: Mapping[str, Any], fault: Fault, *, prefix: str = "", unknown: bool = False) -> Any:
    """An instance of the dataclass `kind` from one table, its nested dataclasses from the nested tables.

    Args:
        kind: a dataclass whose fields are int, float, bool, str, Any, mappings, tuples or such dataclasses, or None.
        table: plain values by field name; fields that are left out take their defaults.
        fault: makes the error to raise.
        prefix: of the keys' names in errors, with its dot.
        unknown: whether keys that are no fields are passed over instead of refused, at every level.

    Raises what `fault` returns: a key is unknown, missing, or of the wrong type, or the dataclass refuses a value.
    """
    hints = typing.get_type_hints(kind)
    known = [setting.name for setting in dataclasses.fields(kind)]
    for key in table:
        if key not in known and not unknown:
            raise fault(prefix + key, "is not known", f"Known here: {', '.join(known)}.")
    values: dict[str, Any] = {}
    for setting in dataclasses.fields(kind):
        name = prefix + setting.name
        if setting.name in table:
            values[setting.name] = _converted(table[setting.name], hints[setting.name], name, fault, unknown)
        elif setting.default is setting.default_factory is dataclasses.MISSING:
            raise fault(name, "is missing", "Add it.")
    try:
        return kind(**values)
    except ValueError as error:
        raise fault(prefix.rstrip("."), f"cannot be: {error}", "Change it.") from error


def _converted(value: Any, hint: Any, name: str, fault: Fault, unknown: bool) -> Any:
    """The value as its type asks; arrays become tuples, and whole numbers may stand for floats."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise fault(name, "must be a table", f"Write it as [{name}].")
        return build(hint, value, fault, prefix=name + ".", unknown=unknown)
    if origin in (typing.Union, types.UnionType):
        kinds = [kind for kind in inner if kind is not type(None)]
        if value is None and len(kinds) < len(inner):
            return None
        if len(kinds) > 1:
            raise TypeError(f"{name}: only `kind | None` is understood")
        return _converted(value, kinds[0], name, fault, unknown)
    if origin in (dict, collections.abc.Mapping):
        if not isinstance(value, dict):
            raise fault(name, "must be a table", f"Write it as [{name}].")
        return {key: _converted(item, inner[1], f"{name}.{key}", fault, unknown) for key, item in value.items()}
    if origin is tuple:
        length = None if inner[-1] is Ellipsis else len(inner)
        if not isinstance(value, list | tuple) or (length is not None and len(value) != length):
            raise fault(name, f"must be a list{f' of {length}' if length else ''}", "Change it.")
        return tuple(_converted(item, inner[0], name, fault, unknown) for item in value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise fault(name, f"must be {_WORDS[hint]}, not {value!r}", "Change it.")
    return value
