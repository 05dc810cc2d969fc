"""What an image says about itself: in its file's header, and in a JSON file beside it.

    write_with_sidecar(result.mr, result.provenance, Path("head-mr.nrrd"), source=Path("head.nrrd"))
    marks("head-mr.nrrd")        # {"USMRISynthesis.Synthetic": ..., "USMRISynthesis.Provenance": ...}

The JSON file `head-mr.json` holds the provenance of the synthesis and, on top of it, the SHA-256 of the file that went
in and of the file that came out. No names and no paths: files are often named after patients. NRRD and MetaImage
headers carry the provenance themselves; NIfTI can hold the notice only, and the JSON file stands for the rest.
"""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from USMRISynthesisLib.io.marks import file_sha256 as file_sha256
from USMRISynthesisLib.io.marks import files_sha256 as files_sha256
from USMRISynthesisLib.io.marks import marks as marks
from USMRISynthesisLib.io.marks import read_sidecar as read_sidecar
from USMRISynthesisLib.io.marks import sidecar_of as sidecar_of
from USMRISynthesisLib.io.marks import stem_of as stem_of
from USMRISynthesisLib.io.outputs import check, place_all, staged, unwritten
from USMRISynthesisLib.io.strict_json import dumps
from USMRISynthesisLib.io.synthetic import SYNTHETIC, SYNTHETIC_KEY
from USMRISynthesisLib.io.volume import COMMENT, Volume

_PACKAGES = ("numpy", "scipy", "SimpleITK", "torch")
_MARK = {COMMENT: SYNTHETIC, SYNTHETIC_KEY: SYNTHETIC}


def software() -> dict[str, str]:
    """This program, Python and the packages that a result depends on, with their versions."""
    from USMRISynthesisLib import __version__

    return {"name": "USMRISynthesis", "version": __version__, "python": platform.python_version(), **versions()}


def described(volume: Volume) -> dict[str, Any]:
    """An image by its form and its voxels' SHA-256, without a name."""
    voxels = np.ascontiguousarray(volume.array)
    return {
        "shape_kji": list(volume.shape),
        "spacing_ijk_mm": list(volume.spacing),
        "type": str(voxels.dtype),
        "voxels_sha256": hashlib.sha256(voxels.data).hexdigest(),
    }


def versions() -> dict[str, str]:
    """Versions of the packages that are loaded, among those that a result depends on."""
    loaded = {name: getattr(sys.modules.get(name), "__version__", None) for name in _PACKAGES}
    return {name: str(version) for name, version in loaded.items() if version}


def complete(provenance: Mapping[str, Any], source: Path | Sequence[Path] | None, *images: Path) -> dict[str, Any]:
    """The provenance with the hashes of what went in, where there was a file, and of what came out."""
    fed = dict(provenance.get("input", {}))
    if source is not None:
        fed["file_sha256"] = files_sha256(_files(source))
    return {**provenance, "input": fed, "output": {"file_sha256": files_sha256(images)}}


def _files(source: Path | Sequence[Path] | None) -> list[Path]:
    return [] if source is None else [source] if isinstance(source, Path) else list(source)


def write_with_sidecar(
    mr: Volume, provenance: Mapping[str, Any], target: Path, *, source: Path | Sequence[Path] | None = None
) -> Path:
    """Write an image and its sidecar, both or neither; an older pair stays whole until both new ones are there.

    Args:
        mr: the image; it is marked as synthetic whether it says so itself or not.
        provenance: of the synthesis.
        target: the image's path, in a format of one file: .nrrd, .nii, .nii.gz or .mha.
        source: the file that went in, or the files, whose hash is noted, and which are never written to.

    Returns:
        The sidecar's path.

    Raises:
        Refused: the target is the source, or a file is in the way that this program did not make.
        Failed: the folder is missing or read-only, or the disk is full.
    """
    return write_all_with_sidecars([(mr, target)], provenance, source=source)[0]


def write_all_with_sidecars(
    images: Sequence[tuple[Volume, Path]],
    provenance: Mapping[str, Any],
    *,
    source: Path | Sequence[Path] | None = None,
) -> list[Path]:
    """`write_with_sidecar` for several images of one synthesis: all files or none. Returns the sidecars' paths."""
    targets = [target for _, target in images]
    check(targets, _files(source))
    sidecars = [sidecar_of(target) for target in targets]
    with staged([*targets, *sidecars]) as names:
        for (image, _), name, beside in zip(images, names, names[len(targets) :], strict=False):
            image.write(name, metadata=_MARK)
            _write_json(beside, complete(provenance, source, name))
    return sidecars


def put_in_place(
    image: Path, provenance: Mapping[str, Any], target: Path, *, source: Path | Sequence[Path] | None = None
) -> Path:
    """Give an image that was written on the same disk its name, and its sidecar with it; returns the sidecar's path.

    The image lies in a folder of this process alone; on success it is gone from there. Raises Refused where a file is
    in the way that this program did not make, Failed where it cannot be done; the image is left to the caller then.
    """
    sidecar = sidecar_of(target)
    part = image.with_name(f"{image.name}.json")
    try:
        _write_json(part, complete(provenance, source, image))
        place_all([(image, target), (part, sidecar)])
    except OSError as error:
        raise unwritten(target.name, error) from error
    finally:
        part.unlink(missing_ok=True)
    return sidecar


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(dumps(content, indent=2) + "\n", encoding="utf-8")
