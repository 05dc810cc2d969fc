"""Slots of the sections: a click ends in one status sentence, and a disabled widget has the reason as its tooltip."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from slicer.i18n import tr as _
from USMRISynthesisLib.errors import USMRIError

log = logging.getLogger(__name__)

NO_RESULT = _("There is no MR-like volume of this ultrasound yet: press Synthesize MR.")
WAIT = _("Wait for the current run, or cancel it.")
_USUAL = "USMRISynthesis.ToolTip"
Section = TypeVar("Section", bound=Any)


def status_slot(method: Callable[[Section], str]) -> Callable[..., None]:
    """Decorator for the slot of a section: its return value, or the error it raises, becomes the status.

        @status_slot
        def on_share(self) -> str:
            return f"{share().GetName()} was moved."

    The section needs a method `_set_status(text)`.
    """

    @functools.wraps(method)
    def slot(self: Section, checked: bool = False) -> None:
        try:
            sentence = method(self)
        except USMRIError as error:
            sentence = str(error)
        except Exception as error:  # a click must never end in nothing
            log.exception("a click failed")
            sentence = _("An unexpected fault ended this ({fault}). Details are in the log.").format(
                fault=type(error).__name__
            )
        self._set_status(sentence)

    return slot


def allow(widgets: Iterable[Any], allowed: bool, why_not: str) -> None:
    """Enable or disable widgets; while they are disabled, their tooltip is the reason."""
    for widget in widgets:
        if widget.property(_USUAL) is None:
            widget.setProperty(_USUAL, widget.toolTip)
        widget.enabled = allowed
        widget.toolTip = widget.property(_USUAL) if allowed else why_not
