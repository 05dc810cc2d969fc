"""Which files this program made: by the mark in their header, never by their name alone.

    marks("head-mr.nrrd")        # {"USMRISynthesis.Synthetic": ..., "USMRISynthesis.Provenance": ...}
    is_ours(Path("head-mr.nrrd"))

`marks` says what an image is, and believes the JSON file beside it. `is_ours` says whether a file may be replaced, and
believes the JSON file only where it holds the file's hash.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.dicom_detect import is_dicom_start
from USMRISynthesisLib.io.reading import read_header, read_texts
from USMRISynthesisLib.io.synthetic import MADE_BY, PROVENANCE_KEY, SYNTHETIC, SYNTHETIC_KEY
from USMRISynthesisLib.io.volume import COMMENT, VOLUME_FORMATS

SIDECAR = ".json"
DICOM = ".dcm"
_TEXT_TRANSFORMS = (".tfm", ".txt")
_BEGINNING = 1 << 16
_LARGEST_JSON = 1 << 26
PNG_MARK = b"tEXtSoftware\0" + MADE_BY.encode()
TRANSFORM_MARK = f"# {MADE_BY}".encode()


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


def read_sidecar(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The provenance beside an image, or nothing where there is none of ours."""
    content = _json(sidecar_of(path))
    return content if content.get("notice") == SYNTHETIC else {}


def marks(path: str | os.PathLike[str]) -> dict[str, str]:
    """What a file says about being synthetic: `SYNTHETIC_KEY` and, where it is known, `PROVENANCE_KEY`.

    Reads the header and the sidecar, not the voxels. Empty for any other file, and for what cannot be read.
    """
    path = Path(path)
    texts = header_texts(path)
    beside = read_sidecar(path)
    if texts.get(COMMENT) != SYNTHETIC and not texts.get(SYNTHETIC_KEY) and not beside:
        return {}
    provenance = texts.get(PROVENANCE_KEY) or (json.dumps(beside, sort_keys=True) if beside else "")
    return {SYNTHETIC_KEY: SYNTHETIC} | ({PROVENANCE_KEY: provenance} if provenance else {})


def is_ours(path: Path) -> bool:
    """Whether this program made a file, as the file itself says: an image, its sidecar, a transform or a picture.

    An image without a mark is ours, too, where its sidecar holds the hash of this very file.
    """
    name = path.name.lower()
    try:
        if name.endswith(VOLUME_FORMATS):
            texts = header_texts(path)
            comment = texts.get(COMMENT, "")
            marked = comment == SYNTHETIC or comment.startswith(MADE_BY) or bool(texts.get(SYNTHETIC_KEY))
            return marked or _is_vouched_for(path)
        if name.endswith(SIDECAR):
            content = _json(path)
            return content.get("notice") == SYNTHETIC and "cases" not in content
        if name.endswith(_TEXT_TRANSFORMS):
            return TRANSFORM_MARK in _beginning(path)
        if name.endswith(".png"):
            return PNG_MARK in _beginning(path)
        if name.endswith(DICOM):
            start = _beginning(path)
            return is_dicom_start(start) and SYNTHETIC.encode() in start and MADE_BY.encode() in start
    except OSError:
        return False
    return False


def is_ledger(path: Path) -> bool:
    """Whether a file is a batch's ledger."""
    content = _json(path)
    return content.get("notice") == SYNTHETIC and isinstance(content.get("cases"), dict)


def header_texts(path: Path) -> dict[str, str]:
    """The texts in an image file's header; empty for what is no image."""
    return read_texts(path) if path.name.lower().endswith(VOLUME_FORMATS) and path.is_file() else {}


def voxel_files(path: Path) -> list[Path]:
    """The file that holds a detached header's voxels, whether it exists or not; empty for any other file."""
    if not path.name.lower().endswith((".mhd", ".nhdr")):
        return []
    try:
        name = read_header(path).data_file
    except Refused:
        return []
    return [] if name is None else [path.parent / name]


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of an image file, as hexadecimal digits: of its bytes, and of its voxel file's where it has one.

    So a detached header whose voxels were exchanged is another file. Raises OSError.
    """
    digest = hashlib.sha256()
    for name in (Path(path), *voxel_files(Path(path))):
        with open(name, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def files_sha256(files: Sequence[Path]) -> str:
    """SHA-256 of what an image was read from: of one file its own; of several, of theirs in ascending order.

    Raises OSError.
    """
    found = sorted(file_sha256(file) for file in files)
    return found[0] if len(found) == 1 else hashlib.sha256("".join(found).encode("ascii")).hexdigest()


def _is_vouched_for(path: Path) -> bool:
    output = read_sidecar(path).get("output")
    return isinstance(output, dict) and path.is_file() and output.get("file_sha256") == file_sha256(path)


def _json(path: Path) -> dict[str, Any]:
    """A JSON file's object; empty for anything else."""
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST_JSON:
            return {}
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _beginning(path: Path) -> bytes:
    if not path.is_file():
        return b""
    with open(path, "rb") as file:
        return file.read(_BEGINNING)
