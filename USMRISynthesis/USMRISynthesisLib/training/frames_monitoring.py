"""What a run of the frames' network shows of itself: ellipses of held-out fetuses, and the trust fitted on them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy import ndimage
from torch import nn

from ..normalisation import trust
from ..normalisation.ellipse import Ellipse
from ..normalisation.frame_align import PARTS, Network, Outlined, align_frame, face_logit
from ..normalisation.frame_network import grid
from ..normalisation.learned import SURE_OF_FRONT
from ..normalisation.pose import circumference_mm
from ..volume import Volume
from .frames_data import Picture

GOOD_DICE = 0.9
_CELLS = 192


def evaluate(averaged: Mapping[str, nn.Module], pictures: Sequence[Picture], simulated: Sequence[Picture],
             seed: int) -> tuple[dict[str, float], trust.Calibration | None]:
    """Figures of the held-out frames, and a trust calibration where there were right and wrong ellipses.

    Wrong ones are made besides: the frame's content in another order, noise, and the parts of it beside the head.
    """
    outline, face = (copy.deepcopy(averaged[part]).float().cpu() for part in PARTS)
    network = Network(outline, face)
    rng = np.random.default_rng([seed, 5])
    dice, difference, evidence, good = [], [], [], []

    def note(found: Outlined | None, right: bool) -> None:
        if found is not None:
            evidence.append(found.evidence)
            good.append(right)

    for picture in pictures:
        found = align_frame(network, picture.volume, picture.fan)
        dice.append(0.0 if found is None else overlap(found.ellipse, picture.ellipse))
        true = circumference_mm(picture.ellipse.semi_axes)
        difference.append(true if found is None else abs(circumference_mm(found.ellipse.semi_axes) - true))
        note(found, dice[-1] >= GOOD_DICE)
        note(align_frame(network, scrambled(picture, rng), picture.fan), False)
        for part in beside(picture):
            note(align_frame(network, part.volume, part.fan), False)
    try:
        calibration = trust.calibrate(evidence, good, like=trust.DEFAULT_FRAME)
    except ValueError:
        calibration = None
    return {**figures(np.array(dice), np.array(difference)), **faces(network, simulated)}, calibration


def faces(network: Network, pictures: Sequence[Picture]) -> dict[str, float]:
    """How often the face's end is told rightly where it is known, at the head's true place; {} without any."""
    logits = [face_logit(network, picture.pyramid, picture.ellipse)
              * float(np.sign(picture.ellipse.directions[:, 0] @ picture.front))
              for picture in pictures if picture.front is not None]
    if not logits:
        return {}
    sure = np.abs(logits) >= SURE_OF_FRONT
    right = np.array(logits) > 0
    return {"simulated_face_right_share": float(right.mean()), "simulated_face_sure_share": float(sure.mean()),
            "simulated_face_right_where_sure_share": float(right[sure].mean()) if sure.any() else float("nan")}


def figures(dice: np.ndarray, difference: np.ndarray) -> dict[str, float]:
    """Of Dice and absolute difference of the circumference (mm), one a frame."""
    worst = max(1, len(dice) // 10)
    return {
        "dice_mean": float(dice.mean()),
        "dice_median": float(np.median(dice)),
        "dice_weakest_tenth": float(np.sort(dice)[:worst].mean()),
        "difference_mm_mean": float(difference.mean()),
        "difference_mm_median": float(np.median(difference)),
        "difference_mm_p90": float(np.percentile(difference, 90, method="higher")),
        "difference_mm_weakest_tenth": float(np.sort(difference)[-worst:].mean()),
    }


def overlap(one: Ellipse, other: Ellipse) -> float:
    """Dice of two ellipses, on a grid that holds both."""
    lines = np.concatenate([one.outline(), other.outline()], axis=1)
    low, high = lines.min(axis=1), lines.max(axis=1)
    places = (grid(_CELLS).numpy() + 1) / 2 * (high - low)[:, None, None] + low[:, None, None]
    a, b = one.distance(places) < 0, other.distance(places) < 0
    return float(2 * (a & b).sum() / max(1, a.sum() + b.sum()))


def scrambled(picture: Picture, rng: np.random.Generator) -> Volume:
    """The frame without its head: its own tiles, a quarter of the head wide, in another order, or speckle alone."""
    array = picture.volume.array[0].copy()
    if rng.random() < 0.3:
        smooth = ndimage.gaussian_filter(rng.standard_normal(array.shape), max(array.shape) / rng.uniform(8, 30))
        level = 90 * np.exp(0.8 * smooth / smooth.std()) * rng.rayleigh(0.8, array.shape)
    else:
        step = max(6, int(0.5 * picture.ellipse.semi_axes[1] / picture.volume.spacing[0]))
        rows, columns = (size // step for size in array.shape)
        tiles = array[:rows * step, :columns * step].reshape(rows, step, columns, step).swapaxes(1, 2)
        tiles = rng.permutation(tiles.reshape(-1, step, step)).reshape(rows, columns, step, step)
        array[:rows * step, :columns * step] = tiles.swapaxes(1, 2).reshape(rows * step, columns * step)
        array[rows * step:], array[:, columns * step:] = 0, 0
        level = array.astype(np.float64)
    return Volume(np.where(picture.fan, np.clip(level, 0, 255), 0).astype(np.uint8), picture.volume.ijk_to_ras)


def beside(picture: Picture) -> list[Picture]:
    """The parts of a frame to the four sides of the head that are large enough to look at, as frames."""
    size = float(picture.volume.spacing[0])
    line = picture.ellipse.outline() / size
    (left, top), (right, bottom) = np.floor(line.min(axis=1)), np.ceil(line.max(axis=1))
    _, rows, columns = picture.volume.shape
    parts = []
    for box in ((0, left, 0, rows), (right, columns, 0, rows), (0, columns, 0, top), (0, columns, bottom, rows)):
        i0, i1, j0, j1 = (int(v) for v in np.clip(box, 0, [columns, columns, rows, rows]))
        fan = picture.fan[:, j0:j1, i0:i1]
        if min(i1 - i0, j1 - j0) >= 60 and fan.mean() > 0.5:
            matrix = picture.volume.ijk_to_ras.copy()
            matrix[:3, 3] = (picture.volume.ijk_to_ras @ [i0, j0, 0, 1])[:3]
            part = Volume(np.ascontiguousarray(picture.volume.array[:, j0:j1, i0:i1]), matrix)
            parts.append(replace(picture, name=f"{picture.name} beside", volume=part, fan=np.ascontiguousarray(fan)))
    return parts
