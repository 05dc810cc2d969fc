"""Model folders: find them, read their manifest, check the hashes, load each model once.

A model is a folder with a TorchScript file, the same weights without a program, `manifest.json` and a model card. The
bytes that torch reads are the very bytes that were hashed, so a file cannot change between the check and the load. A
file whose hash is not on the package's list is somebody else's: it needs one consent for each hash (`consent.py`).

    generator = load("default", "synthesis", lambda source: ready(source.network(build), source.name))

`prepare` makes of a verified `Source` what the caller keeps; it is called again only when the model, its files, the
device or the form of the weights has changed. torch is imported inside functions only: the manifest can be read where
there is no torch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.models import consent as consents
from USMRISynthesisLib.models.consent import Consent as Consent
from USMRISynthesisLib.models.consent import ConsentNeeded as ConsentNeeded
from USMRISynthesisLib.models.manifest import MANIFEST as MANIFEST
from USMRISynthesisLib.models.manifest import PLAIN_WEIGHTS as PLAIN_WEIGHTS
from USMRISynthesisLib.models.manifest import REMEDY, is_plain_name, malformed
from USMRISynthesisLib.models.manifest import WEIGHTS as WEIGHTS
from USMRISynthesisLib.models.manifest import InputFormat as InputFormat
from USMRISynthesisLib.models.manifest import Manifest as Manifest
from USMRISynthesisLib.models.manifest import read_manifest as read_manifest

if TYPE_CHECKING:
    import torch
    from torch import nn

SUPPORT_VERSION = 2  # of the input of a reliability map's network: 1 saw single planes, 2 cells along all three
PLAIN_SUPPORT = "support.safetensors"
FUSION, FUSION_VERSION = "fusion.safetensors", 1  # of the fusion's input
TASKS = {
    "synthesis": "synthesis", "alignment": "alignment", "frames": "frames", "content": "frame content",
    "spacing": "slice spacing",
}  # fmt: skip

Prepared = TypeVar("Prepared")


@dataclass(frozen=True, eq=False)
class Source:
    """The verified bytes of one network, from which it can be built as often as needed.

    form: "torchscript" or "plain". reliability: the network of its reliability map, in the same form. fusion: that of
    the fusion of planes, always plain.
    """

    name: str
    manifest: Manifest
    form: str
    device: str
    content: bytes = field(repr=False)
    reliability: "Source | None" = None
    fusion: "Source | None" = None

    def network(self, build: "Callable[[], nn.Module]") -> "nn.Module":
        """The network in float32, for evaluation, on the CPU. `build` makes it with any weights. Raises Failed."""
        from USMRISynthesisLib.models import network

        if self.form == network.PLAIN:
            return network.from_plain(self.content, build, self.name)
        return network.from_torchscript(self.content, self.name).float()

    def settings(self, name: str) -> dict[str, Any]:
        """The settings of the architecture of this name. Raises Failed where the manifest has another one."""
        described = self.manifest.architecture
        if described is None or described.name != name:
            raise malformed("architecture", f"is not of the kind {name!r}")
        return dict(described.config)


_first: list[Path] = []  # where names are looked up before the bundled folders
_prepared: dict[str, tuple[Any, Any]] = {}  # by task: one model at a time, for weights are what memory goes to


def bundled_folders() -> list[Path]:
    """Folders in which names are looked up, in order: one of `models_from`, package, beside it (Slicer), clone."""
    library = Path(__file__).resolve().parents[1]
    candidates = (library / "model_weights", library.parent / "model_weights", library.parent.parent / "model_weights")
    return [*_first, *(folder for folder in candidates if folder.is_dir())]


@contextmanager
def models_from(folder: Path) -> Iterator[None]:
    """Within the block the names of models mean those of this folder, where it has them: to compare weights.

    Their hashes and the user's consent are checked as ever. Raises Failed: there is no model in the folder.
    """
    if not any(folder.glob(f"*/{MANIFEST}")):
        raise Failed("no-model", f"There are no models in {folder.name}.", "Give a folder such as model_weights/.")
    forget()
    _first.insert(0, folder.resolve())
    try:
        yield
    finally:
        _first.pop(0)
        forget()


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


def is_bundled(folder: str | Path) -> bool:
    """Whether all weights that the folder's manifest names come with the product, by their hashes.

    Where the folder lies says nothing. Raises Failed for a malformed manifest.
    """
    return all(consents.is_listed(sha256) for _, sha256 in _weights_of(read_manifest(folder)))


def find_model(name_or_path: str | Path) -> Path:
    """The folder of a model given by path or by name.

    A bare name is searched among the bundled models first, so that a folder of the same name in the current
    directory cannot take its place unnoticed. Raises Failed when there is none.
    """
    text = str(name_or_path)
    path = Path(text).expanduser()
    bare = text == path.name and text not in ("", ".", "..")
    if bare:
        for folder in bundled_folders():
            if (folder / text / MANIFEST).is_file():
                return folder / text
    if os.path.isfile(path):  # False, not an error, where the folder may not be entered
        path = path.parent
    if os.path.isfile(path / MANIFEST):
        return path.resolve()
    names = ", ".join(folder.name for folder in installed_models()) or "none"
    raise Failed(
        "no-model", f"There is no model {text!r}.",
        f"Installed models: {names}; a folder of your own needs a {MANIFEST} in it.",
    )  # fmt: skip


def hash_matches(folder: str | Path) -> bool:
    """Whether all weights are the ones in the manifest; raises Failed when one cannot be read."""
    folder, manifest = Path(folder), read_manifest(folder)
    return all(_sha256(_read(folder, file, manifest.name)) == sha256 for file, sha256 in _weights_of(manifest))


def verified_bytes(
    folder: str | Path, *, consent: Consent | None = None, file: str | None = None
) -> tuple[Manifest, bytes]:
    """The manifest and the bytes of a file with weights, `model.pt` by default, after its hash has matched.

    Raises Failed when the file is missing or is not the one in the manifest, ConsentNeeded without consent.
    """
    manifest = read_manifest(folder)
    file = file or manifest.file
    sha256 = manifest.sha256 if file == manifest.file else manifest.files[file]
    content = _verified(Path(folder), file, sha256, manifest.name)
    consents.require(sha256, manifest.name, consent)
    return manifest, content


def reliability_bytes(
    folder: str | Path, manifest: Manifest, *, consent: Consent | None = None, plain: bool = False
) -> bytes | None:
    """The bytes of the model's reliability network (`support` in the manifest), checked alike; None where it has none.

    Raises Failed when the file is missing, is not the one in the manifest, or is of another version, ConsentNeeded
    without consent.
    """
    if manifest.extra.get("support") is None:
        return None
    file, sha256 = _support_file(manifest)
    if manifest.extra["support"].get("version") != SUPPORT_VERSION:
        raise _other_version(f"The reliability map of the model {manifest.name!r}", "support")
    if plain:
        file, sha256 = PLAIN_SUPPORT, manifest.files[PLAIN_SUPPORT]
    name = f"{manifest.name}, reliability map"
    content = _verified(Path(folder), file, sha256, name)
    consents.require(sha256, name, consent)
    return content


def _other_version(what: str, key: str) -> Failed:
    return Failed(
        "version", f"{what} was made by another version of USMRISynthesis, so it was not loaded.",
        f"Take `{key}` out of the model's manifest.json; then go without, or train and export it again.",
    )  # fmt: skip


def fusion_bytes(folder: str | Path, manifest: Manifest, *, consent: Consent | None = None) -> bytes | None:
    """The bytes of the network that fuses three planes (`fusion` in the manifest), checked; None where it has none.

    Raises Failed when the file is missing, not the one in the manifest, or of another version, and ConsentNeeded.
    """
    if (named := manifest.extra.get("fusion")) is None:
        return None
    if not isinstance(named, dict) or named.get("file") != FUSION or FUSION not in manifest.files:
        raise malformed("fusion", f"does not name {FUSION}")
    if named.get("version") != FUSION_VERSION:
        raise _other_version(f"The fusion of the model {manifest.name!r}", "fusion")
    name, sha256 = f"{manifest.name}, fusion", manifest.files[FUSION]
    consents.require(sha256, name, consent)
    return _verified(Path(folder), FUSION, sha256, name)


def load(
    model: str | Path,
    task: str,
    prepare: Callable[[Source], Prepared],
    *,
    device: "str | torch.device" = "cpu",
    consent: Consent | None = None,
    form: str | None = None,
) -> Prepared:
    """Find, verify and prepare a model; the hash is checked every time, the preparation is done once.

    Args:
        model: name of an installed model, or the path of a folder.
        task: what it must be made for, one of TASKS.
        prepare: makes of the verified source what is kept and returned.
        device: part of what the preparation depends on; it is in the source.
        consent: called with (sha256, name) for a file that is not a bundled one, once for each hash.
        form: of the weights; by default TorchScript, or plain where that is better (`network.prefers_plain`) or
            TorchScript fails; USMRI_WEIGHTS forces one.

    Raises Failed (no such model, hash, another task) and ConsentNeeded.
    """
    folder = find_model(model)
    manifest = read_manifest(folder)
    if manifest.task != task:
        names = ", ".join(models_for(task))
        raise Failed(
            "task", f"The model {manifest.name!r} is made for {manifest.task!r}, not for {TASKS[task]}.",
            f"Choose one for {TASKS[task]}" + (f": {names}." if names else "."),
        )  # fmt: skip
    forms = [form] if form else _forms(manifest)
    cached = _prepared.get(task)
    if cached is not None and cached[0][0::2] == (manifest, str(device)) and cached[0][1] in forms:
        forms = [cached[0][1]]  # the one that worked
    for form in forms:
        source = _source(folder, manifest, form, str(device), consent)
        key = (manifest, form, str(device))
        if cached is not None and cached[0] == key:
            kept: Prepared = cached[1]
            return kept
        _prepared.pop(task, None)
        try:
            prepared = prepare(source)
        except Failed as error:
            if error.kind != "torchscript" or form == forms[-1]:
                raise
        else:
            _prepared[task] = (key, prepared)
            return prepared
    raise AssertionError("at least one form is tried")


def has_plain_weights(manifest: Manifest) -> bool:
    """Whether a model has plain weights of all its networks."""
    return manifest.has_plain and (manifest.extra.get("support") is None or PLAIN_SUPPORT in manifest.files)


def forget() -> None:
    """Let go of all prepared models: the next load prepares anew."""
    _prepared.clear()


def trust(path: str | Path) -> None:
    """Remember the user's consent for all weights of a model, or for one file that stands alone. Raises Failed."""
    path = Path(path)
    if _stands_alone(path):
        consents.remember(_sha256(_read(path.parent, path.name, path.name)), path.name)
        return
    folder = find_model(path)
    manifest = read_manifest(folder)
    for file, sha256 in _weights_of(manifest):
        _verified(folder, file, sha256, manifest.name)
        if not consents.agreed(sha256):
            consents.remember(sha256, manifest.name)


