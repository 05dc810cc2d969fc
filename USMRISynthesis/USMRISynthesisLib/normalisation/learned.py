"""The alignment networks' answer as an `Alignment`, where the networks, torch and a head are there.

torch is imported when it is asked for, and not before: where it is missing the skull fit does without.
"""

from __future__ import annotations

import numpy as np

from USMRISynthesisLib import weights
from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.normalisation.alignment import Alignment
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
        volume: an admitted 3D volume; fan: (k, j, i) bool.
        gestational_age: weeks, a prior for the scale.

    Raises:
        ImportError: there is no torch. Failed: the model is not there or not intact.
    """
    from USMRISynthesisLib.normalisation.network_align import align_volume, load_networks

    found = align_volume(load_networks(model), volume, fan, gestational_age=gestational_age)
    if found is None:
        return None
    skull = found.ellipsoid
    return Alignment(found.matrix, skull.centre, skull.semi_axes, skull.axes, found.score, "network")
