"""The Inputs section: a summary of the chosen ultrasound, and corrections of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _

from USMRISynthesisScene.nodes import conversion, inputs
from USMRISynthesisScene.panel.slots import WAIT, allow, status_slot
from USMRISynthesisScene.runs import sequence


class InputsSection:
    """Greyscale conversion, voxel size, and which frames of a sequence.

    Args:
        parameters: the scene's parameters, or None while there are none.
        set_status: shows one sentence in the status line.
    """

    def __init__(self, ui: Any, parameters: Callable[[], Any], set_status: Callable[[str], None]) -> None:
        self.ui = ui
        self._parameters = parameters
        self._set_status = set_status
        self._noted_id = ""  # id of the volume whose note has opened the section
        self._spacing: tuple[float, ...] = ()
        ui.greyscaleButton.connect("clicked(bool)", self.on_greyscale)
        ui.spacingButton.connect("clicked(bool)", self.on_spacing)

    def refresh(self, running: bool) -> None:
        source = self._source()
        colour, problem = conversion.is_colour(source), conversion.spacing_complaint(source)
        note = _("This is a colour image: convert it to greyscale first.") if colour else problem
        self.ui.inputSummaryLabel.text = f"{inputs.describe(source)} {note}".strip()
        frames, busy = sequence.frame_count(source), WAIT
        allow(
            [self.ui.greyscaleButton], colour and not running, busy if colour else _("This image is greyscale already.")
        )
        allow(
            (self.ui.spacingSpinBox, self.ui.spacingButton),
            source is not None and not running,
            busy if source is not None else _("Select an ultrasound volume first."),
        )
        allow(
            [self.ui.allFramesCheckBox],
            frames > 1 and not running,
            busy if frames > 1 else _("This is not a sequence of several frames."),
        )
        self.ui.allFramesCheckBox.text = (
            _("All {n} frames of the sequence").format(n=frames) if frames > 1 else _("All frames of the sequence")
        )
        if note and source.GetID() != self._noted_id:
            self.ui.inputsCollapsibleButton.collapsed = False  # only once for each volume: the user may close it
            self._noted_id = source.GetID()
        if source is not None and self._spacing != source.GetSpacing():
            self._spacing = source.GetSpacing()
            self.ui.spacingSpinBox.value = self._spacing[0]

    @status_slot
    def on_greyscale(self) -> str:
        made = conversion.greyscale_copy(self._source())
        self._parameters().inputVolume = made
        return _("{name} was made and selected.").format(name=made.GetName())

    @status_slot
    def on_spacing(self) -> str:
        source = self._source()
        conversion.correct_spacing(source, self.ui.spacingSpinBox.value)
        return _("The voxel size of {name} was changed.").format(name=source.GetName())

    def _source(self) -> Any:
        parameters = self._parameters()
        return parameters.inputVolume if parameters is not None else None
