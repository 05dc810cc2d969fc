"""Whose code may run: files that come with the product, and those that the user has agreed to, once for each hash.

A TorchScript file is a program: it can compute anything, and write files. The list of bundled files is part of the
package (`bundled.py`); the user's answers are kept in the configuration folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path

from USMRISynthesisLib.callbacks import Consent as Consent
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.models import bundled

CONFIG_DIR_VARIABLE = "USMRI_CONFIG_DIR"
_FILE = "trusted-models.json"

_session: set[str] = set()  # hashes agreed to in this process


class ConsentNeeded(Refused):
    """The model is not a bundled one and nobody has agreed to run it; carries what a dialog needs to ask."""

    def __init__(self, name: str, sha256: str) -> None:
        super().__init__(
            "consent",
            f"The model {name!r} does not come with USMRISynthesis and has not been trusted yet: such a model can run "
            "code and write files on this computer.",
            f"Trust it only if you know where it comes from (usmri: --trust-model); its SHA-256 is {sha256}.",
        )
        self.name = name
        self.sha256 = sha256


def is_listed(sha256: str) -> bool:
    """Whether a file of this hash comes with the product."""
    return any(sha256 in files.values() for files in bundled.FILES.values())


def agreed(sha256: str) -> bool:
    """Whether a file of this hash may be run without asking: it is bundled, or the user has agreed before."""
    return is_listed(sha256) or sha256 in _session or sha256 in _trusted()


def require(sha256: str, name: str, consent: Consent | None) -> None:
    """Ask where that is needed, and remember a yes. Raises ConsentNeeded without one."""
    if agreed(sha256):
        return
    if consent is None or not consent(sha256, name):
        raise ConsentNeeded(name, sha256)
    remember(sha256, name)


def remember(sha256: str, name: str) -> None:
    """Keep a consent; where nothing can be written it holds for this process, and is requested again next time."""
    _session.add(sha256)
    path = config_dir() / _FILE
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({**_trusted(), sha256: name}, indent=2) + "\n", encoding="utf-8")
        os.replace(part, path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()


def config_dir() -> Path:
    """The user's configuration folder for this product (not created); USMRI_CONFIG_DIR overrides it."""
    given = os.environ.get(CONFIG_DIR_VARIABLE)
    if given:
        return Path(given)
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming") / "USMRISynthesis"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "USMRISynthesis"
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "usmri-synthesis"


def _trusted() -> dict[str, str]:
    """Hash -> name of the models somebody agreed to; an unreadable file counts as no consent."""
    try:
        content = json.loads((config_dir() / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
