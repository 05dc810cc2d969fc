"""The Python packages of Resources/requirements.txt: Slicer brings them, and installs what is missing or too old."""
from __future__ import annotations

import importlib.util
from pathlib import Path

from slicer.i18n import tr as _
from USMRISynthesisLib.errors import Failed

REQUIREMENTS = Path(__file__).resolve().parents[2] / "Resources" / "requirements.txt"


def ensure_packages() -> None:
    """On the first click, never at start-up; asks the user first. Raises Failed when they declined or it failed."""
    if importlib.util.find_spec("slicer.packaging") is None:
        return      # Slicer 5.10: what it brings must do, and what is missing names itself when it is used
    from slicer.packaging import load_requirements, pip_ensure

    try:
        pip_ensure(load_requirements(str(REQUIREMENTS)), requester="USMRISynthesis")
    except Exception as error:      # declined, offline, or pip failed: each has its own reason in the console
        raise Failed("packages", _("Python packages that are needed were not installed."),
                     _("Press the button again and accept, with the network connected.")) from error
