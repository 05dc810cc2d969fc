"""A model folder's `manifest.json`: what a model is, what it is fed, how it was trained, where it must not be used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.geometry.planes import PLANES

MANIFEST = "manifest.json"
WEIGHTS = "model.pt"
REMEDY = "Restore the model folder from the installation, or choose another model."


@dataclass(frozen=True)
class InputFormat:
    """What the network is fed: square slices in canonical space and how their channels are put together."""

    size: int
    spacing_mm: float
    channels: int
    neighbours: int
    location: bool
    intensity: str
    exponent: float = 1.0  # of the 0-1 intensity; manifests of before it mean 1
    planes: tuple[str, ...] = ("axial",)  # whose slices it takes


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
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The dictionary that `manifest.json` holds."""
        content = asdict(self)
        return {**content.pop("extra"), **content}


def read_manifest(folder: str | Path) -> Manifest:
    """Read and check `manifest.json`. Raises Failed that names the field at fault."""
    path = Path(folder) / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Failed("manifest", f"The model's {MANIFEST} cannot be read ({error.strerror}).", REMEDY) from error
    except ValueError as error:
        raise Failed("manifest", f"The model's {MANIFEST} is not JSON.", REMEDY) from error
    if not isinstance(content, dict):
        raise Failed("manifest", f"The model's {MANIFEST} is not a JSON object.", REMEDY)

    def take(source: Mapping[str, Any], name: str, kinds: type | tuple[type, ...], prefix: str = "") -> Any:
        value = source.get(name)
        accepted = kinds if isinstance(kinds, tuple) else (kinds,)
        # bool is an int to Python, never to a manifest.
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in accepted):
            raise malformed(prefix + name, "is missing" if name not in source else "has the wrong type")
        return value

    fed = take(content, "input", dict)
    format_ = InputFormat(
        size=take(fed, "size", int, "input."),
        spacing_mm=float(take(fed, "spacing_mm", (int, float), "input.")),
        channels=take(fed, "channels", int, "input."),
        neighbours=take(fed, "neighbours", int, "input."),
        location=take(fed, "location", bool, "input."),
        intensity=str(fed.get("intensity", "")),
        exponent=float(take({"exponent": 1.0} | fed, "exponent", (int, float), "input.")),
        planes=tuple(take({"planes": ["axial"]} | fed, "planes", list, "input.")),
    )
    if not 0.1 <= format_.exponent <= 10:
        raise malformed("input.exponent", "must lie in 0.1..10")
    if format_.size <= 0 or format_.spacing_mm <= 0 or format_.neighbours < 0:
        raise malformed("input", "has a size, spacing or neighbour count that makes no sense")
    if not format_.planes or any(plane not in PLANES for plane in format_.planes):
        raise malformed("input.planes", f"must name some of {', '.join(PLANES)}")
    if format_.channels != 2 * format_.neighbours + 1 + (len(format_.planes) > 1) + format_.location:
        raise malformed("input.channels", "does not match input.neighbours, input.planes and input.location")
    sha256 = take(content, "sha256", str).lower()
    if len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
        raise malformed("sha256", "is not a SHA-256 in hexadecimal")
    if content.get("synthetic") is not True:
        raise malformed("synthetic", "must be true")
    file = content.get("file", WEIGHTS)
    if not isinstance(file, str) or file != Path(file).name or file in ("", ".", ".."):
        raise malformed("file", "must be the name of a file in the model's own folder")
    for name in ("training", "figures", "limits"):
        if name not in content:
            raise malformed(name, "is missing")
    known = {
        "name",
        "task",
        "version",
        "sha256",
        "input",
        "output",
        "training",
        "figures",
        "limits",
        "synthetic",
        "file",
    }
    return Manifest(
        name=take(content, "name", str),
        task=take(content, "task", str),
        version=str(take(content, "version", (str, int, float))),
        sha256=sha256,
        input=format_,
        output=take(content, "output", dict),
        training=content["training"],
        figures=content["figures"],
        limits=content["limits"],
        file=file,
        extra={key: value for key, value in content.items() if key not in known},
    )


def malformed(name: str, fault: str) -> Failed:
    """The error that names what is wrong with a manifest."""
    return Failed("manifest", f"The model's {MANIFEST} is malformed: {name!r} {fault}.", REMEDY)
