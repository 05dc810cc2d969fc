"""Evaluating an alignment run: errors on held-out heads in random poses, and the confidence fitted on them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from USMRISynthesisLib.alignment.common import confidence
from USMRISynthesisLib.alignment.volume.model import Networks
from USMRISynthesisLib.alignment.volume.search import Located, find_head, find_head_from
from USMRISynthesisLib.datasets.heads import Head
from USMRISynthesisLib.geometry.similarity import angle_deg, cube_rotations, rotation_of, scale_of, small_rotation


def evaluate(
    averaged: Mapping[str, nn.Module], heads: Sequence[Head], poses: int, seed: int
) -> tuple[dict[str, float], confidence.Calibration | None]:
    """Figures of the held-out heads, and a calibration of the confidence where there were right and wrong alignments.

    Wrong ones are made besides: heads refined from a wrong orientation, with few votes for it and with many, and
    images without a head.
    """
    from USMRISynthesisLib.evaluation.alignment.negatives import remove_head
    from USMRISynthesisLib.evaluation.alignment.poses import compare, place, summary

    networks = Networks({name: copy.deepcopy(network).float().cpu() for name, network in averaged.items()})
    outcomes, features, good = [], [], []
    rng = np.random.default_rng([seed, 5])

    def note(found: Located | None, anatomy_to_ras: np.ndarray | None) -> None:
        if found is not None:
            features.append(found.features)
            good.append(anatomy_to_ras is not None and _right(found, anatomy_to_ras))

    for head in heads:
        for number in range(poses):
            placed = place(head, number)
            found = find_head(networks, placed.volume, placed.fan)
            outcomes.append(compare(placed, found))
            note(found, placed.anatomy_to_ras)
            turned = np.eye(4)
            turned[:3, :3] = small_rotation(rng, 25.0) @ cube_rotations()[rng.integers(1, 24)]
            start = turned @ np.linalg.inv(placed.anatomy_to_ras)
            other = find_head_from(networks, placed.volume, placed.fan, start)
            note(other, placed.anatomy_to_ras)
            if found is not None and other is not None:  # and as if the votes had been for it, as in a real flip
                votes = {"agreement": found.features.agreement, "margin": found.features.margin * rng.uniform(0.4, 1.0)}
                note(replace(other, features=replace(other.features, **votes)), placed.anatomy_to_ras)
            if number == 0:
                note(find_head(networks, remove_head(placed.volume, placed.fan, rng), placed.fan), None)
    try:
        calibration = confidence.calibrate(features, good)
    except ValueError:
        calibration = None
    return summary(outcomes), calibration


def _right(found: Located, anatomy_to_ras: np.ndarray) -> bool:
    error = found.matrix @ anatomy_to_ras
    off = float(np.linalg.norm(error[:3, 3])) / scale_of(found.matrix)
    return angle_deg(rotation_of(error), np.eye(3)) < confidence.GOOD_DEG and off < confidence.GOOD_MM
