"""Measures of the head's outline in frames: Dice, circumference, the face's end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from USMRISynthesisLib.alignment.align import CONFIDENT_FRONT
from USMRISynthesisLib.alignment.common.unet import cell_centres
from USMRISynthesisLib.alignment.frame.outline import Network, face_logit
from USMRISynthesisLib.datasets.frames import Picture
from USMRISynthesisLib.geometry.ellipse import Ellipse
from USMRISynthesisLib.geometry.head import Alignment
from USMRISynthesisLib.io.volume import Volume

_CELLS = 192


def faces(network: Network, pictures: Sequence[Picture], kind: str = "simulated") -> dict[str, float]:
    """Share of frames with the right end of the face, at the head's true place, where it is known; {} without any.

    kind: what the figures' names begin with.
    """
    logits = [
        face_logit(network, picture.pyramid, picture.ellipse)
        * float(np.sign(picture.ellipse.directions[:, 0] @ picture.front))
        for picture in pictures
        if picture.front is not None
    ]
    if not logits:
        return {}
    confident = np.abs(logits) >= CONFIDENT_FRONT
    right = np.array(logits) > 0
    return {
        f"{kind}_face_right_share": float(right.mean()),
        f"{kind}_face_sure_share": float(confident.mean()),
        f"{kind}_face_right_where_sure_share": float(right[confident].mean()) if confident.any() else float("nan"),
    }


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


def ellipse_in_pixels(alignment: Alignment, volume: Volume) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre (x, y), semi-axes (major, minor) and rotation of a frame's ellipse in pixels."""
    to_pixels = np.linalg.inv(alignment.ras_to_canonical @ volume.ijk_to_ras)
    middle = to_pixels[:2] @ np.append(alignment.centre, 1)
    axes = to_pixels[:2, :2] @ alignment.rotation[:2, :2] * alignment.semi_axes[:2]
    lengths = np.linalg.norm(axes, axis=0)
    order = np.argsort(-lengths)
    return middle, lengths[order], (axes / lengths)[:, order]


def inside_ellipse(centre: np.ndarray, semi_axes: np.ndarray, rotation: np.ndarray, volume: Volume) -> np.ndarray:
    """Pixels inside an ellipse, bool, with a margin of 60 pixels: some heads extend beyond their frame."""
    _, rows, columns = volume.shape
    y, x = np.mgrid[-60 : rows + 60, -60 : columns + 60]
    points = np.stack([x, y], axis=-1) - centre
    return (((points @ rotation) / semi_axes) ** 2).sum(-1) <= 1


def overlap(one: Ellipse, other: Ellipse) -> float:
    """Dice of two ellipses, on a grid that holds both."""
    lines = np.concatenate([one.outline(), other.outline()], axis=1)
    low, high = lines.min(axis=1), lines.max(axis=1)
    places = (cell_centres(_CELLS, 2).numpy() + 1) / 2 * (high - low)[:, None, None] + low[:, None, None]
    a, b = one.distance(places) < 0, other.distance(places) < 0
    return float(2 * (a & b).sum() / max(1, a.sum() + b.sum()))
