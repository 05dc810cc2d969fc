"""`usmri evaluate content`: which real frames are taken for a brain, and which plane is named, on patients held out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from USMRISynthesisLib.alignment.frame.content import NO_BRAIN, PLANES, FrameContent
from USMRISynthesisLib.alignment.frame.content_model import classify, load_network
from USMRISynthesisLib.callbacks import Progress
from USMRISynthesisLib.datasets.frame_content import AXIAL, ContentRow, content_rows, mr_rows, read_frame
from USMRISynthesisLib.datasets.frames import real_pictures
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.evaluation.alignment.negatives import off_head_crops, shuffle_tiles
from USMRISynthesisLib.evaluation.real.negatives import random_sector
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.ultrasound.fan import find_fan
from USMRISynthesisLib.ultrasound.gate import MIN_SPECKLE_EVIDENCE, speckle_evidence

# MR that nothing is trained on: of normal fetuses, for measuring only.
_UNSEEN_MR = ("normal-mr-atlas/*/t2.nii.gz",)
# So many brain frames are filtered, and so many others are made.
_FILTERED, _MADE = 30, 40
SPLITS = ("train", "val", "test")


def evaluate(
    data: Path, split: str, *, model: str = "content", limit: int | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Shares of frames taken for a brain, by what they show; the confusion of planes; filtered and made-up frames.

    Args:
        split: "train", "val", "test", or "all" for a model that was not trained on these.
        limit: of frames of each part.

    Raises:
        Refused: the data are missing, or there is no such split. Failed: the model.
    """
    if split not in (*SPLITS, "all"):
        raise Refused("split", f"There is no split {split!r}.", f"Choose {', '.join(SPLITS)} or all.")
    rows = [row for row in content_rows(data) if split in (row.split, "all")]
    rows = [row for part in _parts(rows).values() for row in part[:limit]]
    network = load_network(model)

    def content_of(volume: Volume) -> FrameContent:
        return classify(network, volume, find_fan(volume.array, volume.spacing))

    answers = []
    for number, row in enumerate(rows):
        answers.append(content_of(read_frame(row, even=False)))
        if progress is not None:
            progress(0.7 * (number + 1) / len(rows), "frames")
    brains = [row for row in rows if row.shows != NO_BRAIN]
    few = [brains[n] for n in np.linspace(0, len(brains) - 1, min(_FILTERED, len(brains))).round().astype(int)]
    result = {"model": model, "split": split, **summary(rows, answers)}
    result["filtered"] = _filtered(few, content_of)
    result["made"] = _made(data, split, content_of)
    unseen = mr_rows(data, _UNSEEN_MR)[::7]
    if unseen:
        result["made"]["mr of normal fetuses"] = _taken([content_of(read_frame(row)) for row in unseen])
    if progress is not None:
        progress(1.0, "done")
    return result


def summary(rows: Sequence[ContentRow], answers: Sequence[FrameContent]) -> dict[str, Any]:
    """Flat shares; `accepted` by source and part; `confusion`: what is true -> answer -> frames."""
    brain = [answer for row, answer in zip(rows, answers, strict=True) if row.shows != NO_BRAIN]
    other = [
        answer
        for row, answer in zip(rows, answers, strict=True)
        if row.shows == NO_BRAIN and row.source != "mr"  # counted apart: no ultrasound
    ]
    named = [
        answer.answer == row.shows
        for row, answer in zip(rows, answers, strict=True)
        if row.shows in PLANES and answer.shows_brain
    ]
    by_part: dict[str, list[FrameContent]] = {}
    confusion: dict[str, dict[str, int]] = {}
    for row, answer in zip(rows, answers, strict=True):
        by_part.setdefault(_part(row), []).append(answer)
        counts = confusion.setdefault(row.shows, dict.fromkeys((*PLANES, NO_BRAIN), 0))
        counts[answer.answer] += 1
    order = (*PLANES, AXIAL, NO_BRAIN)
    return {
        "brain_frames": len(brain),
        "brain_refused_share": float(np.mean([not answer.shows_brain for answer in brain])),
        "no_brain_frames": len(other),
        "no_brain_accepted_share": float(np.mean([answer.shows_brain for answer in other])) if other else float("nan"),
        "plane_right_share": float(np.mean(named)) if named else float("nan"),
        "accepted": {part: _taken(some) for part, some in sorted(by_part.items())},
        "confusion": {shown: confusion[shown] for shown in order if shown in confusion},
    }


