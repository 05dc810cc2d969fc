"""A model folder's `manifest.json`: what a model is, what it is fed, how it was trained, where it must not be used.

`files` names the SHA-256 of every file that holds weights: `model.pt`, a TorchScript program, and beside it
`weights.safetensors`, the same weights without a program. `architecture` says which of the package's networks the
latter belong to, and with which settings: {"name": "generator", "config": {...}}. Older folders have neither.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.geometry.planes import PLANES
from USMRISynthesisLib.models import schema

MANIFEST = "manifest.json"
WEIGHTS = "model.pt"
PLAIN_WEIGHTS = "weights.safetensors"
REMEDY = "Restore the model folder from the installation, or choose another model."


@dataclass(frozen=True)
class InputFormat:
    """What the network is fed: square slices in canonical space and how their channels are put together."""

    size: int
    spacing_mm: float
    channels: int
    neighbours: int
    location: bool
    intensity: str = ""
    exponent: float = 1.0  # of the 0-1 intensity; manifests of before it mean 1
    planes: tuple[str, ...] = ("axial",)  # whose slices it takes


@dataclass(frozen=True)
class Architecture:
    """Which of the package's networks the plain weights belong to, and their settings."""

    name: str
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Manifest:
    """What a model is, what it was trained on, how good it is and where it must not be used."""

    name: str
    task: str
    version: str
    sha256: str
    input: InputFormat
    output: Mapping[str, Any]
    training: Any
    figures: Any
    limits: Any
    synthetic: bool = True
    file: str = WEIGHTS
    files: Mapping[str, str] = field(default_factory=dict)
    architecture: Architecture | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_plain(self) -> bool:
        """Whether there are plain weights, and it is known what they belong to."""
        return PLAIN_WEIGHTS in self.files and self.architecture is not None

    def to_json(self) -> dict[str, Any]:
        """The dictionary that `manifest.json` holds."""
        content = asdict(self)
        for name in ("files", "architecture"):
            if not content[name]:
                del content[name]
        return {**content.pop("extra"), **content}


def read_manifest(folder: str | Path) -> Manifest:
    """Read and check `manifest.json`. Raises Failed that names the field at fault."""
    path = Path(folder) / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Failed("manifest", f"The model's {MANIFEST} cannot be read ({error.strerror}).", REMEDY) from error
    except (ValueError, RecursionError) as error:
        raise Failed("manifest", f"The model's {MANIFEST} is not JSON.", REMEDY) from error
    if not isinstance(content, dict):
        raise Failed("manifest", f"The model's {MANIFEST} is not a JSON object.", REMEDY)
    if content.get("synthetic") is not True:
        raise malformed("synthetic", "must be true")
    known = {setting.name for setting in fields(Manifest)} - {"extra"}
    extra = {key: value for key, value in content.items() if key not in known}
    table = {key: value for key, value in content.items() if key in known} | {"extra": extra}
    if type(table.get("version")) in (int, float):
        table["version"] = str(table["version"])
    if isinstance(table.get("sha256"), str):
        table["sha256"] = table["sha256"].lower()
    manifest: Manifest = schema.build(Manifest, table, lambda name, reason, _: malformed(name, reason), unknown=True)
    _check_input(manifest.input)
    for name, sha256 in {"sha256": manifest.sha256, **manifest.files}.items():
        if len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
            raise malformed(name, "is not a SHA-256 in hexadecimal")
    for name in (manifest.file, *manifest.files):
        if not is_plain_name(name):
            raise malformed("file", "must be the name of a file in the model's own folder")
    if manifest.files.get(manifest.file, manifest.sha256) != manifest.sha256:
        raise malformed("files", "contradicts sha256")
    return manifest


def is_plain_name(name: object) -> bool:
    """Whether this names a file in a folder, and nothing elsewhere."""
    return isinstance(name, str) and name == Path(name).name and "\\" not in name and name not in ("", ".", "..")


def malformed(name: str, fault: str) -> Failed:
    """The error that names what is wrong with a manifest."""
    return Failed("manifest", f"The model's {MANIFEST} is malformed: {name or 'manifest'!r} {fault}.", REMEDY)


def _check_input(form: InputFormat) -> None:
    if not 0.1 <= form.exponent <= 10:
        raise malformed("input.exponent", "must lie in 0.1..10")
    if form.size <= 0 or form.spacing_mm <= 0 or form.neighbours < 0:
        raise malformed("input", "has a size, spacing or neighbour count that makes no sense")
    if not form.planes or any(plane not in PLANES for plane in form.planes):
        raise malformed("input.planes", f"must name some of {', '.join(PLANES)}")
    if form.channels != 2 * form.neighbours + 1 + (len(form.planes) > 1) + form.location:
        raise malformed("input.channels", "does not match input.neighbours, input.planes and input.location")
