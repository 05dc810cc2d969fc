"""Which images of a folder a batch works on, and where the results go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.io.marks import is_ledger, marks, sidecar_of, stem_of
from USMRISynthesisLib.io.outputs import check
from USMRISynthesisLib.io.volume import PICTURE_FORMATS, VOLUME_FORMATS


@dataclass(frozen=True)
class Case:
    """One image. `name` is its path inside the input folder, with forward slashes."""

    name: str
    source: Path
    target: Path


def find_cases(source: Path, output: Path) -> list[Case]:
    """The volume files in a folder and the folders in it, by name; results and hidden files are left out."""
    found = []
    for path in sorted(source.rglob("*")):
        inside = path.relative_to(source)
        hidden = any(part.startswith(".") for part in inside.parts)
        if (
            hidden
            or not path.name.lower().endswith(VOLUME_FORMATS)
            or not path.is_file()
            or (output != source and output in path.parents)
            or marks(path)
        ):
            continue
        found.append(inside)
    return [Case(inside.as_posix(), source / inside, output / target) for inside, target in _targets(found)]


def holds_pictures(source: Path) -> bool:
    """Whether there are pictures in a folder or the folders in it; a batch takes none, as they have no pixel size."""
    return any(path.name.lower().endswith(PICTURE_FORMATS) for path in source.rglob("*"))


def check_targets(cases: Sequence[Case], ledger: Path) -> None:
    """See, before any work, that every result of a batch and its ledger may be written. Raises Refused, Failed."""
    there = [case.target for case in cases if case.target.parent.is_dir()]
    check([ledger, *there], [case.source for case in cases], ours={ledger: is_ledger})
    for case in cases:
        way = next(folder for folder in case.target.parents if folder.exists())
        if not way.is_dir():
            raise Failed(
                "folder", f"{way.name} is in the way of a folder for the results.", "Choose another folder for them."
            )


def _targets(found: Sequence[Path]) -> list[tuple[Path, Path]]:
    """(image, its result) inside their folders. No two results share a name, on a disk that ignores case either."""
    stems = Counter((inside.parent, stem_of(inside).casefold()) for inside in found)
    taken: set[tuple[Path, str]] = set()
    pairs = []
    for inside in found:
        alone = stems[inside.parent, stem_of(inside).casefold()] == 1  # else `head.nrrd` and `head.nii` would share one
        name = stem_of(inside) if alone else inside.name
        number, target = 1, inside.parent / f"{name}-mr.nrrd"
        while (target.parent, sidecar_of(target).name.casefold()) in taken:
            number += 1
            target = inside.parent / f"{name}-{number}-mr.nrrd"
        taken.add((target.parent, sidecar_of(target).name.casefold()))
        pairs.append((inside, target))
    return pairs
