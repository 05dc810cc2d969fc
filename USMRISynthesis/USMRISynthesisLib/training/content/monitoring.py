"""Evaluating a run of the frame content network on frames of patients that it has not seen."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from USMRISynthesisLib.alignment.frame.content import PLANES, content_of
from USMRISynthesisLib.alignment.frame.content_model import Network, views_of
from USMRISynthesisLib.datasets.frame_content import BRAIN_SOURCES, ContentRow, read_frame
from USMRISynthesisLib.ultrasound.fan import find_fan


def held_views(rows: Sequence[ContentRow]) -> list[Tensor]:
    """(8, 1, S, S) of each frame: what inference shows the network of it, in half precision."""
    views = []
    for row in rows:
        volume = read_frame(row)
        views.append(views_of(volume, find_fan(volume.array, volume.spacing)).half())
    return views


def evaluate(averaged: nn.Module, rows: Sequence[ContentRow], views: Sequence[Tensor]) -> dict[str, float]:
    """Shares of brain frames refused, of the others accepted, of each source, and of planes named right."""
    network = Network(copy.deepcopy(averaged).float().cpu().eval())
    accepted: dict[str, list[bool]] = {}
    right = []
    for row, squares in zip(rows, views, strict=True):
        content = content_of(network(squares.float()).mean(axis=0))
        accepted.setdefault(row.source, []).append(content.shows_brain)
        if row.shows in PLANES and content.shows_brain:
            right.append(content.answer == row.shows)
    brains, others = (
        [taken for source, some in accepted.items() for taken in some if (source in BRAIN_SOURCES) is brain]
        for brain in (True, False)
    )
    figures = {
        "brain_refused_share": 1 - float(np.mean(brains)),
        "no_brain_accepted_share": float(np.mean(others)),
        "plane_right_share": float(np.mean(right)) if right else 0.0,
    }
    return figures | {f"accepted_{source.replace('-', '_')}": float(np.mean(some)) for source, some in accepted.items()}