def _part(row: ContentRow) -> str:
    return f"{row.part}, Africa" if row.source == "african" else row.part


def _parts(rows: Sequence[ContentRow]) -> dict[str, list[ContentRow]]:
    parts: dict[str, list[ContentRow]] = {}
    for row in rows:
        parts.setdefault(_part(row), []).append(row)
    return parts


def _taken(answers: Sequence[FrameContent]) -> dict[str, float]:
    return {
        "images": float(len(answers)),
        "accepted_share": float(np.mean([answer.shows_brain for answer in answers])) if answers else float("nan"),
    }


def _filtered(rows: Sequence[ContentRow], content_of: Callable[[Volume], FrameContent]) -> dict[str, dict[str, float]]:
    """Brain frames after filters: the share taken for a brain, and that which the check of texture would refuse."""
    table = {}
    for name, smooth in FILTERS.items():
        answers, refused = [], []
        for row in rows:
            volume = read_frame(row, even=False)
            filtered = volume.with_values(smooth(volume.array[0])[None])
            answers.append(content_of(filtered))
            fan = find_fan(filtered.array, filtered.spacing)
            refused.append(speckle_evidence(filtered, fan) < MIN_SPECKLE_EVIDENCE)
        table[name] = _taken(answers) | {"without_speckle_share": float(np.mean(refused))}
    return table


def _made(data: Path, split: str, content_of: Callable[[Volume], FrameContent]) -> dict[str, dict[str, float]]:
    """Images without a head, made of real frames, and sectors of speckle."""
    splits = SPLITS if split == "all" else (split,)
    pictures = [picture for one in splits for picture in real_pictures(data, one)]
    rng = np.random.default_rng(0)
    crops = [part.volume for picture in pictures for part in off_head_crops(picture)]
    step = max(1, len(crops) // _MADE)
    return {
        "beside the head": _taken([content_of(crop) for crop in crops[::step]]),
        "tiles in another order": _taken([content_of(shuffle_tiles(picture, rng)) for picture in pictures[:_MADE]]),
        "random sector": _taken([content_of(random_sector(seed)) for seed in range(_MADE)]),
    }


def _back(image: sitk.Image) -> np.ndarray:
    return np.clip(np.rint(sitk.GetArrayFromImage(image)), 0, 255).astype(np.uint8)


def _image(grey: np.ndarray) -> sitk.Image:
    return sitk.GetImageFromArray(grey.astype(np.float32))


# As image programs offer them; the last two are not among those of the training.
FILTERS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "median 7x7": lambda grey: _back(sitk.Median(_image(grey), [3, 3])),
    "diffusion": lambda grey: _back(sitk.CurvatureAnisotropicDiffusion(_image(grey), 0.1, 3.0, 1, 8)),
    "bilateral": lambda grey: _back(sitk.Bilateral(_image(grey), 2.5, 35.0, 64)),
    "gaussian 2 px": lambda grey: _back(sitk.DiscreteGaussian(_image(grey), 4.0)),
}


def table(result: Mapping[str, Any]) -> str:
    """The figures as text."""
    lines = [f"what frames show, {result['split']} patients"]
    lines += [f"{key:36s} {value:8.3f}" for key, value in result.items() if isinstance(value, float)]
    for group in ("accepted", "filtered", "made"):
        lines += ["", f"{group}: share taken for a brain"]
        lines += [
            f"{part:36s} {values['accepted_share']:8.3f} of {values['images']:.0f}"
            for part, values in result[group].items()
        ]
    lines += ["", "true plane (rows), answer (columns): " + ", ".join((*PLANES, NO_BRAIN))]
    lines += [f"{shown:36s} " + " ".join(f"{n:6d}" for n in row.values()) for shown, row in result["confusion"].items()]
    return "\n".join(lines)
