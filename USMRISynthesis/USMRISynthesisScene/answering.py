"""Clicks that end in one sentence: what was done, or why it could not be done and what to do."""
from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from USMRISynthesisLib.errors import USMRIError

Section = TypeVar("Section", bound=Any)


def answered(click: Callable[[Section], str]) -> Callable[..., None]:
    """Decorator for the slot of a section that has `_say`: says what the method returns, or the error it raises.

        @answered
        def on_share(self) -> str:
            return f"{share().GetName()} follows now."
    """
    @functools.wraps(click)
    def slot(self: Section, checked: bool = False) -> None:
        try:
            sentence = click(self)
        except USMRIError as error:
            sentence = str(error)
        self._say(sentence)

    return slot
