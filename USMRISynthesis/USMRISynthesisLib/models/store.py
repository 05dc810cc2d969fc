"""Model folders: find them, read their manifest, check their hash, load them.

A model is a folder with a TorchScript file, `manifest.json` and a model card. The bytes that torch reads are
the very bytes that were hashed, so a file cannot change between the check and the load. A model outside the
bundled folders runs somebody else's code: the user is asked once for each hash, and the answer is remembered.

    folder = find_model("default")
    module = load(folder, "cpu")            # raises Failed when the file is not the one in the manifest

torch is imported inside `load` only: the manifest can be read where there is no torch.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from USMRISynthesisLib.errors import Failed, Refused
from USMRISynthesisLib.models.manifest import MANIFEST as MANIFEST
from USMRISynthesisLib.models.manifest import REMEDY, malformed
from USMRISynthesisLib.models.manifest import WEIGHTS as WEIGHTS
from USMRISynthesisLib.models.manifest import InputFormat as InputFormat
from USMRISynthesisLib.models.manifest import Manifest as Manifest
from USMRISynthesisLib.models.manifest import read_manifest as read_manifest

if TYPE_CHECKING:
    import torch

CONFIG_DIR_VARIABLE = "USMRI_CONFIG_DIR"
SUPPORT_VERSION = 2  # of what a support map's network is given: 1 saw single planes, 2 cells along all three

Consent = Callable[[str, str], bool]  # (sha256, name) -> may this code run?


class ConsentNeeded(Refused):
    """The model is not a bundled one and nobody has agreed to run it; carries what a dialog needs to ask."""

    def __init__(self, name: str, sha256: str) -> None:
        super().__init__(
            "consent",
            f"The model {name!r} does not come with USMRISynthesis and has not been trusted yet.",
            f"Trust it only if you know where it comes from (usmri: --trust-model); its SHA-256 is {sha256}.",
        )
        self.name = name
        self.sha256 = sha256


def bundled_folders() -> list[Path]:
    """Folders that come with the product, in search order: package, beside it (Slicer), clone."""
    library = Path(__file__).resolve().parents[1]
    candidates = (library / "model_weights", library.parent / "model_weights", library.parent.parent / "model_weights")
    return [folder for folder in candidates if folder.is_dir()]


def installed_models() -> list[Path]:
    """The bundled model folders; a name that occurs twice is listed once, at its first place."""
    found: dict[str, Path] = {}
    for folder in bundled_folders():
        for manifest in sorted(folder.glob(f"*/{MANIFEST}")):
            found.setdefault(manifest.parent.name, manifest.parent)
    return list(found.values())


def models_for(task: str) -> list[str]:
    """Names of the bundled models that are made for this; one with a damaged manifest is left out."""
    names = []
    for folder in installed_models():
        try:
            if read_manifest(folder).task == task:
                names.append(folder.name)
        except Failed:
            continue
    return names


def is_bundled(folder: Path) -> bool:
    """Whether the folder lies directly in one of the bundled ones (links are followed first)."""
    return folder.resolve().parent in bundled_folders()


def find_model(name_or_path: str | Path) -> Path:
    """The folder of a model given by path or by name.

    A bare name is looked up among the bundled models first, so that a folder of the same name in the current
    directory cannot take its place unnoticed. Raises Failed when there is none.
    """
    text = str(name_or_path)
    path = Path(text).expanduser()
    bare = text == path.name and text not in ("", ".", "..")
    if bare:
        for folder in bundled_folders():
            if (folder / text / MANIFEST).is_file():
                return folder / text
    if path.is_file():
        path = path.parent
    if (path / MANIFEST).is_file():
        return path.resolve()
    names = ", ".join(folder.name for folder in installed_models()) or "none"
    raise Failed(
        "no-model",
        f"There is no model {text!r}.",
        f"Installed models: {names}; a folder of your own needs a {MANIFEST} in it.",
    )


def hash_matches(folder: str | Path) -> bool:
    """Whether the weights are the ones in the manifest; raises Failed when either cannot be read."""
    manifest = read_manifest(folder)
    return hashlib.sha256(_weights_bytes(Path(folder), manifest)).hexdigest() == manifest.sha256


def verified_bytes(folder: str | Path, *, consent: Consent | None = None) -> tuple[Manifest, bytes]:
    """The manifest and the weights' bytes, after the hash has matched and, for a user's own model, consent.

    Raises Failed when the file is missing or is not the one in the manifest, ConsentNeeded without consent.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    content = _weights_bytes(folder, manifest)
    if hashlib.sha256(content).hexdigest() != manifest.sha256:
        raise Failed(
            "hash",
            f"The weights of the model {manifest.name!r} are not the ones its manifest "
            "describes: the SHA-256 differs, so they were not loaded.",
            REMEDY,
        )
    if not is_bundled(folder) and manifest.sha256 not in _trusted():
        if consent is None or not consent(manifest.sha256, manifest.name):
            raise ConsentNeeded(manifest.name, manifest.sha256)
        _trust(manifest.sha256, manifest.name)
    return manifest, content


