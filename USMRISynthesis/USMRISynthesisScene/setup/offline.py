"""Instructions for PyTorch on a computer without network: the files, their SHA-256, and the commands."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path

from slicer.i18n import tr as _

from USMRISynthesisScene.setup.torch_install import REQUIREMENT

LIST = Path(__file__).resolve().parents[2] / "Resources" / "offline-torch.json"
_TAGS = {
    "Windows AMD64": "win_amd64",
    "Darwin arm64": "macosx_11_0_arm64",
    "Darwin x86_64": "macosx_10_9_x86_64",
    "Linux x86_64": "manylinux_2_28_x86_64",
}


def this_system() -> str:
    """Operating system and processor, as `offline-torch.json` names them."""
    return f"{platform.system()} {platform.machine()}"


def offline_files(system: str, python: str) -> dict[str, str]:
    """File name -> SHA-256 of the files that PyTorch needs on that system; empty where they are not known."""
    content = json.loads(LIST.read_text(encoding="utf-8"))
    files = content["platforms"].get(system, {}) if content["python"] == python else {}
    return {str(name): str(sha256) for name, sha256 in files.items()}


def offline_hint(system: str | None = None, python: str | None = None) -> str:
    """Instructions for a computer without network, as lines to copy."""
    system = system or this_system()
    python = python or f"{sys.version_info.major}.{sys.version_info.minor}"
    tag = _TAGS.get(system)
    platform_option = f" --platform {tag}" if tag else ""
    lines = [
        _("PyTorch without network ({system}, Python {python}):").format(system=system, python=python),
        _("1. On a computer with network and pip, collect the files in a folder:"),
        f'   pip download "torch{REQUIREMENT}" --only-binary=:all: --python-version {python}{platform_option} -d torch',
        _("2. Bring the folder here, and in Slicer's Python console:"),
        '   slicer.util.pip_install("--no-index --find-links PATH_OF_THE_FOLDER torch")',
        _("3. Restart Slicer."),
    ]
    files = offline_files(system, python)
    if files:
        lines.append(_("Files that are known to fit, with their SHA-256:"))
        lines += [f"   {name}\n      {sha256}" for name, sha256 in files.items()]
    return "\n".join(lines)
