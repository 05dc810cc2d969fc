"""The Python packages of Resources/requirements.txt; Slicer installs those that are missing or too old."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from slicer.i18n import tr as _
from USMRISynthesisLib.errors import Failed

REQUIREMENTS = Path(__file__).resolve().parents[2] / "Resources" / "requirements.txt"


def ensure_packages() -> None:
    """Install missing packages, after the user has agreed. Raises Failed where the user declined or pip failed.

    Called on the first click that needs them, never at start-up.
    """
    if importlib.util.find_spec("slicer.packaging") is None:
        return  # Slicer 5.10 has no such function; a missing package is reported when it is used
    from slicer.packaging import load_requirements, pip_ensure

    try:
        pip_ensure(load_requirements(str(REQUIREMENTS)), requester="USMRISynthesis")
    except Exception as error:  # declined, offline, or pip failed: the reason is in the console
        raise Failed(
            "packages",
            _("Python packages that are needed were not installed."),
            _("Press the button again and accept, with the network connected."),
        ) from error
