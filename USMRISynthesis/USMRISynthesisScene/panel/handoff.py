"""The Registration section: a registration module opened with the nodes chosen, and the ultrasound follows."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _

from USMRISynthesisScene.nodes import handoff, registration
from USMRISynthesisScene.panel.slots import NO_RESULT, allow, answered


class HandoffSection:
    """What comes after the synthesis.

    Args:
        result: the MR-like volume at hand, or None.
        say: where one sentence for the user goes.
    """

    def __init__(self, ui: Any, result: Callable[[], Any], say: Callable[[str], None]) -> None:
        self.ui = ui
        self._result, self._say = result, say
        self._tools = registration.tools()
        ui.registrationComboBox.addItems([tool.title for tool in self._tools] or [_("No module is installed")])
        ui.openRegistrationButton.connect("clicked(bool)", self.on_open)
        ui.shareTransformButton.connect("clicked(bool)", self.on_share_transform)

    def refresh(self) -> None:
        there = self._result() is not None
        allow([self.ui.shareTransformButton], there, NO_RESULT)
        self.ui.registrationComboBox.enabled = bool(self._tools)
        self.ui.openRegistrationButton.enabled = there and bool(self._tools)
        self.ui.openRegistrationButton.toolTip = (
            NO_RESULT if self._tools and not there else
            _("Switch to that module, with the MR-like volume and its target chosen in it.") if self._tools else
            _("Install SlicerElastix, ANTs or BRAINSTools from the Extensions Manager."))

    @answered
    def on_open(self) -> str:
        tool = self._tools[self.ui.registrationComboBox.currentIndex]
        made = registration.open_tool(tool, self._result(), self.ui.fixedSelector.currentNode(),
                                      self.ui.canonicalCheckBox.checked)
        return _("{module} was opened; the result goes to {name}. Back here, let the ultrasound follow.").format(
            module=tool.title, name=made.GetName())

    @answered
    def on_share_transform(self) -> str:
        moved = handoff.share_transform(self._result())
        return _("Now under the transform of the MR-like volume: {names}.").format(
            names=", ".join(node.GetName() for node in moved))
