"""Description of the chosen model from its manifest, without loading its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from slicer.i18n import tr as _
from USMRISynthesisLib.errors import USMRIError
from USMRISynthesisLib.geometry.planes import ALL, CHOICES, PLANES, supported_planes
from USMRISynthesisLib.models import store

TASK = "synthesis"
PLANE_NAMES = {"axial": _("Axial"), "coronal": _("Coronal"), "sagittal": _("Sagittal"), ALL: _("All three combined")}


@dataclass(frozen=True)
class ModelChoice:
    """A model as the panel shows it.

    Attributes:
        planes: the items of CHOICES that the model supports, never empty.
        description: one line about the model, or why it cannot be used and what to do.
        usable: whether a synthesis can be started with it.
    """

    planes: tuple[str, ...]
    description: str
    usable: bool


def installed() -> list[str]:
    """The installed models; "default" where there is none, so that its error message can be shown."""
    return store.models_for(TASK) or ["default"]


def describe_model(name: str) -> ModelChoice:
    """Read the manifest of a model given by name or folder. Nothing is loaded and no hash is computed."""
    try:
        folder = store.find_model(name)
        manifest = store.read_manifest(folder)
    except USMRIError as error:
        text = f"{error.message} {_remedy()}" if error.kind == "no-model" else str(error)
        return ModelChoice(PLANES[:1], text, False)
    if manifest.task != TASK:
        text = _("The model {name} is made for another task.").format(name=manifest.name)
        return ModelChoice(PLANES[:1], f"{text} {_remedy()}", False)
    planes = tuple(one for one in CHOICES if supported_planes(one, manifest.input.planes) is not None)
    parts = [_("{name}, version {version}.").format(name=manifest.name, version=manifest.version)]
    if not store.is_bundled(folder):
        parts.append(_("Not part of the installation: you must confirm once that it may run."))
    if caution := manifest.extra.get("caution"):
        parts.append(str(caution))
    if manifest.extra.get("support"):
        parts.append(_("It provides a reliability map."))
    return ModelChoice(planes, " ".join(parts), True)


def _remedy() -> str:
    names = store.models_for(TASK)
    return (
        _("Choose {models}, or a folder of your own with a manifest.json in it.").format(models=", ".join(names))
        if names
        else _("Install the extension again, or choose a folder of your own with a manifest.json in it.")
    )


def planes_to_run(parameters: Any) -> str:
    """The chosen planes where the chosen model supports them; else the first that it supports."""
    offered = describe_model(parameters.model).planes
    return str(parameters.planes) if parameters.planes in offered else offered[0]
