"""From what a user names to cases: files, folders, BIDS trees and tables, DICOM by series, films by frame.

cases = gather([Path("study"), Path("list.tsv")], Path("out"), bids=False, frame="all")
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from USMRISynthesisLib.batch import bids as bids_names
from USMRISynthesisLib.batch.cases import Case, Item, flat_cases, folder_items, holds_pictures
from USMRISynthesisLib.batch.table import TABLES, table_rows
from USMRISynthesisLib.errors import Refused, USMRIError
from USMRISynthesisLib.io.volume import PICTURE_FORMATS, VOLUME_FORMATS

ALL = "all"
_PICTURES = (
    f" Pictures ({', '.join(PICTURE_FORMATS)}) have no pixel size: synthesise them one by one, with `usmri synthesize`."
)


def gather(sources: Sequence[Path], output: Path, *, bids: bool = False, frame: int | str | None = None) -> list[Case]:
    """The cases, by name; no two share a name or a result.

    Args:
        sources: files, folders, BIDS trees (which have `sub-...` folders) and tables (.csv, .tsv); absolute.
        output: folder of the results; what lies in it is no input.
        bids: results get BIDS names in `derivatives/usmri`, else those of their images.
        frame: of films, sequences and 4D files: which time point, from 0, or `ALL`, each a case of its own.

    Raises:
        Refused: something named is not there, a table cannot be read, or there is no image.
        Failed: there is DICOM alone, and no pydicom to read it.
    """
    check_sources(sources)
    items: list[Item] = []
    for source in sources:
        found = _items_of(source, output)
        if len(sources) > 1 and source.is_dir():
            found = [replace(item, inside=Path(source.name) / item.inside) for item in found]
        items += found
    if not items:
        first = sources[0]
        raise Refused(
            "no-cases",
            f"There is no image to synthesise in {first.name}.",
            f"Give a folder with images in one of these formats: {', '.join(VOLUME_FORMATS)}; or with DICOM."
            + _PICTURES * (first.is_dir() and holds_pictures(first)),
        )
    items = [one for item in _distinct(items) for one in _frames_of(item, frame)]
    if bids:
        return bids_names.bids_cases(items, sources, output)
    return flat_cases(items, output)


def check_sources(sources: Sequence[Path]) -> None:
    """Raise Refused where something named is not there."""
    for source in sources:
        if not source.exists():
            raise Refused(
                "input-folder",
                f"There is no folder {source.name}.",
                "Give a folder of ultrasound images, image files, or a table with a column path.",
            )


def part_of(cases: Sequence[Case], number: int, count: int) -> list[Case]:
    """The cases of one of `count` parts, `number` from 1: by a hash of the name, so that no part needs to know another,
    and a case stays in its part when others are added. Raises Refused."""
    if not 1 <= number <= count:
        raise Refused("part", f"There is no part {number} of {count}.", "Give --part I/N with I from 1 to N.")
    return [case for case in cases if _hash(case.name) % count == number - 1]


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def _items_of(source: Path, output: Path) -> list[Item]:
    """What one name stands for."""
    if source.is_dir():
        tree = bids_names.tree_items(source, output)
        return folder_items(source, output) if tree is None else tree
    if source.name.lower().endswith(TABLES):
        return [one for row in table_rows(source) for one in _series_of(row)]
    return _series_of(Item(Path(source.name), source))


def _series_of(item: Item) -> list[Item]:
    """A DICOM file, folder or DICOMDIR as its images; anything else as it is. What cannot be read keeps its reason."""
    from USMRISynthesisLib.io.reading import is_dicom

    if item.problem is not None or not is_dicom(item.source):
        if item.problem is None and item.source.is_dir():
            problem = Refused("missing", f"{item.source.name} is a folder without DICOM.", "Name the image file in it.")
            return [replace(item, problem=problem)]
        return [item]
    from USMRISynthesisLib.io.dicom_find import items_at

    try:
        found = [one for one in items_at(item.source, item.source.name) if not one.synthetic]
    except Refused as error:
        return [replace(item, problem=error)]
    if len(found) == 1:
        return [replace(item, series=found[0].label, dicom_files=found[0].files)]
    return [
        replace(item, inside=item.inside / f"series-{one.label.replace('.', '-')}", series=one.label,
                dicom_files=one.files)
        for one in found
    ]  # fmt: skip


def _frames_of(item: Item, frame: int | str | None) -> list[Item]:
    """An item with the frame that is wanted, where it holds several; with `ALL` one for each."""
    if frame is None or item.problem is not None:
        return [item]
    from USMRISynthesisLib.io.reading import count_frames

    try:
        count = count_frames(item.source, series=item.series)
    except USMRIError:  # reading it says why
        return [item]
    if count < 2:
        return [item]
    if frame != ALL:
        return [replace(item, frame=int(frame))]
    return [replace(item, frame=number, number_frame=True) for number in range(count)]


def _distinct(items: Sequence[Item]) -> list[Item]:
    """Items of different names: a second `head.nrrd` is `head-2.nrrd` in the ledger, its result `head-2-mr`."""
    taken: set[Path] = set()
    distinct = []
    for item in items:
        inside, number = item.inside, 1
        while inside in taken:
            number += 1
            ending = "".join(item.inside.suffixes[-2:]) if item.inside.name.endswith(".nii.gz") else item.inside.suffix
            stem = item.inside.name[: len(item.inside.name) - len(ending)]
            inside = item.inside.with_name(f"{stem}-{number}{ending}")
        taken.add(inside)
        distinct.append(replace(item, inside=inside))
    return distinct
