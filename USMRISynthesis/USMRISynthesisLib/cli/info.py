"""`usmri info`: what is installed, whether the models are intact, and where they would run."""

from __future__ import annotations

import json
import platform
from argparse import Namespace
from typing import Any

from USMRISynthesisLib import __version__
from USMRISynthesisLib.cli.options import Outcome, add_command
from USMRISynthesisLib.errors import Failed


def add_commands(commands: Any) -> None:
    """The command's parser."""
    parser = add_command(
        commands,
        "info",
        "say what is installed: models, device and why, versions; or what an image holds",
        info,
        silent=True,
    )
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="show this model's manifest; or what an image or a DICOM study holds"
    )


def info(options: Namespace) -> Outcome:
    """`usmri info [MODEL | IMAGE]`: what is installed, whether the models are intact, and where they would run."""
    from USMRISynthesisLib.models.store import find_model, hash_matches, installed_models, is_bundled, read_manifest

    if options.model and options.model not in {folder.name for folder in installed_models()}:
        from pathlib import Path

        from USMRISynthesisLib.cli.contents import contents, is_image

        if is_image(Path(options.model)):
            return contents(Path(options.model))
    if options.model:
        folder = find_model(options.model)
        manifest = read_manifest(folder).to_json()
        intact = hash_matches(folder)
        return (
            f"{json.dumps(manifest, indent=2, ensure_ascii=False)}\n{_intact(intact)}",
            {"model": manifest, "intact": intact, "bundled": is_bundled(folder)},
        )
    models = []
    for folder in installed_models():
        try:
            manifest_ = read_manifest(folder)
            models.append(
                {
                    "name": folder.name,
                    "task": manifest_.task,
                    "version": manifest_.version,
                    "sha256": manifest_.sha256,
                    "intact": hash_matches(folder),
                }
            )
        except Failed as error:
            models.append(
                {"name": folder.name, "task": "?", "version": "?", "sha256": "?", "intact": False, "error": str(error)}
            )
    versions = {"USMRISynthesis": __version__, "Python": platform.python_version(), **_versions()}
    device, reason = _device()
    lines = [", ".join(f"{name} {version}" for name, version in versions.items()), f"Device: {device}. {reason}"]
    lines += [
        f"Model {model['name']}: {model['task']} {model['version']}, {_intact(model['intact'])}" for model in models
    ] or ["No model is installed."]
    return "\n".join(lines), {"versions": versions, "device": {"name": device, "reason": reason}, "models": models}


def _intact(intact: object) -> str:
    return "the weights match the manifest's SHA-256." if intact else "DAMAGED: the SHA-256 does not match."


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("numpy", "scipy", "SimpleITK", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _device() -> tuple[str, str]:
    try:
        from USMRISynthesisLib.models.device import choose_device
    except (ImportError, OSError):
        return "none", "PyTorch is not installed, or its installation is broken."
    device, reason = choose_device("auto")
    return str(device), reason
