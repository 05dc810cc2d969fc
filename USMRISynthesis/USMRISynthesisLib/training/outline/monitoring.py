"""Evaluating a run of the head outline: ellipses of held-out fetuses, and the confidence fitted on them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
from torch import nn

from USMRISynthesisLib.alignment.common import confidence
from USMRISynthesisLib.alignment.frame.outline import PARTS, Network, Outlined, find_outline
from USMRISynthesisLib.alignment.volume.pose import circumference_mm
from USMRISynthesisLib.datasets.frames import Picture
from USMRISynthesisLib.evaluation.alignment.negatives import off_head_crops, shuffle_tiles
from USMRISynthesisLib.evaluation.alignment.outline_measures import faces, figures, overlap

GOOD_DICE = 0.9
_CELLS = 192


def evaluate(
    averaged: Mapping[str, nn.Module], pictures: Sequence[Picture], simulated: Sequence[Picture], seed: int
) -> tuple[dict[str, float], confidence.Calibration | None]:
    """Figures of the held-out frames, and a calibration of the confidence where there were right and wrong ellipses.

    Wrong ones are made besides: the frame's content in another order, noise, and the parts of it beside the head.
    """
    outline, face = (copy.deepcopy(averaged[part]).float().cpu() for part in PARTS)
    network = Network(outline, face)
    rng = np.random.default_rng([seed, 5])
    dice, difference, features, good = [], [], [], []

    def note(found: Outlined | None, right: bool) -> None:
        if found is not None:
            features.append(found.features)
            good.append(right)

    for picture in pictures:
        found = find_outline(network, picture.volume, picture.fan)
        dice.append(0.0 if found is None else overlap(found.ellipse, picture.ellipse))
        true = circumference_mm(picture.ellipse.semi_axes)
        difference.append(true if found is None else abs(circumference_mm(found.ellipse.semi_axes) - true))
        note(found, dice[-1] >= GOOD_DICE)
        note(find_outline(network, shuffle_tiles(picture, rng), picture.fan), False)
        for part in off_head_crops(picture):
            note(find_outline(network, part.volume, part.fan), False)
    try:
        calibration = confidence.calibrate(features, good, like=confidence.DEFAULT_FRAME)
    except ValueError:
        calibration = None
    of_faces = faces(network, simulated) | faces(network, pictures, "real")
    return {**figures(np.array(dice), np.array(difference)), **of_faces}, calibration
