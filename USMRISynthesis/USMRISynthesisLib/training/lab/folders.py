"""A lab's own folders of ultrasound and of fetal brain MR, made ready for training.

    usmri train --us DIR --mr DIR

Every volume goes into canonical space: ultrasound through the product's own gate and alignment, MR through registration
(`datasets/mr_registration/`). What cannot be used is left out, with the reason, in `prepared.json` beside the volumes:

    PREPARED/us/SUBJECT-FILE.npz    us uint8 (160,160,160), fan bool, skull bool: inside of the head; score
    PREPARED/mr/SUBJECT-FILE.npz    t2 uint8 (160,160,160): 0 outside the head, 255 = brightest fluid; week, score

SUBJECT and FILE are hashes - of the BIDS subject in the file's name, or of the whole name; and of the file's content -
so that no checkpoint carries a patient's name. A file whose content is known is not read again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from USMRISynthesisLib.alignment.align import align
from USMRISynthesisLib.alignment.common.confidence import MIN_CONFIDENCE
from USMRISynthesisLib.datasets.mr_registration.register import MIN_LEAD, MIN_SCORE, MRAlignment, align_mr
from USMRISynthesisLib.datasets.mr_registration.template import LANDMARKS, template_ijk_to_ras
from USMRISynthesisLib.errors import Refused, USMRIError
from USMRISynthesisLib.geometry.canonical import canonical_axis_mm, canonical_ijk_to_ras, resample, to_canonical
from USMRISynthesisLib.io.provenance import file_sha256, marks, stem_of
from USMRISynthesisLib.io.volume import VOLUME_FORMATS, Volume
from USMRISynthesisLib.ultrasound.gate import admit

LEDGER = "prepared.json"
VERSION = 1  # of what is kept; a change makes all of it anew
MIN_GREY_VALUES = 17  # fewer are labels, as in `ultrasound/gate.py`
_MASK = re.compile(r"[_-](desc-\w+?[_-])?(brain)?[_-]?mask$", re.IGNORECASE)
_SUBJECT = re.compile(r"sub-[A-Za-z0-9]+")


@dataclass(frozen=True)
class Prepared:
    """Where the volumes are, and how many; left_out: "us" and "mr" -> reason -> how many files."""

    us: Path
    mr: Path
    used: dict[str, int]
    left_out: dict[str, Counter[str]]


def prepare(
    us: str | Path,
    mr: str | Path,
    target: str | Path,
    *,
    report: Callable[[str], None] = print,
) -> Prepared:
    """Bring both folders, searched in depth, into canonical space below `target`.

    Raises Refused: a folder is missing, holds no volumes, is or lies within the other, or none can be used.
    """
    folders = {"us": Path(us).resolve(), "mr": Path(mr).resolve()}
    target = Path(target)
    _check_folders(folders, target.resolve())
    files = {kind: _volumes_in(folder, target.resolve()) for kind, folder in folders.items()}
    for kind, word in (("us", "ultrasound"), ("mr", "MR")):
        if not files[kind]:
            raise Refused(
                f"no-{kind}",
                f"There are no {word} volumes in {folders[kind].name}.",
                f"Give a folder with files in one of these formats: {', '.join(VOLUME_FORMATS)}.",
            )
    ledger = _read_ledger(target / LEDGER)
    for kind, folder in folders.items():
        (target / kind).mkdir(parents=True, exist_ok=True)
        images, masks = _split_masks(files[kind]) if kind == "mr" else (files[kind], {})
        known = ledger.get(kind, {})
        entries: dict[str, Any] = {}
        for number, path in enumerate(images, start=1):
            name = path.relative_to(folder).as_posix()
            entries[name] = _entry(path, masks.get(path), kind, target, known, entries)
            ledger[kind] = {**known, **entries} if number < len(images) else entries
            _write_ledger(target / LEDGER, ledger)
            report(f"{kind} {number} of {len(images)}: {entries[name].get('reason', 'ready')}")
        kept = {entry["file"] for entry in entries.values() if "file" in entry}
        for path in (target / kind).glob("*.npz"):
            if path.name not in kept:  # its input is gone
                path.unlink()
    left_out = {kind: Counter(entry["reason"] for entry in ledger[kind].values() if "reason" in entry)
                for kind in folders}  # fmt: skip
    used = {kind: len(ledger[kind]) - left_out[kind].total() for kind in folders}
    for kind, word in (("us", "ultrasound"), ("mr", "MR")):
        if not used[kind]:
            reason = left_out[kind].most_common(1)[0][0]
            raise Refused(
                f"no-usable-{kind}",
                f"None of the {len(ledger[kind])} {word} files can be used; most often: {reason}",
                f"{target / LEDGER} has the reason for every file.",
            )
    return Prepared(target / "us", target / "mr", used, left_out)


def _check_folders(folders: dict[str, Path], target: Path) -> None:
    for kind, option in (("us", "--us"), ("mr", "--mr")):
        if not folders[kind].is_dir():
            raise Refused("input-folder", f"There is no folder {folders[kind].name}.", f"Give a folder with {option}.")
    us, mr = folders["us"], folders["mr"]
    if us == mr or us in mr.parents or mr in us.parents:
        raise Refused(
            "same-folder",
            "The folders of ultrasound and MR are the same, or one lies within the other.",
            "Put ultrasound and MR into two folders apart.",
        )
    if target in folders.values():
        raise Refused(
            "output",
            "What is prepared cannot be written into an input folder.",
            "Choose another --output or --prepared.",
        )


def _volumes_in(folder: Path, target: Path) -> list[Path]:
    """Volume files by name, without hidden ones and without what is prepared."""
    return [path for path in sorted(folder.rglob("*"))
            if path.name.lower().endswith(VOLUME_FORMATS) and path.is_file() and target not in path.parents
            and not any(part.startswith(".") for part in path.relative_to(folder).parts)]  # fmt: skip


def _split_masks(files: list[Path]) -> tuple[list[Path], dict[Path, Path]]:
    """Images, and the brain masks among the files by the image that they belong to.

    A mask is named as its image with `_mask`, `_brainmask` or `_desc-brain_mask` behind it, which may stand in the
    place of the image's own suffix (`_T2w`). Masks without an image are no images either.
    """
    masks = {_MASK.sub("", stem_of(path)): path for path in files if _MASK.search(stem_of(path))}
    images = [path for path in files if not _MASK.search(stem_of(path))]
    found = {}
    for path in images:
        stem = stem_of(path)
        mask = masks.get(stem) or masks.get(stem.rpartition("_")[0])
        if mask is not None:
            found[path] = mask
    return images, found


def _entry(
    path: Path, mask: Path | None, kind: str, target: Path, known: dict[str, Any], done: dict[str, Any]
) -> dict[str, Any]:
    """Prepare one file, unless that was done before: `file` and `score`, or `reason`."""
    try:
        digest = file_sha256(path) + (file_sha256(mask) if mask is not None else "")
    except OSError as error:
        return {"reason": f"The file cannot be read ({error.strerror})."}
    found = _SUBJECT.search(path.name) or _SUBJECT.search(path.parent.as_posix())
    subject = found.group() if found else path.name
    name = f"{_short(subject)}-{_short(digest)}.npz"
    if any(entry.get("sha256") == digest for entry in done.values()):
        return {"sha256": digest, "reason": "The same file is there twice."}
    for entry in known.values():
        if entry.get("sha256") == digest and entry.get("version") == VERSION:
            if "reason" in entry or (entry["file"] == name and (target / kind / name).is_file()):
                return dict(entry)
    try:
        if marks(path):
            raise Refused("synthetic", "The file is marked as synthetic.", "Give real images only.")
        arrays = _ultrasound(path) if kind == "us" else _mr(path, mask)
    except USMRIError as error:
        reason = error.message.replace(path.name, "the file")
        return {"sha256": digest, "version": VERSION, "kind": error.kind, "reason": reason, "remedy": error.remedy}
    part = target / kind / f".{os.getpid()}.part.npz"
    np.savez_compressed(part, **arrays)
    os.replace(part, target / kind / name)
    return {"sha256": digest, "version": VERSION, "file": name, "score": round(float(arrays["score"]), 3)}


def _ultrasound(path: Path) -> dict[str, Any]:
    volume = Volume.read(path)
    if volume.is_frame:
        raise Refused("frame", "It is a 2D frame.", "Give 3D volumes.")
    fan = admit(volume)
    found = align(volume, fan)
    if found.score < MIN_CONFIDENCE:
        raise Refused(
            "unreliable",
            "The head was not found reliably.",
            f"Its score is {found.score:.2f}; {MIN_CONFIDENCE:.2f} is needed.",
        )
    low, high = (float(value) for value in np.percentile(volume.array[fan], (0.1, 99.9)))
    array = volume.array
    if array.dtype != np.uint8:
        array = np.clip((array.astype(np.float32) - low) * (255 / max(high - low, 1e-6)), 0, 255)
    us, z_mm = to_canonical(array, volume.ijk_to_ras, found.ras_to_canonical)
    inside, _ = to_canonical(fan.astype(np.float32), volume.ijk_to_ras, found.ras_to_canonical)
    return {"us": np.clip(np.round(us), 0, 255).astype(np.uint8), "fan": inside > 0.5, "skull": found.head_mask(z_mm),
            "score": np.float32(found.score)}  # fmt: skip


def _mr(path: Path, mask_path: Path | None) -> dict[str, Any]:
    volume = Volume.read(path)
    if np.unique(volume.array.ravel()[:: 1 + volume.array.size // 200_000]).size < MIN_GREY_VALUES:
        raise Refused(
            "labels",
            "The image holds only a few distinct values, like a segmentation.",
            "Give the MR itself; name a mask as its image with _mask behind.",
        )
    mask = None
    if mask_path is not None:
        drawn = Volume.read(mask_path)
        to_mask = np.linalg.inv(drawn.ijk_to_ras) @ volume.ijk_to_ras
        mask = resample((drawn.array > 0).astype(np.uint8), to_mask, volume.shape, 0, 0.0) > 0.5
    found = align_mr(volume, mask)
    if not found.is_reliable:
        raise Refused(
            "unreliable",
            "The brain was not found reliably in the MR.",
            f"Its score is {found.score:.2f} and its lead {found.lead:.2f}; needed are {MIN_SCORE:.2f} and "
            f"{MIN_LEAD:.2f}. A brain mask beside it helps.",
        )
    t2 = canonical_t2(volume, mask, found)
    return {"t2": t2, "week": np.int32(found.template.week), "score": np.float32(found.score)}


def canonical_t2(volume: Volume, mask: np.ndarray | None, found: MRAlignment) -> np.ndarray:
    """The MR (160,160,160) uint8 in canonical space, 0 outside the mask, or where there is none the template's skull.

    Its grey values in the brain are brought to the template's by percentiles, piecewise linearly (Nyul and Udupa, Magn
    Reson Med 1999, 42:1072-1081): the simulated heads' greys are the template's.
    """
    size = len(canonical_axis_mm())
    to_cell = np.linalg.inv(template_ijk_to_ras()) @ canonical_ijk_to_ras()
    shape = (size, size, size)
    brain, skull = (resample(part.astype(np.float32), to_cell, shape, 1, 0.0) > 0.5
                    for part in (found.template.brain, found.template.skull))  # fmt: skip
    grey, _ = to_canonical(volume.array, volume.ijk_to_ras, found.ras_to_canonical)
    head = skull
    if mask is not None:
        kept, _ = to_canonical(mask.astype(np.float32), volume.ijk_to_ras, found.ras_to_canonical)
        head = kept > 0.5
    own = np.percentile(grey[brain & head] if (brain & head).any() else grey[head], LANDMARKS)
    own = np.maximum.accumulate(own + np.arange(len(own)) * 1e-6 * max(float(np.ptp(own)), 1e-6))
    low = min(float(grey.min()), float(own[0]) - 1e-6)
    top = own[-1] + (own[-1] - own[0]) / 4
    values = np.interp(grey, [low, *own, top], [0.0, *found.template.landmarks, 1.0])
    return np.where(head, np.clip(np.round(255 * values), 1, 255), 0).astype(np.uint8)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _read_ledger(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write_ledger(path: Path, ledger: dict[str, Any]) -> None:
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(ledger, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)
