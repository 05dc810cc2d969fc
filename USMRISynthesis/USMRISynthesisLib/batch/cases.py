"""Which images of a folder a batch works on, and where the results go."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.io.marks import SIDECAR, is_ledger, marks, sidecar_of, stem_of
from USMRISynthesisLib.io.outputs import check
from USMRISynthesisLib.io.volume import PICTURE_FORMATS, VOLUME_FORMATS


@dataclass(frozen=True)
class Case:
    """One image. `name` is its path inside the input folder, with forward slashes.

    Of DICOM, `source` is its file or the folder of its slices, `series` chooses it there, and `dicom_files` are its
    files.
    """

    name: str
    source: Path
    target: Path
    series: str | None = None
    dicom_files: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are read."""
        return self.dicom_files or (self.source,)


def find_cases(source: Path, output: Path) -> list[Case]:
    """The volume files and DICOM images in a folder and the folders in it, by name.

    Results and hidden files are left out. Raises Failed where there is DICOM alone, and no pydicom to read it.
    """
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
    dicom = _dicom_images(source, output, required=not found)
    cases = []
    for inside, target in _targets(sorted([*found, *dicom])):
        item = dicom.get(inside)
        if item is None:
            cases.append(Case(inside.as_posix(), source / inside, output / target))
        else:
            place, series, files = item
            cases.append(Case(inside.as_posix(), place, output / target, series, files))
    return cases


def _dicom_images(
    source: Path, output: Path, *, required: bool
) -> dict[Path, tuple[Path, str | None, tuple[Path, ...]]]:
    """The DICOM images in a folder: name inside it -> (file or folder, which series there, files)."""
    from USMRISynthesisLib.io import dicom_find
    from USMRISynthesisLib.io.dicom_file import pydicom

    files = []
    others = (*VOLUME_FORMATS, *PICTURE_FORMATS, SIDECAR)
    for path in dicom_find.dicom_files(source, source.name, limited=False, without=others):
        inside = path.relative_to(source)
        hidden = any(part.startswith(".") for part in inside.parts)
        if not (hidden or (output != source and output in path.parents)):
            files.append(path)
    if not files:
        return {}
    try:
        pydicom()
    except Failed:
        if required:
            raise
        return {}  # the other images need none
    found = [one for path in files if (one := dicom_find.found_in(path)) is not None]
    images: dict[Path, tuple[Path, str | None, tuple[Path, ...]]] = {}
    for item in dicom_find.grouped(found):
        if item.synthetic:
            continue
        if len(item.files) == 1:
            images[item.files[0].relative_to(source)] = item.files[0], None, item.files
            continue
        folder = Path(os.path.commonpath([path.parent for path in item.files]))
        beside = dicom_find.grouped([one for one in found if folder in one.path.parents])
        label = next(one.label for one in beside if one.files == item.files)
        images[folder.relative_to(source) / f"series-{item.label.replace('.', '-')}"] = folder, label, item.files
    return images


def holds_pictures(source: Path) -> bool:
    """Whether there are pictures in a folder or the folders in it; a batch takes none, as they have no pixel size."""
    return any(path.name.lower().endswith(PICTURE_FORMATS) for path in source.rglob("*"))


def check_targets(cases: Sequence[Case], ledger: Path) -> None:
    """See, before any work, that every result of a batch and its ledger may be written. Raises Refused, Failed."""
    there = [case.target for case in cases if case.target.parent.is_dir()]
    check([ledger, *there], [file for case in cases for file in case.files], ours={ledger: is_ledger})
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
