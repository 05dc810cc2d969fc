"""BIDS: which files of a tree are ultrasound, and how results are named as a derivative data set.

    items = tree_items(Path("study"), Path("out"))       # None where the folder is no BIDS tree
    cases = bids_cases(items, [Path("study")], Path("out"))

BIDS has no ultrasound of its own yet: a tree's images with the suffix `us`, or in a folder `us` or `ultrasound`, are
taken; where it has none, all images that are not named as MR. Results are T2-weighted-like images of the derivative
`usmri`: `derivatives/usmri/sub-X/[ses-Y/]anat/sub-X[_ses-Y]_desc-synthetic_T2w.nii.gz`.
https://bids-specification.readthedocs.io/en/stable/derivatives/introduction.html
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

from USMRISynthesisLib import __version__
from USMRISynthesisLib.batch.cases import Case, Item, case_of, folder_items
from USMRISynthesisLib.batch.table import read_table
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.marks import stem_of
from USMRISynthesisLib.io.strict_json import dumps
from USMRISynthesisLib.io.synthetic import SYNTHETIC

DERIVATIVE = Path("derivatives") / "usmri"
DESCRIPTION = "dataset_description.json"
NAME = "USMRISynthesis"
_VERSION = "1.10.0"
_ENTITY = re.compile(r"([a-z]+)-([A-Za-z0-9]+)")
_KEPT = ("acq", "rec", "run", "echo")  # entities of a source that a T2w image may have; in the order of BIDS
_OWN_NAMES, _OWN_FOLDERS = ("us", "ultrasound"), ("us", "ultrasound")
_MR = ("t1w", "t2w", "flair", "pdw", "t2star", "inplanet1", "inplanet2", "bold", "sbref", "dwi", "epi", "phasediff",
       "magnitude1", "magnitude2", "fieldmap", "asl", "m0scan", "dseg", "probseg", "mask")  # fmt: skip
_MR_FOLDERS = ("func", "dwi", "fmap", "perf", "eeg", "meg", "pet")


def tree_items(root: Path, output: Path) -> list[Item] | None:
    """The ultrasound images of a BIDS tree; None where a folder is none (it has no `sub-...` folder)."""
    try:
        subjects = [one for one in root.iterdir() if one.is_dir() and _ENTITY.fullmatch(one.name)]
    except OSError:
        return None
    if not any(one.name.startswith("sub-") for one in subjects):
        return None
    ages = _ages(root)
    found = [item for item in folder_items(root, output) if item.inside.parts[0].startswith("sub-")]
    ours = [item for item in found if _is_named_ultrasound(item.inside)]
    items = []
    for item in ours or [item for item in found if not _is_named_mr(item.inside)]:
        entities = dict(_ENTITY.findall("/".join(item.inside.parts[:-1]))) | dict(_ENTITY.findall(item.inside.name))
        subject, session = entities.get("sub", ""), entities.get("ses", "")
        age = ages.get((subject, session), ages.get((subject, "")))
        kept = {key: entities[key] for key in _KEPT if key in entities}
        items.append(replace(item, subject=subject, session=session, entities=kept, gestational_age=age))
    return items + [item for item in found if item.problem is not None and item not in items]


def bids_cases(items: Sequence[Item], sources: Sequence[Path], output: Path) -> list[Case]:
    """The results by their BIDS names; two images that would share one get `run-1`, `run-2`.

    Without a subject the image's own path stands for one, in letters and digits.
    """
    named = [(item, _entities(item)) for item in sorted(items, key=lambda item: (item.inside, item.frame or 0))]
    shared = Counter(_place(entities) for _, entities in named)
    taken = {place for place, times in shared.items() if times == 1}
    cases = []
    for item, entities in named:
        if shared[_place(entities)] > 1:
            free = "run" if "run" not in entities else "acq" if "acq" not in entities else "rec"
            numbers = ({**entities, free: str(number)} for number in count(1))
            entities = next(one for one in numbers if _place(one) not in taken)
            taken.add(_place(entities))
        target = output / DERIVATIVE / _folder(entities) / _file(entities)
        cases.append(case_of(item, target, _described(item, sources)))
    return sorted(cases, key=lambda case: case.name)


def _entities(item: Item) -> dict[str, str]:
    """What the name of an item's result is made of."""
    path = (item.inside.parent / stem_of(item.inside)).as_posix()
    entities = {"sub": _label(item.subject.removeprefix("sub-")) or _label(path) or "unknown"}
    if session := _label(item.session.removeprefix("ses-")):
        entities["ses"] = session
    entities |= {key: label for key, value in item.entities.items() if (label := _label(value))}
    if item.frame is not None and item.number_frame:
        entities["chunk"] = str(item.frame)
    return entities


