"""Dataclasses from plain values: every key is checked, and the error names it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.models import schema


@dataclass(frozen=True)
class Inner:
    size: int
    rate: float = 0.5


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    flags: tuple[bool, ...] = ()
    pair: tuple[float, float] = (0.0, 1.0)
    hashes: Mapping[str, str] = field(default_factory=dict)
    other: Inner | None = None
    anything: Any = None

    def __post_init__(self) -> None:
        if self.name == "":
            raise ValueError("name must not be empty")


def fault(name: str, reason: str, remedy: str) -> Failed:
    return Failed("test", f"{name or 'all of it'} {reason}.", remedy)


GOOD: dict[str, Any] = {"name": "a", "inner": {"size": 3}}


def test_values_are_converted_and_left_out_ones_take_their_defaults() -> None:
    table = GOOD | {"flags": [True, False], "pair": [1, 2.5], "hashes": {"x": "y"}, "anything": [1, {}]}
    built = schema.build(Outer, table, fault)
    assert built == Outer("a", Inner(3), (True, False), (1.0, 2.5), {"x": "y"}, None, [1, {}])
    assert type(built.pair[0]) is float
    assert schema.build(Outer, GOOD | {"other": {"size": 1, "rate": 2}}, fault).other == Inner(1, 2.0)
    assert schema.build(Outer, GOOD | {"other": None}, fault).other is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 1}, "name must be text, not 1"),
        ({"name": ""}, "all of it cannot be: name must not be empty"),
        ({"nmae": "a"}, "nmae is not known"),
        ({"inner": {}}, "inner.size is missing"),
        ({"inner": 3}, "inner must be a table"),
        ({"inner": {"size": True}}, "inner.size must be a whole number, not True"),
        ({"inner": {"size": 1, "rate": "x"}}, "inner.rate must be a number"),
        ({"inner": {"size": 1, "speed": 2}}, "inner.speed is not known"),
        ({"flags": [1]}, "flags must be true or false"),
        ({"flags": "yes"}, "flags must be a list"),
        ({"pair": [1]}, "pair must be a list of 2"),
        ({"hashes": {"x": 1}}, "hashes.x must be text"),
        ({"hashes": []}, "hashes must be a table"),
        ({"other": 3}, "other must be a table"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(Failed, match=message):
        schema.build(Outer, GOOD | change, fault)


def test_unknown_keys_can_be_passed_over_at_every_level() -> None:
    table = GOOD | {"more": 1, "inner": {"size": 3, "more": 2}}
    assert schema.build(Outer, table, fault, unknown=True) == Outer("a", Inner(3))


def test_a_prefix_stands_before_every_name() -> None:
    with pytest.raises(Failed, match=r"stage\.size is missing"):
        schema.build(Inner, {}, fault, prefix="stage.")