def state_of(path: str | Path, *, consent: Consent | None = None) -> "dict[str, torch.Tensor]":
    """The weights of an exported model by name, to train on from: those of a folder, of a name, or of one file.

    Plain weights are taken where there are any: they run no code. A TorchScript file, also one that stands alone, needs
    consent. Raises Failed (no such model, hash, no weights), ConsentNeeded.
    """
    from USMRISynthesisLib.models import network

    path = Path(path)
    if _stands_alone(path):
        name, plain = path.name, path.suffix == Path(PLAIN_WEIGHTS).suffix
        content = _read(path.parent, path.name, name)
        sha256 = _sha256(content)
    else:
        folder = find_model(path)
        manifest = read_manifest(folder)
        name, plain = manifest.name, PLAIN_WEIGHTS in manifest.files
        file, sha256 = (PLAIN_WEIGHTS, manifest.files[PLAIN_WEIGHTS]) if plain else (manifest.file, manifest.sha256)
        content = _verified(folder, file, sha256, name)
    if not plain:
        consents.require(sha256, name, consent)
        return dict(network.from_torchscript(content, name).state_dict())
    try:
        return network.tensors(content)
    except ValueError as error:
        raise Failed("weights", f"The weights in {name} cannot be read ({error}).", REMEDY) from error


