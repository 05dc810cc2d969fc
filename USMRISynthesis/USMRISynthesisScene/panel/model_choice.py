"""What the chosen model is and can do, told from its manifest before anything runs."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from slicer.i18n import tr as _
from USMRISynthesisLib.errors import USMRIError
from USMRISynthesisLib.geometry.planes import ALL, CHOICES, PLANES, supported_planes
from USMRISynthesisLib.models import store

TASK = "synthesis"
PLANE_WORDS = {"axial": _("Axial"), "coronal": _("Coronal"), "sagittal": _("Sagittal"), ALL: _("All three combined")}


@dataclass(frozen=True)
class ModelChoice:
    """A model as the panel shows it.

    Attributes:
        planes: what can be chosen of CHOICES, never empty.
        words: one line about the model, or why it cannot be used and what to do.
        usable: whether a synthesis can be tried with it.
    """

    planes: tuple[str, ...]
    words: str
    usable: bool


def installed() -> list[str]:
    """The models that come with the module; "default" where there is none, so that the reason can be told."""
    return store.models_for(TASK) or ["default"]


def look_at(name: str) -> ModelChoice:
    """Read the manifest of a model given by name or folder. Nothing is loaded and no hash is computed."""
    try:
        folder = store.find_model(name)
        manifest = store.read_manifest(folder)
    except USMRIError as error:
        words = f"{error.message} {_remedy()}" if error.kind == "no-model" else str(error)
        return ModelChoice(PLANES[:1], words, False)
    if manifest.task != TASK:
        words = _("The model {name} is made for another task.").format(name=manifest.name)
        return ModelChoice(PLANES[:1], f"{words} {_remedy()}", False)
    planes = tuple(one for one in CHOICES if supported_planes(one, manifest.input.planes) is not None)
    parts = [_("{name}, version {version}.").format(name=manifest.name, version=manifest.version)]
    if not store.is_bundled(folder):
        parts.append(_("Of your own: you are asked once whether it may run."))
    if caution := manifest.extra.get("caution"):
        parts.append(str(caution))
    if manifest.extra.get("support"):
        parts.append(_("Its support map says what not to believe."))
    return ModelChoice(planes, " ".join(parts), True)


def _remedy() -> str:
    names = store.models_for(TASK)
    return (_("Choose {models}, or a folder of your own with a manifest.json in it.").format(models=", ".join(names))
            if names else _("Install the extension again, or choose a folder of your own with a manifest.json in it."))


def planes_to_run(parameters: Any) -> str:
    """The planes that were chosen, as far as the chosen model has them; else its first."""
    offered = look_at(parameters.model).planes
    return str(parameters.planes) if parameters.planes in offered else offered[0]
