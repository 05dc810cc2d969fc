"""A transform that was given: whether it can be this image's at all."""

from __future__ import annotations

import numpy as np

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.geometry.head import Alignment
from USMRISynthesisLib.io.volume import Volume

# Shares of the head that lie in the fan: below the first it is not in the picture, below the second it may not be.
_LEAST, _USUAL = 0.05, 0.4


def check_given_transform(alignment: Alignment, volume: Volume, fan: np.ndarray) -> str:
    """A warning where a given transform puts much of the head outside the fan, or nothing.

    Args:
        alignment: by the transform; volume: the image; fan: (k, j, i) bool.

    Raises:
        Refused: hardly anything of the head lies in the fan, kind "transform".
    """
    share = share_in_fan(alignment, volume, fan)
    if share < _LEAST:
        raise Refused(
            "transform",
            f"The transform given puts the head outside the ultrasound: {100 * share:.0f} % of it lie in the fan.",
            "Check that it was made for this image and leads from the image to canonical space, not back.",
        )
    if share < _USUAL:
        return (
            f"By the transform given, only {100 * share:.0f} % of the head lie in the ultrasound: check that it was "
            "made for this image."
        )
    return ""


def share_in_fan(alignment: Alignment, volume: Volume, fan: np.ndarray) -> float:
    """How much of the head's ellipsoid (of a frame: its ellipse) lies in the fan, 0-1."""
    to_canonical = alignment.ras_to_canonical @ volume.ijk_to_ras
    n = 3 if alignment.semi_axes[2] > 0 else 2
    size = np.pi * float(np.prod(alignment.semi_axes[:n])) * (4 / 3 if n == 3 else 1)
    if n == 3 and volume.is_frame:  # a slice of the ellipsoid has no volume
        return float((alignment.head_on(volume.ijk_to_ras, volume.shape) & fan).any())
    voxel = abs(float(np.linalg.det(to_canonical[:n, :n])))
    inside = int((alignment.head_on(volume.ijk_to_ras, volume.shape) & fan).sum())
    return min(1.0, inside * voxel / size)
