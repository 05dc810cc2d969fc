"""MR-like volumes from fetal brain ultrasound. Not for diagnosis.

    from USMRISynthesisLib import Volume, synthesize
    synthesize(Volume.read("head.nrrd")).mr.write("head-mr.nrrd")

Importing the package loads neither torch nor SimpleITK: 3D Slicer imports it at start-up.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from USMRISynthesisLib.io.volume import Volume
    from USMRISynthesisLib.spacing.pipeline import Respaced, respace
    from USMRISynthesisLib.synthesis.pipeline import synthesize
    from USMRISynthesisLib.synthesis.result import Synthesis

__all__ = ["Respaced", "Synthesis", "Volume", "__version__", "respace", "synthesize"]
__version__ = "0.2.0"

_HOMES = {
    "Volume": "io.volume",
    "Synthesis": "synthesis.result",
    "synthesize": "synthesis.pipeline",
    "Respaced": "spacing.pipeline",
    "respace": "spacing.pipeline",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