def _stands_alone(path: Path) -> bool:
    return path.is_file() and not (path.parent / MANIFEST).is_file()


def _forms(manifest: Manifest) -> list[str]:
    """The forms of weights to try, the best one first. Raises Failed where the one that is forced is not there."""
    from USMRISynthesisLib.models import network

    forced, complete = network.forced_form(), has_plain_weights(manifest)
    if forced == network.PLAIN and not complete:
        raise Failed(
            "weights", f"The model {manifest.name!r} has no plain weights, which {network.FORM_VARIABLE} asks for.",
            f"Unset {network.FORM_VARIABLE}, or export the model again.",
        )  # fmt: skip
    if forced:
        return [forced]
    if not complete:
        return [network.TORCHSCRIPT]
    return [network.PLAIN] if network.prefers_plain() else [network.TORCHSCRIPT, network.PLAIN]


def _source(folder: Path, manifest: Manifest, form: str, device: str, consent: Consent | None) -> Source:
    """The verified bytes in one form, those of the reliability map and the fusion beside them."""
    plain = form == "plain"
    _, content = verified_bytes(folder, consent=consent, file=PLAIN_WEIGHTS if plain else None)
    beside = reliability_bytes(folder, manifest, consent=consent, plain=plain)
    reliability = None if beside is None else Source(manifest.name, manifest, form, device, beside)
    merging = fusion_bytes(folder, manifest, consent=consent)
    fusion = None if merging is None else Source(manifest.name, manifest, "plain", device, merging)
    return Source(manifest.name, manifest, form, device, content, reliability, fusion)


def _weights_of(manifest: Manifest) -> list[tuple[str, str]]:
    """Name and SHA-256 of every file with weights that the manifest names."""
    support = [_support_file(manifest)] if manifest.extra.get("support") is not None else []
    return list({manifest.file: manifest.sha256, **manifest.files, **dict(support)}.items())


def _support_file(manifest: Manifest) -> tuple[str, str]:
    named = manifest.extra["support"]
    file, sha256 = (named.get(key) if isinstance(named, dict) else None for key in ("file", "sha256"))
    if not is_plain_name(file) or not isinstance(sha256, str):
        raise malformed("support", "has no file and sha256")
    return str(file), sha256


def _verified(folder: Path, file: str, sha256: str, name: str) -> bytes:
    """The file's bytes, if they have that hash."""
    content = _read(folder, file, name)
    if _sha256(content) != sha256:
        raise Failed(
            "hash", f"The file {file} of the model {name!r} is not the one its manifest describes: the SHA-256 "
            "differs, so it was not loaded.", REMEDY,
        )  # fmt: skip
    return content


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read(folder: Path, file: str, name: str) -> bytes:
    try:
        return (folder / file).read_bytes()
    except OSError as error:
        raise Failed(
            "weights", f"The weights of the model {name!r} cannot be read ({error.strerror}).", REMEDY
        ) from error
