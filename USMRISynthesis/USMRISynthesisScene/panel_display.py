"""What is done with a finished result: shown, compared, handed on to registration."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _
from USMRISynthesisLib.errors import USMRIError

from USMRISynthesisScene import contours, handoff, layout, nodes

# Names and ranges of 0-1000: T2-like contrast has tissue in the lower half and fluid on top.
WINDOWS = {_("Whole range"): (0.0, 1000.0), _("Brain tissue"): (100.0, 650.0), _("Fluid"): (400.0, 1000.0)}


class DisplaySection:
    """The Display section, and the button that lets the ultrasound follow a registered result.

    Args:
        result: the MR-like volume at hand, or None.
        say: where one sentence for the user goes.
    """

    def __init__(self, ui: Any, result: Callable[[], Any], say: Callable[[str], None]) -> None:
        self.ui = ui
        self._say = say
        self._result = result
        ui.windowComboBox.addItems(list(WINDOWS))
        ui.compareButton.connect("clicked(bool)", self.on_compare)
        ui.backButton.connect("clicked(bool)", self.on_back)
        ui.shareTransformButton.connect("clicked(bool)", self.on_share_transform)
        ui.fadeSlider.connect("valueChanged(double)", self.on_fade)
        ui.contourCheckBox.connect("toggled(bool)", self.on_contours)
        ui.windowComboBox.connect("activated(int)", self.on_window)

    def refresh(self) -> None:
        """What can be used now."""
        there = self._result() is not None
        for widget in (self.ui.compareButton, self.ui.contourCheckBox, self.ui.windowComboBox, self.ui.fadeSlider,
                       self.ui.shareTransformButton):
            widget.enabled = there
        self.ui.backButton.enabled = layout.is_shown()

    def on_compare(self, checked: bool = False) -> None:
        output = self._result()
        if output is None:
            return
        layout.show_comparison(nodes.source_of(output), output, self.ui.fadeSlider.value)
        self.on_contours(self.ui.contourCheckBox.checked)
        self.refresh()

    def on_back(self, checked: bool = False) -> None:
        layout.leave_comparison()
        self.refresh()

    def on_share_transform(self, checked: bool = False) -> None:
        output = self._result()
        try:
            moved = handoff.share_transform(output)
        except USMRIError as error:
            self._say(str(error))
            return
        self._say(_("Now under the transform of the MR-like volume: {names}.").format(
            names=", ".join(node.GetName() for node in moved)))

    def on_fade(self, value: float) -> None:
        layout.set_fusion(value)

    def on_contours(self, shown: bool) -> None:
        """They are made when they are asked for and go when they are not."""
        output = self._result()
        if output is None:
            return
        if shown:
            layout.show_labels(contours.contours_of(output))
        else:
            layout.show_labels(None)
            contours.remove_contours(output)

    def on_window(self, index: int) -> None:
        output = self._result()
        if output is not None:
            display = output.GetDisplayNode()
            display.SetAutoWindowLevel(False)
            display.SetWindowLevelMinMax(*list(WINDOWS.values())[index])
