"""What an image says about itself: in its file's header, and in a JSON file beside it.

    write_with_sidecar(result.mr, result.provenance, Path("head-mr.nrrd"), source=Path("head.nrrd"))
    marks("head-mr.nrrd")        # {"USMRISynthesis.Synthetic": ..., "USMRISynthesis.Provenance": ...}

The JSON file `head-mr.json` holds the provenance of the synthesis and, on top of it, the SHA-256 of the file that went
in and of the file that came out. No names and no paths: files are often named after patients. NRRD and MetaImage
headers carry the provenance themselves; NIfTI has room for the notice only, and the JSON file stands for the rest.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.io.reading import read_texts
from USMRISynthesisLib.io.synthetic import PROVENANCE_KEY, SYNTHETIC, SYNTHETIC_KEY
from USMRISynthesisLib.io.volume import COMMENT, VOLUME_FORMATS, Volume

SIDECAR = ".json"
_PACKAGES = ("numpy", "scipy", "SimpleITK", "torch")


def versions() -> dict[str, str]:
    """Versions of the packages that are loaded, among those that a result depends on."""
    loaded = {name: getattr(sys.modules.get(name), "__version__", None) for name in _PACKAGES}
    return {name: str(version) for name, version in loaded.items() if version}


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits. Raises OSError."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def stem_of(path: Path) -> str:
    """The file's name without its ending; `.nii.gz` is one ending."""
    ending = next(
        (e for e in sorted(VOLUME_FORMATS, key=len, reverse=True) if path.name.lower().endswith(e)), path.suffix
    )
    return path.name[: len(path.name) - len(ending)]


def sidecar_of(path: str | os.PathLike[str]) -> Path:
    """Where the provenance of an image lies: beside it, under its name."""
    path = Path(path)
    return path.with_name(stem_of(path) + SIDECAR)


def complete(provenance: Mapping[str, Any], source: Path | None, image: Path) -> dict[str, Any]:
    """The provenance with the hashes of the file that went in, where there was one, and of the one that came out."""
    fed = dict(provenance.get("input", {}))
    if source is not None:
        fed["file_sha256"] = file_sha256(source)
    return {**provenance, "input": fed, "output": {"file_sha256": file_sha256(image)}}


def write_with_sidecar(mr: Volume, provenance: Mapping[str, Any], target: Path, *, source: Path | None = None) -> Path:
    """Write an image and its sidecar, both or neither; an older pair stays whole until both new ones are there.

    Args:
        mr: the image.
        provenance: of the synthesis.
        target: the image's path, in a format of one file: .nrrd, .nii, .nii.gz or .mha.
        source: the file that went in, whose hash is noted.

    Returns:
        The sidecar's path.

    Raises:
        Failed: the folder is missing or read-only, or the disk is full.
    """
    staged = target.with_name(f".{os.getpid()}.part.{target.name}")
    try:
        mr.write(staged)
        return put_in_place(staged, provenance, target, source=source)
    except Failed as error:  # the name that the user knows, not that of the staged file
        raise Failed(error.kind, error.message.replace(staged.name, target.name), error.remedy) from error
    finally:
        staged.unlink(missing_ok=True)


def put_in_place(staged: Path, provenance: Mapping[str, Any], target: Path, *, source: Path | None = None) -> Path:
    """Give an image that was written on the same disk its name, and its sidecar with it; returns the sidecar's path.

    Raises Failed when that cannot be done; the staged image is left to the caller then.
    """
    sidecar = sidecar_of(target)
    part = sidecar.with_name(f".{os.getpid()}.part.{sidecar.name}")
    try:
        part.write_text(json.dumps(complete(provenance, source, staged), indent=2) + "\n", encoding="utf-8")
        os.replace(staged, target)
        os.replace(part, sidecar)
    except OSError as error:
        raise Failed(
            "write",
            f"Writing {target.name} failed: {error.strerror or 'it could not be saved'}.",
            "Check free space and permissions of the folder.",
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return sidecar


def read_sidecar(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The provenance beside an image, or nothing where there is none of ours."""
    try:
        content = json.loads(sidecar_of(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and content.get("notice") == SYNTHETIC else {}


def marks(path: str | os.PathLike[str]) -> dict[str, str]:
    """What a file says about being synthetic: `SYNTHETIC_KEY` and, where it is known, `PROVENANCE_KEY`.

    Reads the header and the sidecar, not the voxels. Empty for any other file, and for what cannot be read.
    """
    path = Path(path)
    texts = _header(path)
    beside = read_sidecar(path)
    if texts.get(COMMENT) != SYNTHETIC and not texts.get(SYNTHETIC_KEY) and not beside:
        return {}
    provenance = texts.get(PROVENANCE_KEY) or (json.dumps(beside, sort_keys=True) if beside else "")
    return {SYNTHETIC_KEY: SYNTHETIC} | ({PROVENANCE_KEY: provenance} if provenance else {})


def _header(path: Path) -> dict[str, str]:
    """The texts in an image file's header."""
    return read_texts(path) if path.name.lower().endswith(VOLUME_FORMATS) else {}
