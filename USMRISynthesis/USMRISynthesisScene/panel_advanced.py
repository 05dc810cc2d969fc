"""The Advanced section: whether PyTorch is there, where the networks ran and why, and PyTorch without network."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _

from USMRISynthesisScene.export import provenance_of
from USMRISynthesisScene.offline import offline_hint
from USMRISynthesisScene.torch_install import TorchState, explanation, torch_state, torch_version


class AdvancedSection:
    """Tells, and never asks.

    Args:
        result: the MR-like volume at hand, or None.
    """

    def __init__(self, ui: Any, result: Callable[[], Any]) -> None:
        self.ui = ui
        self._result = result
        ui.offlineButton.connect("clicked(bool)", self.on_offline)

    def look_for_torch(self) -> TorchState:
        """Say on its line what there is of PyTorch."""
        state = torch_state()
        self.ui.torchLabel.text = (_("PyTorch {version} is installed.").format(version=torch_version())
                                   if state is TorchState.READY else str(explanation(state)))
        self.ui.offlineButton.enabled = state is not TorchState.READY
        return state

    def refresh(self) -> None:
        self.ui.deviceReasonLabel.text = device_in_words(self._result())

    def on_offline(self, checked: bool = False) -> None:
        self.ui.logTextBox.appendPlainText(offline_hint())


def device_in_words(output: Any) -> str:
    """Where a result was computed and why there."""
    provenance = provenance_of(output) if output is not None else {}
    device = provenance.get("device", {})
    if not device.get("name"):
        return _("Which device was used, and why, is told here after a run.")
    return " ".join([_("Last run on {name}.").format(name=device["name"]), device.get("reason", ""),
                     provenance.get("precision", {}).get("reason", "")]).strip()
