"""The networks' answers as an `Alignment`, for volumes and for frames, where weights, torch and a head are there.

torch is imported when it is asked for, and not before: where it is missing the skull fit does without.
"""

from __future__ import annotations

import numpy as np

from USMRISynthesisLib import weights
from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.normalisation.alignment import from_outline
from USMRISynthesisLib.normalisation.head import Alignment
from USMRISynthesisLib.normalisation.skull import Skull
from USMRISynthesisLib.normalisation.skull_search import LENGTH_MM
from USMRISynthesisLib.volume import Volume

MODEL = "alignment"
FRAMES_MODEL = "frames"
# The logit from which on the face is taken to be where the network says; below it, it is left open.
SURE_OF_FRONT = 2.0


def is_installed(model: str = MODEL) -> bool:
    """Whether there is an alignment model of this name, without loading it."""
    try:
        weights.find_model(model)
    except Failed:
        return False
    return True


def align_by_network(volume: Volume, fan: np.ndarray, *, gestational_age: float | None = None,
                     model: str = MODEL) -> Alignment | None:
    """Where the network sees the head; None where it sees none.

    Args:
        volume: an admitted 3D volume; fan: (k, j, i) bool.
        gestational_age: weeks, a prior for the scale.

    Raises:
        ImportError: there is no torch. Failed: the model is not there or not intact.
    """
    from USMRISynthesisLib.normalisation.alignment_networks import load_networks
    from USMRISynthesisLib.normalisation.network_align import align_volume

    found = align_volume(load_networks(model), volume, fan, gestational_age=gestational_age)
    if found is None:
        return None
    skull = found.ellipsoid
    return Alignment(found.matrix, skull.centre, skull.semi_axes, skull.axes, found.score, "network")


def outline_by_network(volume: Volume, fan: np.ndarray, *, model: str = FRAMES_MODEL) -> Alignment | None:
    """Where the network sees a frame's head; None where it sees none of a possible size.

    Args:
        volume: an admitted 2D frame; fan: (1, j, i) bool.

    Raises:
        ImportError: there is no torch. Failed: the model is not there or not intact.
    """
    from USMRISynthesisLib.normalisation.frame_align import align_frame, load_network

    found = align_frame(load_network(model), volume, fan)
    if found is None or not LENGTH_MM[0] <= found.ellipse.length <= LENGTH_MM[1]:
        return None
    major, minor = found.ellipse.directions.T
    skull = Skull(found.ellipse.centre, found.ellipse.semi_axes[::-1], np.column_stack([minor, major]))
    front = None
    if abs(found.front) >= SURE_OF_FRONT:
        front = found.plane_to_ras[:3, :2] @ major * np.sign(found.front)
    return from_outline(skull, found.plane_to_ras, found.score, front=front)
