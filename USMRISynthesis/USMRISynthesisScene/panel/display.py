"""The Display section: side-by-side views of a result and the overlays in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _
from USMRISynthesisLib.errors import USMRIError

from USMRISynthesisScene.files.export import provenance_of
from USMRISynthesisScene.nodes import contours, nodes
from USMRISynthesisScene.panel.slots import NO_RESULT, allow
from USMRISynthesisScene.views import layout, rendering
from USMRISynthesisScene.views.reveal import Reveal

# Names and ranges of 0-1000: T2-like contrast has tissue in the lower half and fluid on top.
WINDOWS = {_("Whole range"): (0.0, 1000.0), _("Brain tissue"): (100.0, 650.0), _("Fluid"): (400.0, 1000.0)}
VIEWS = {
    _("One plane"): layout.LAYOUT_ID,
    _("Three planes"): layout.PLANES_LAYOUT_ID,
    _("One plane and 3D"): layout.SPACE_LAYOUT_ID,
}


class DisplaySection:
    """The side-by-side views and their overlays.

    Args:
        result: the current MR-like volume, or None.
        set_status: shows one sentence in the status line.
    """

    def __init__(self, ui: Any, result: Callable[[], Any], set_status: Callable[[str], None]) -> None:
        self.ui = ui
        self._set_status = set_status
        self._result = result
        self._reveal: Reveal | None = None
        ui.windowComboBox.addItems(list(WINDOWS))
        ui.viewsComboBox.addItems(list(VIEWS))
        ui.compareButton.connect("clicked(bool)", self.on_compare)
        ui.backButton.connect("clicked(bool)", self.on_back)
        ui.fadeSlider.connect("valueChanged(double)", self.on_fade)
        ui.contourCheckBox.connect("toggled(bool)", self.on_contours)
        ui.reliabilityCheckBox.connect("toggled(bool)", self.on_reliability)
        ui.revealCheckBox.connect("toggled(bool)", self.on_reveal)
        ui.windowComboBox.connect("activated(int)", self.on_window)
        ui.viewsComboBox.connect("activated(int)", self.on_compare)

    def refresh(self) -> None:
        """Enable what can be used now."""
        layout.keep_layers_apart()  # a loaded scene brings views without this setting
        output = self._result()
        allow(
            (
                self.ui.compareButton,
                self.ui.contourCheckBox,
                self.ui.windowComboBox,
                self.ui.fadeSlider,
                self.ui.viewsComboBox,
                self.ui.revealCheckBox,
            ),
            output is not None,
            NO_RESULT,
        )
        has_map = output is not None and output.GetNodeReference(nodes.RELIABILITY_ROLE) is not None
        self.ui.reliabilityCheckBox.enabled = has_map
        self.ui.reliabilityCheckBox.toolTip = (
            _(
                "Covers the parts of the MR-like image that are probably wrong: red is least reliable, then yellow. "
                "Parts that are not covered may still be wrong. Learned from simulated heads."
            )
            if has_map and nodes.is_probability(provenance_of(output))
            else _(
                "Shows in green, over the ultrasound, where the beam reached inside the head. It is no measure of how "
                "right the MR-like image is."
            )
            if has_map
            else _('Tick "Add the reliability map" under Output and synthesize again.')
        )
        allow([self.ui.backButton], layout.is_shown(), _("The side-by-side views are not shown."))

    def on_compare(self, checked: Any = False) -> None:
        """Show the chosen views with the ticked overlays."""
        output = self._result()
        if output is None:
            return
        self._stop_reveal()
        chosen = list(VIEWS.values())[self.ui.viewsComboBox.currentIndex]
        if layout.show_comparison(nodes.require_source(output), output, self.ui.fadeSlider.value, chosen):
            self._show_space(output, chosen == layout.SPACE_LAYOUT_ID)
            self.on_contours(self.ui.contourCheckBox.checked)
            self.on_reliability(self.ui.reliabilityCheckBox.checked)
            self.on_reveal(self.ui.revealCheckBox.checked)
        self.refresh()

    def on_back(self, checked: bool = False) -> None:
        self._stop_reveal()
        layout.leave_comparison()
        self.refresh()

    def on_fade(self, value: float) -> None:
        layout.set_fusion(value)

    def on_contours(self, shown: bool) -> None:
        """Make the contours when they are shown; remove their node when they are hidden."""
        output = self._result()
        if output is None:
            return
        if shown:
            layout.show_labels(contours.contours_of(output))
        else:
            layout.show_labels(None)
            contours.remove_contours(output)

    def on_reliability(self, shown: bool) -> None:
        output = self._result()
        overlay = output.GetNodeReference(nodes.RELIABILITY_ROLE) if shown and output is not None else None
        # A probability is about the MR-like image; where the beam reached is about the ultrasound.
        probable = overlay is not None and nodes.is_probability(provenance_of(output))
        layout.show_over(layout.MR, overlay if probable else None)
        layout.show_over(layout.ULTRASOUND, None if probable else overlay)

    def on_reveal(self, shown: bool) -> None:
        self._stop_reveal()
        if shown and layout.is_shown():
            self._reveal = Reveal()

    def on_window(self, index: int) -> None:
        output = self._result()
        if output is not None:
            display = output.GetDisplayNode()
            display.SetAutoWindowLevel(False)
            display.SetWindowLevelMinMax(*list(WINDOWS.values())[index])

    def close(self) -> None:
        """Stop observing the mouse."""
        self._stop_reveal()

    def _show_space(self, output: Any, shown: bool) -> None:
        try:
            if shown:
                rendering.render(output)
            else:
                rendering.stop_rendering(output)
        except USMRIError as error:
            self._set_status(str(error))

    def _stop_reveal(self) -> None:
        if self._reveal is not None:
            self._reveal.close()
            self._reveal = None
