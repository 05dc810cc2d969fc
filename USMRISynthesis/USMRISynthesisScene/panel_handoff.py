"""Hand-off to registration, in the Output section: the ultrasound follows a registered result."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _
from USMRISynthesisLib.errors import USMRIError

from USMRISynthesisScene import handoff


class HandoffSection:
    """What comes after the synthesis.

    Args:
        result: the MR-like volume at hand, or None.
        say: where one sentence for the user goes.
    """

    def __init__(self, ui: Any, result: Callable[[], Any], say: Callable[[str], None]) -> None:
        self.ui = ui
        self._result, self._say = result, say
        ui.shareTransformButton.connect("clicked(bool)", self.on_share_transform)

    def refresh(self) -> None:
        self.ui.shareTransformButton.enabled = self._result() is not None

    def on_share_transform(self, checked: bool = False) -> None:
        try:
            moved = handoff.share_transform(self._result())
        except USMRIError as error:
            self._say(str(error))
            return
        self._say(_("Now under the transform of the MR-like volume: {names}.").format(
            names=", ".join(node.GetName() for node in moved)))
