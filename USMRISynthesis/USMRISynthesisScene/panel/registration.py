"""The Registration section: open a registration module, then apply its transform to the ultrasound as well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _

from USMRISynthesisScene.nodes import registration
from USMRISynthesisScene.panel.slots import NO_RESULT, allow, status_slot


class RegistrationSection:
    """Registration of the MR-like volume to an MR or an atlas.

    Args:
        result: the current MR-like volume, or None.
        set_status: shows one sentence in the status line.
    """

    def __init__(self, ui: Any, result: Callable[[], Any], set_status: Callable[[str], None]) -> None:
        self.ui = ui
        self._result, self._set_status = result, set_status
        self._tools = registration.tools()
        ui.registrationComboBox.addItems([tool.title for tool in self._tools] or [_("No module is installed")])
        ui.openRegistrationButton.connect("clicked(bool)", self.on_open)
        ui.shareTransformButton.connect("clicked(bool)", self.on_share_transform)

    def refresh(self) -> None:
        has_result = self._result() is not None
        allow([self.ui.shareTransformButton], has_result, NO_RESULT)
        self.ui.registrationComboBox.enabled = bool(self._tools)
        self.ui.openRegistrationButton.enabled = has_result and bool(self._tools)
        self.ui.openRegistrationButton.toolTip = (
            NO_RESULT
            if self._tools and not has_result
            else _("Switch to this module, with the MR-like volume and the target selected in it.")
            if self._tools
            else _("Install SlicerElastix, ANTs or BRAINSTools from the Extensions Manager.")
        )

    @status_slot
    def on_open(self) -> str:
        tool = self._tools[self.ui.registrationComboBox.currentIndex]
        made = registration.open_tool(
            tool, self._result(), self.ui.fixedSelector.currentNode(), self.ui.canonicalCheckBox.checked
        )
        return _("{module} is open; its result goes to {name}. Then come back and apply it to the ultrasound.").format(
            module=tool.title, name=made.GetName()
        )

    @status_slot
    def on_share_transform(self) -> str:
        moved = registration.share_transform(self._result())
        return _("Now under the transform of the MR-like volume: {names}.").format(
            names=", ".join(node.GetName() for node in moved)
        )
