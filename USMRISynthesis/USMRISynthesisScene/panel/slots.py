"""How the sections answer: a click ends in one sentence, and a widget that cannot be used says why."""
from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from slicer.i18n import tr as _
from USMRISynthesisLib.errors import USMRIError

NO_RESULT = _("There is no MR-like volume of this ultrasound yet: press Synthesize MR.")
_USUAL = "USMRISynthesis.ToolTip"
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


def allow(widgets: Iterable[Any], allowed: bool, why_not: str) -> None:
    """Enable widgets; where that cannot be, their tooltips say why until it can."""
    for widget in widgets:
        if widget.property(_USUAL) is None:
            widget.setProperty(_USUAL, widget.toolTip)
        widget.enabled = allowed
        widget.toolTip = widget.property(_USUAL) if allowed else why_not