def write_description(output: Path, sources: Sequence[Path]) -> None:
    """Say what the derivative is: `dataset_description.json` and a README. What is there already stays.

    Raises Refused where another program's data set is there, OSError.
    """
    folder = output / DERIVATIVE
    folder.mkdir(parents=True, exist_ok=True)
    root = _root(sources)
    content = {
        "Name": "MR-like images made from ultrasound (synthetic, not for diagnosis)",
        "BIDSVersion": _VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": NAME, "Version": __version__, "Description": SYNTHETIC}],
        "DatasetLinks": {"raw": quote(Path(os.path.relpath(root, folder)).as_posix())},
        "SourceDatasets": [{"URL": quote(Path(os.path.relpath(root, folder)).as_posix())}],
    }
    readme = (
        f"{SYNTHETIC}\n\nMR-like images made from fetal brain ultrasound by {NAME} {__version__}. They are no MR "
        "acquisitions.\nThe JSON file beside each image holds how it was made.\n"
    )
    for path, text in ((folder / DESCRIPTION, dumps(content, indent=2) + "\n"), (folder / "README.md", readme)):
        try:
            with open(path, "x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            continue
    check_description(output)


def check_description(output: Path) -> None:
    """Raise Refused where the place of the derivative belongs to another program's data set."""
    path = output / DERIVATIVE / DESCRIPTION
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    if text and NAME not in text:  # empty: another process is about to write it
        raise Refused(
            "exists",
            f"{DERIVATIVE.as_posix()}/{DESCRIPTION} exists and was not made by this program, so it is not replaced.",
            "Choose another folder for the results.",
        )


def _described(item: Item, sources: Sequence[Path]) -> dict[str, Any]:
    """The fields that BIDS wants beside an image."""
    root = _root(sources)
    try:
        uris = [f"bids:raw:{path.relative_to(root).as_posix()}" for path in item.dicom_files or (item.source,)]
    except ValueError:  # a table may name files anywhere
        return {"SkullStripped": True}
    # The result lies on its source's own grid.
    return {"Sources": uris, "SpatialReference": uris[0], "SkullStripped": True}


def _root(sources: Sequence[Path]) -> Path:
    """The folder that all sources lie in."""
    folders = [source if source.is_dir() else source.parent for source in sources]
    try:
        return Path(os.path.commonpath(folders))
    except ValueError:  # on two drives
        return folders[0]


def _folder(entities: Mapping[str, str]) -> str:
    parts = [f"{key}-{entities[key]}" for key in ("sub", "ses") if key in entities]
    return "/".join([*parts, "anat"])


def _file(entities: Mapping[str, str]) -> str:
    order = ("sub", "ses", *_KEPT, "chunk")
    parts = [f"{key}-{entities[key]}" for key in order if key in entities]
    return "_".join([*parts, "desc-synthetic", "T2w.nii.gz"])


def _place(entities: Mapping[str, str]) -> str:
    """Equal for two results of one name, on a disk that ignores case."""
    return f"{_folder(entities)}/{_file(entities)}".casefold()


def _label(text: str) -> str:
    """Letters and digits of a text: all that a BIDS label may have."""
    return re.sub(r"[^A-Za-z0-9]", "", text)


def _suffix(inside: Path) -> str:
    return stem_of(inside).rpartition("_")[2].lower()


def _is_named_ultrasound(inside: Path) -> bool:
    folders = [part.lower() for part in inside.parts[:-1]]
    return _suffix(inside) in _OWN_NAMES or any(part in _OWN_FOLDERS for part in folders)


def _is_named_mr(inside: Path) -> bool:
    return _suffix(inside) in _MR or any(part.lower() in _MR_FOLDERS for part in inside.parts[:-1])


def _ages(root: Path) -> dict[tuple[str, str], float]:
    """(subject, session or nothing) -> weeks, from `participants.tsv` and the subjects' `sessions.tsv`."""
    ages: dict[tuple[str, str], float] = {}

    def note(subject: str, session: str, text: str) -> None:
        try:
            ages[subject, session] = float(text)
        except ValueError:
            pass

    for row in read_table(root / "participants.tsv"):
        note(row.get("participant_id", "").removeprefix("sub-"), "", row.get("gestational_age", ""))
    for file in sorted(root.glob("sub-*/sub-*_sessions.tsv")):
        for row in read_table(file):
            session = row.get("session_id", "").removeprefix("ses-")
            note(file.parent.name.removeprefix("sub-"), session, row.get("gestational_age", ""))
    return ages