def reliability_bytes(folder: str | Path, manifest: Manifest, *, consent: Consent | None = None) -> bytes | None:
    """The bytes of the model's support map network (`support` in the manifest), checked alike; None where it has none.

    Raises Failed when the file is missing, is not the one in the manifest, or is of another version, ConsentNeeded
    without consent.
    """
    named = manifest.extra.get("support")
    if named is None:
        return None
    file, sha256 = (named.get(key) if isinstance(named, dict) else None for key in ("file", "sha256"))
    if not isinstance(file, str) or not isinstance(sha256, str) or file != Path(file).name:
        raise malformed("support", "has no file and sha256")
    if named.get("version") != SUPPORT_VERSION:
        raise Failed(
            "version",
            f"The support map of the model {manifest.name!r} was made by another version of "
            "USMRISynthesis, so it was not loaded.",
            "Take `support` out of the model's manifest.json; then go without, or train and export it again.",
        )
    content = _file_bytes(Path(folder), file, manifest.name)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise Failed(
            "hash",
            f"The support map of the model {manifest.name!r} is not the one its manifest describes: "
            "the SHA-256 differs, so it was not loaded.",
            REMEDY,
        )
    if not is_bundled(Path(folder)) and sha256 not in _trusted():
        if consent is None or not consent(sha256, f"{manifest.name}, support map"):
            raise ConsentNeeded(f"{manifest.name}, support map", sha256)
        _trust(sha256, f"{manifest.name}, support map")
    return content


def load(
    folder: str | Path, device: "str | torch.device" = "cpu", *, consent: Consent | None = None
) -> "torch.jit.ScriptModule":
    """Load the TorchScript module onto the device, for evaluation. Its hash is checked before torch sees it.

    `consent(sha256, name)` is called for a model outside the bundled folders, once for each hash.
    """
    manifest, content = verified_bytes(folder, consent=consent)
    return from_bytes(content, manifest.name, device)


def from_bytes(content: bytes, name: str, device: "str | torch.device") -> "torch.jit.ScriptModule":
    """The TorchScript module in these bytes. Raises Failed when they hold none that this torch can read."""
    import torch

    try:
        with warnings.catch_warnings():  # deprecated since 2.10, and what every torch from 2.1 on can read
            warnings.simplefilter("ignore", DeprecationWarning)
            module = torch.jit.load(io.BytesIO(content), map_location=torch.device(device))
    except RuntimeError as error:
        raise Failed(
            "weights",
            f"The weights of the model {name!r} cannot be read by torch {torch.__version__}.",
            "Update torch, or choose another model.",
        ) from error
    return module.eval()


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


def _weights_bytes(folder: Path, manifest: Manifest) -> bytes:
    return _file_bytes(folder, manifest.file, manifest.name)


def _file_bytes(folder: Path, file: str, name: str) -> bytes:
    try:
        return (folder / file).read_bytes()
    except OSError as error:
        raise Failed(
            "weights", f"The weights of the model {name!r} cannot be read ({error.strerror}).", REMEDY
        ) from error


def _trusted() -> dict[str, str]:
    """Hash -> name of the models somebody agreed to; an unreadable file counts as no consent."""
    try:
        content = json.loads((config_dir() / "trusted-models.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _trust(sha256: str, name: str) -> None:
    """Remember a consent; where nothing can be written the user is simply asked again next time."""
    path = config_dir() / "trusted-models.json"
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({**_trusted(), sha256: name}, indent=2) + "\n", encoding="utf-8")
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
