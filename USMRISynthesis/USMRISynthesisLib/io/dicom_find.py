"""Which images the files of a study hold: a file, a folder or a DICOMDIR; by series, and one of them chosen.

A series of slices is one image. An ultrasound series holds many images, one a file, stills and films alike; they are
numbered "2.1", "2.2" in series 2. Lists name no patient: numbers, modality and sizes are all that they show.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.dicom_detect import PREFIX, is_dicom_start
from USMRISynthesisLib.io.dicom_file import guarded, read_dataset, text, vector, whole
from USMRISynthesisLib.io.dicom_private import refuse_kretz
from USMRISynthesisLib.io.synthetic import SYNTHETIC
from USMRISynthesisLib.io.voxels import opened

_RECORDS = "DirectoryRecordSequence"
_REGIONS = "SequenceOfUltrasoundRegions"
_KEYS = ("SeriesInstanceUID", "SeriesNumber", "InstanceNumber", "Modality", "Rows", "Columns",
         "NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient", "ImageComments", _REGIONS)  # fmt: skip
_MOST_FILES, _MOST_LOOKED_AT = 20_000, 200_000
_SHOWN = 20


@dataclass(frozen=True)
class Found:
    """One file with an image: what is needed to sort it."""

    path: Path
    series: str
    series_number: int
    number: int
    modality: str
    size: tuple[int, int]
    frames: int
    orientation: tuple[float, ...] | None
    has_regions: bool
    synthetic: bool

    @property
    def is_slice(self) -> bool:
        """Whether it may be one of a stack."""
        return self.orientation is not None and self.frames == 1 and not self.has_regions


@dataclass(frozen=True)
class Item:
    """An image that can be read: `label` chooses it, `series` is its UID, `files` are its files."""

    label: str
    series: str
    files: tuple[Path, ...]
    modality: str
    size: tuple[int, int]
    frames: int
    synthetic: bool

    @property
    def text(self) -> str:
        """For a list: "2: US, 1 file, 30 frames of 640 x 480"."""
        files = f"{len(self.files)} file{'s' if len(self.files) != 1 else ''}"
        frames = f"{self.frames} frames of " if self.frames > 1 else ""
        mark = ", synthetic" if self.synthetic else ""
        return f"{self.label}: {self.modality or 'unknown'}, {files}, {frames}{self.size[0]} x {self.size[1]}{mark}"


def items_at(path: Path, name: str) -> list[Item]:
    """The images in a DICOM file, a folder or a DICOMDIR.

    Args:
        path: of any of the three. Links in a folder are not followed.
        name: for the sentences.

    Raises:
        Refused: no DICOM image, damaged (of a folder, files that cannot be read are left out), or too many files.
    """
    if path.is_dir():
        found = [one for file in dicom_files(path, name) if (one := found_in(file)) is not None]
    else:
        header = read_dataset(path, name=name, keys=[*_KEYS, _RECORDS])
        if _RECORDS in header:  # a DICOMDIR
            files = _listed(path, header, name)
            found = [one for file in files if (one := found_in(file)) is not None]
        else:
            one = _found(path, header)
            found = [] if one is None else [one]
            if not found:
                refuse_kretz(path)
    if not found:
        raise Refused("dicom", f"There is no image in the DICOM data of {name}.", "Give a file or folder with images.")
    return grouped(found)


def chosen(items: Sequence[Item], series: str | None, name: str) -> Item:
    """The one image, or the one that `series` names: by its label, or by its series' UID where that has one image.

    Raises Refused where there are several and none is chosen, or none of that name.
    """
    if series is None and len(items) == 1:
        return items[0]
    named = [one for one in items if series in (one.label, one.series)]
    if len(named) == 1:
        return named[0]
    shown = "; ".join(one.text for one in items[:_SHOWN])
    more = f"; and {len(items) - _SHOWN} more (usmri info lists all)" if len(items) > _SHOWN else ""
    holds = f"{name} holds {len(items)} image{'s' if len(items) != 1 else ''}: {shown}{more}."
    if series is None or named:
        raise Refused("series", holds, "Choose one with --series NUMBER.")
    raise Refused("series", f"There is no such series. {holds}", "Correct --series.")


def grouped(found: Sequence[Found]) -> list[Item]:
    """The images that files make up, by series number."""
    by_series: dict[str, list[Found]] = {}
    for one in sorted(found, key=lambda one: (one.series_number, one.series, one.number, str(one.path))):
        by_series.setdefault(one.series or str(one.path), []).append(one)
    items = []
    for number, files in enumerate(by_series.values(), 1):
        groups: dict[object, list[Found]] = {}
        for one in files:
            turned = None if one.orientation is None else tuple(round(part, 2) + 0.0 for part in one.orientation)
            key: object = (turned, one.size, one.synthetic) if one.is_slice else one.path
            groups.setdefault(key, []).append(one)
        for place, group in enumerate(groups.values(), 1):
            label = f"{number}.{place}" if len(groups) > 1 else str(number)
            first = group[0]
            paths = tuple(one.path for one in group)
            items.append(Item(label, first.series, paths, first.modality, first.size, first.frames, first.synthetic))
    return items


def dicom_files(folder: Path, name: str, *, limited: bool = True, without: tuple[str, ...] = ()) -> Iterator[Path]:
    """The DICOM files in a folder and the folders in it, by name; links and whatever is no plain file are left out.

    Args:
        folder: where to look.
        name: for the sentence.
        limited: a study is wanted: raises Refused where there are too many files for one.
        without: endings of files that are not looked at, in small letters.
    """
    looked_at = taken = 0
    for place, folders, names in os.walk(folder):
        folders.sort()
        for one in sorted(names):
            if without and one.lower().endswith(without):
                continue
            looked_at += 1
            path = Path(place, one)
            if limited and (looked_at > _MOST_LOOKED_AT or taken >= _MOST_FILES):
                raise Refused("size", f"{name} holds too many files for a study.", "Give the folder of one study.")
            if _is_dicom(path):
                taken += 1
                yield path


def found_in(path: Path) -> Found | None:
    """What a file of a folder holds; None for one without an image, and for one that cannot be read."""
    try:
        return _found(path, read_dataset(path, keys=_KEYS))
    except Refused:
        return None


def _is_dicom(path: Path) -> bool:
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return False
        with opened(path, path.name) as file:
            return is_dicom_start(file.read(PREFIX))
    except (OSError, Refused):
        return False


def _found(path: Path, header: Any) -> Found | None:
    with guarded(path.name):
        if not whole(header, "Rows") or not whole(header, "Columns"):
            return None
        place, turned = vector(header, "ImagePositionPatient", 3), vector(header, "ImageOrientationPatient", 6)
        modality = text(header, "Modality")
        return Found(
            path,
            text(header, "SeriesInstanceUID"),
            whole(header, "SeriesNumber"),
            whole(header, "InstanceNumber"),
            modality if modality.isalnum() and len(modality) <= 16 else "",
            (whole(header, "Columns"), whole(header, "Rows")),
            max(1, whole(header, "NumberOfFrames", 1)),
            None if place is None or turned is None else tuple(turned.tolist()),
            _REGIONS in header,
            text(header, "ImageComments") == SYNTHETIC,
        )


def _listed(path: Path, header: Any, name: str) -> list[Path]:
    """The files that a DICOMDIR lists, those of them that are plain files in its folder or below it."""
    with guarded(name):
        files = []
        for record in header.get(_RECORDS) or []:
            parts = record.get("ReferencedFileID")
            if not parts:
                continue
            names = [parts] if isinstance(parts, str) else [str(part) for part in parts]
            if len(names) > 32 or not all(_is_name(part) for part in names):
                continue
            place = _existing(path.parent, names)
            if place is not None and _is_dicom(place):
                files.append(place)
            if len(files) > _MOST_FILES:
                raise Refused("size", f"{name} lists too many files.", "Give the folder of one study.")
        return files


def _existing(folder: Path, names: Sequence[str]) -> Path | None:
    """The file of this name, which a disc may show in small letters; None where there is none, or a link on the way."""
    place = folder
    for name in names:
        for spelt in (name, name.lower(), name.upper()):
            if os.path.lexists(place / spelt):
                place = place / spelt
                break
        else:
            return None
        if place.is_symlink():
            return None
    return place


def _is_name(part: str) -> bool:
    return bool(part) and part not in (".", "..") and not any(sign in part for sign in "/\\\0:")
