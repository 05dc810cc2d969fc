"""The state of PyTorch, and its installation by the PyTorch extension.

Four problems occur in practice: the extension is not installed; torch is not installed; it is too old; an installation
was interrupted. In the last case `torchInstalled` raises TypeError, also later, until the remains are removed.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import logging
import re
import shutil
from enum import Enum
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _
from USMRISynthesisLib.errors import Failed

log = logging.getLogger(__name__)

OLDEST = (2, 1)
REQUIREMENT = f">={OLDEST[0]}.{OLDEST[1]}"
_PARTS = ("torch", "torchgen", "functorch", "torch-*.dist-info")


class TorchState(Enum):
    READY = "ready"
    NO_EXTENSION = "no extension"
    MISSING = "missing"
    BROKEN = "broken"
    OLD = "old"


def torch_state() -> TorchState:
    """The state now. Installs nothing and opens no dialog."""
    logic = _extension_logic()
    if logic is None:
        found = importlib.util.find_spec("torch") is not None
        return _ready_or_old() if found else TorchState.NO_EXTENSION
    try:
        return _ready_or_old() if logic.torchInstalled() else TorchState.MISSING
    except Exception:  # TypeError after an interrupted install; OSError, ImportError for damaged libraries
        log.debug("torch is installed but cannot be used", exc_info=True)
        return TorchState.BROKEN


def torch_version() -> str:
    """The installed version from its metadata, without importing torch; "?" where there is none."""
    try:
        return str(importlib.metadata.version("torch"))
    except importlib.metadata.PackageNotFoundError:
        return "?"


def _ready_or_old() -> TorchState:
    numbers = [int(part) for part in re.findall(r"\d+", torch_version())[:2]]
    return TorchState.OLD if len(numbers) == 2 and tuple(numbers) < OLDEST else TorchState.READY


def require_torch() -> None:
    """For the console: raise Failed with a remedy unless torch is ready."""
    state = torch_state()
    if state is not TorchState.READY:
        raise explanation(state)


def ensure_torch() -> None:
    """For the panel: offer to install or repair torch. Raises Failed where it is not ready afterwards."""
    state = torch_state()
    if state is TorchState.BROKEN:
        question = _("The installation of PyTorch is incomplete. Remove its remains and install it again?")
        if not slicer.util.confirmOkCancelDisplay(question):
            raise explanation(state)
        remove_remains()
        state = TorchState.MISSING
    if state is TorchState.MISSING:
        _install()
        state = torch_state()
    if state is not TorchState.READY:
        raise explanation(state)


def remove_remains(folder: Path | None = None) -> list[Path]:
    """Delete the remains of an interrupted installation in site-packages, so that a new one can start.

    pip cannot remove a package without its RECORD. Returns the deleted paths.
    """
    folder = folder or _torch_folder()
    removed = []
    if folder is not None:
        for path in (path for part in _PARTS for path in folder.glob(part)):
            shutil.rmtree(path, ignore_errors=True)
            removed.append(path)
    importlib.invalidate_caches()
    return removed


def _install() -> None:
    try:
        # The extension opens the dialog and chooses the build for this computer; None means declined.
        logic: Any = _extension_logic()
        torch = logic.installTorch(askConfirmation=True, torchVersionRequirement=REQUIREMENT)
    except Exception as error:
        raise Failed(
            "torch-install",
            "PyTorch could not be installed.",
            f"See the Python console for the reason ({error}), check the network connection, restart "
            "Slicer and use the PyTorch Utils module.",
        ) from error
    if torch is None:
        raise Failed(
            "torch-declined",
            "The synthesis needs PyTorch, which was not installed.",
            "Press Synthesize MR again and accept, or install it with the PyTorch Utils module.",
        )


def _extension_logic() -> Any | None:
    try:
        return importlib.import_module("PyTorchUtils").PyTorchUtilsLogic()
    except ImportError:
        return None


def _torch_folder() -> Path | None:
    for finder in importlib.metadata.distributions(name="torch"):
        return Path(str(finder.locate_file("")))
    spec = importlib.util.find_spec("torch")
    return Path(spec.origin).parent.parent if spec is not None and spec.origin else None


def explanation(state: TorchState) -> Failed:
    """The error for a state: why the networks cannot run, and the remedy."""
    remedies = {
        TorchState.READY: ("PyTorch is installed.", "Press Synthesize MR."),
        TorchState.OLD: (
            f"PyTorch {torch_version()} is too old: {OLDEST[0]}.{OLDEST[1]} or later is needed.",
            "Uninstall it with the module PyTorch Utils, restart Slicer and press Synthesize MR.",
        ),
        TorchState.NO_EXTENSION: (
            "PyTorch is not installed.",
            "Install the PyTorch extension in the Extensions Manager and restart Slicer.",
        ),
        TorchState.MISSING: (
            "PyTorch is not installed.",
            "Open the module PyTorch Utils and install PyTorch, or press Synthesize MR.",
        ),
        TorchState.BROKEN: (
            "The installation of PyTorch is incomplete.",
            "Restart Slicer, press Synthesize MR and accept the repair, or reinstall it with the module PyTorch Utils.",
        ),
    }
    return Failed(f"torch-{state.value.replace(' ', '-')}", *remedies[state])
