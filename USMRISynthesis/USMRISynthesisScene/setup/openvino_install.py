"""OpenVINO, an optional package: offered when the user chooses one of its devices, never installed unasked."""

from __future__ import annotations

import slicer
from slicer.i18n import tr as _
from USMRISynthesisLib.errors import Failed

REQUIREMENT = "openvino>=2025.0"


def ensure_openvino(device: str) -> None:
    """Offer to install OpenVINO where the device needs it and it is missing; nothing for other devices.

    Raises Failed where the user declined, or pip failed.
    """
    if not device.startswith("openvino"):
        return
    from USMRISynthesisLib.models.openvino_runtime import missing_reason

    if missing_reason() is None:
        return
    question = _("The device {device} needs the Python package OpenVINO (about 60 MB). Install it?")
    if not slicer.util.confirmOkCancelDisplay(question.format(device=device)):
        raise Failed(
            "openvino",
            _("The device {device} needs OpenVINO, which was not installed.").format(device=device),
            _("Choose the device auto under Advanced, or accept the installation."),
        )
    try:
        slicer.util.pip_install(REQUIREMENT)
    except Exception as error:  # offline, or pip failed: the reason is in the console
        raise Failed(
            "openvino",
            _("OpenVINO could not be installed."),
            _("See the Python console, check the network connection, or choose the device auto under Advanced."),
        ) from error
