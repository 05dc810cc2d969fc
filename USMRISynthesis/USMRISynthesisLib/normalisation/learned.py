"""The alignment network's answer as an `Alignment`, where the network, torch and a head are there.

torch is imported when it is asked for, and not before: where it is missing the skull fit does without.
"""

from __future__ import annotations

import numpy as np

from USMRISynthesisLib import weights
from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.normalisation.alignment import Alignment
from USMRISynthesisLib.normalisation.coordinates import scale_of
from USMRISynthesisLib.volume import Volume

MODEL = "alignment"


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
        volume: an admitted volume or frame; fan: (k, j, i) bool.
        gestational_age: weeks, a prior for a volume's scale.

    Raises:
        ImportError: there is no torch. Failed: the model is not there or not intact.
    """
    from USMRISynthesisLib.normalisation.frame_align import align_frame
    from USMRISynthesisLib.normalisation.network_align import align_volume, load_networks

    networks = load_networks(model)
    if volume.is_frame:
        frame = align_frame(networks, volume, fan)
        if frame is None:
            return None
        minor, major = frame.ellipse.semi_axes * scale_of(frame.matrix)
        return Alignment(frame.matrix, np.zeros(3), np.array([minor, major, 0.0]), np.eye(3), frame.score, "network")
    found = align_volume(networks, volume, fan, gestational_age=gestational_age)
    if found is None:
        return None
    skull = found.ellipsoid
    return Alignment(found.matrix, skull.centre, skull.semi_axes, skull.axes, found.score, "network")
