"""Which images of a folder a batch works on, and where the results go."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from USMRISynthesisLib.errors import Failed, Refused
from USMRISynthesisLib.io.marks import SIDECAR, is_ledger, marks, sidecar_of, stem_of
from USMRISynthesisLib.io.outputs import check
from USMRISynthesisLib.io.volume import PICTURE_FORMATS, VOLUME_FORMATS


@dataclass(frozen=True)
class Case:
    """One image. `name` is its path inside the input folder, with forward slashes; of a film's frame, `film.nrrd#0003`.

    Of DICOM, `source` is its file or the folder of its slices, `series` chooses it there, and `dicom_files` are its
    files. `frame` is the time point, from 0. `gestational_age` (weeks) and `transform` (a file) are this image's own;
    `problem` says why it cannot be read at all. `extra` joins the JSON file beside the result.
    """

    name: str
    source: Path
    target: Path
    series: str | None = None
    dicom_files: tuple[Path, ...] = ()
    frame: int | None = None
    gestational_age: float | None = None
    transform: Path | None = None
    problem: Refused | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are read."""
        return self.dicom_files or (self.source,)


@dataclass(frozen=True)
class Item:
    """An image that was found, before its result has a place. `inside` is its path inside the input, for the name."""

    inside: Path
    source: Path
    series: str | None = None
    dicom_files: tuple[Path, ...] = ()
    frame: int | None = None
    number_frame: bool = False
    subject: str = ""
    session: str = ""
    entities: Mapping[str, str] = field(default_factory=dict)
    gestational_age: float | None = None
    transform: Path | None = None
    problem: Refused | None = None

    @property
    def name(self) -> str:
        """As the ledger names it."""
        return self.inside.as_posix() + (f"#{self.frame:04d}" if self.frame is not None and self.number_frame else "")


def find_cases(source: Path, output: Path) -> list[Case]:
    """The volume files and DICOM images in a folder and the folders in it, by name, with flat results.

    Results and hidden files are left out. Raises Failed where there is DICOM alone, and no pydicom to read it.
    """
    return flat_cases(folder_items(source, output), output)


def flat_cases(items: Sequence[Item], output: Path) -> list[Case]:
    """The results lie as their images do: `a/head-mr.nrrd` for `a/head.nrrd`, `head-mr-0003.nrrd` for a frame of it."""
    insides = sorted({item.inside for item in items})
    targets = dict(_targets(insides))
    cases = []
    for item in sorted(items, key=lambda item: (item.inside, item.frame or 0)):
        target = output / targets[item.inside]
        if item.number_frame and item.frame is not None:
            target = target.with_name(f"{stem_of(target)}-{item.frame:04d}.nrrd")
        cases.append(case_of(item, target))
    return cases


def case_of(item: Item, target: Path, extra: Mapping[str, Any] | None = None) -> Case:
    """An image and the place of its result."""
    return Case(item.name, item.source, target, item.series, item.dicom_files, item.frame, item.gestational_age,
                item.transform, item.problem, extra or {})  # fmt: skip


def folder_items(source: Path, output: Path) -> list[Item]:
    """The images in a folder and the folders in it; a folder that cannot be read is an item with a problem."""
    closed: list[Item] = []

    def unreadable(error: OSError) -> None:
        place = Path(error.filename or source)
        inside = place.relative_to(source) if place != source and source in place.parents else Path(source.name)
        problem = Refused(
            "unreadable",
            f"The folder {place.name} could not be read: {error.strerror or 'it cannot be opened'}.",
            "Give yourself the right to read it.",
        )
        closed.append(Item(inside, place, problem=problem))

    found = []
    for path in _files_in(source, unreadable):
        if (
            not path.name.lower().endswith(VOLUME_FORMATS)
            or not path.is_file()
            or (output != source and output in path.parents)
            or marks(path)
        ):
            continue
        found.append(Item(path.relative_to(source), path))
    dicom = [
        Item(inside, place, series, files)
        for inside, (place, series, files) in _dicom_images(source, output, required=not found).items()
    ]
    return [*found, *dicom, *closed]


def _files_in(folder: Path, unreadable: Callable[[OSError], None]) -> list[Path]:
    """All files, except hidden ones and those in hidden folders, by name."""
    files = []
    for place, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(files)


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
    check(
        [ledger, *there], list(dict.fromkeys(file for case in cases for file in case.files)), ours={ledger: is_ledger}
    )
    seen: set[Path] = set()
    for case in cases:
        if case.target.parent in seen:
            continue
        seen.add(case.target.parent)
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
