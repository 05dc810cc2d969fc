"""The outline of the head in an image whose transform to canonical space is given.

The pose stays as it was given. The networks say where the head lies in it: the refinement network in a volume, the
outline network in a frame. Their outline counts if it lies about where the pose puts a head of the usual size. If not,
or if they are not installed, the skull is fitted near that place (``skull/fit.py``).

torch is imported where a network is needed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from USMRISynthesisLib.alignment.skull.fit import align_skull, checked_transform, given_ellipse
from USMRISynthesisLib.alignment.volume.pose import SKULL_CENTRE_MM, SKULL_SEMI_AXES_MM
from USMRISynthesisLib.geometry.canonical import SIZE, canonical_ijk_to_ras
from USMRISynthesisLib.geometry.head import Alignment
from USMRISynthesisLib.io.volume import Volume

# Overlap (Dice) of an outline with that of a usual head in this pose, in a volume and in a frame's plane, and the mean
# probability of the head inside the outline less that outside it: below either the outline is not used. The frames'
# network looks for the head in the whole frame, so that its overlap also says whether the transform is this frame's.
LEAST_OVERLAP, LEAST_OVERLAP_FRAME, LEAST_AGREEMENT = 0.6, 0.7, 0.5
# Canonical voxels to a step of the grid on which outlines are compared.
_STEP = 4
_DOUBT = (
    "The networks see no head where the transform given puts it: the outline is that of a head of the usual size. "
    "Check the transform, and that nothing of the brain is cut off."
)


def outline_in_pose(volume: Volume, fan: np.ndarray, transform: np.ndarray, *, model: str | None) -> Alignment:
    """The given pose with the head's outline in this image.

    Args:
        volume: an admitted volume or frame. fan: (k, j, i) bool.
        transform: (4, 4) RAS mm to canonical mm; kept exactly.
        model: the networks' folder or name; None where they are not installed.

    Returns:
        method "given". Its `doubt` is set if the networks' outline was not credible.

    Raises:
        Refused: the transform is not invertible. Failed: the networks' weights are damaged.
    """
    transform = checked_transform(transform)
    if model is None:
        return align_skull(volume, fan, transform=transform)
    try:
        found = (
            _in_frame(volume, fan, transform, model) if volume.is_frame else _in_volume(volume, fan, transform, model)
        )
    except (ImportError, OSError):  # no torch, or an installation that broke half-way
        return align_skull(volume, fan, transform=transform)
    least = LEAST_OVERLAP_FRAME if volume.is_frame else LEAST_OVERLAP
    if found is None or found.score < LEAST_AGREEMENT or _overlap(found, volume) < least:
        return replace(align_skull(volume, fan, transform=transform), doubt=_DOUBT)
    return found


def _in_volume(volume: Volume, fan: np.ndarray, transform: np.ndarray, model: str) -> Alignment | None:
    from USMRISynthesisLib.alignment.volume.model import load_networks
    from USMRISynthesisLib.alignment.volume.refine import outline_at

    found = outline_at(load_networks(model), volume, fan, transform)
    if found is None:
        return None
    skull, agreement = found
    return Alignment(transform, skull.centre, skull.semi_axes, skull.axes, float(np.clip(agreement, 0, 1)), "given")


def _in_frame(volume: Volume, fan: np.ndarray, transform: np.ndarray, model: str) -> Alignment | None:
    from USMRISynthesisLib.alignment.frame.outline import find_outline, load_network

    found = find_outline(load_network(model), volume, fan)
    if found is None:
        return None
    return given_ellipse(transform, found.ellipse, found.plane_to_ras, found.score)


def _overlap(found: Alignment, volume: Volume) -> float:
    """Dice coefficient of an outline with the skull of a usual head in the same pose, 0-1; of a frame in its plane."""
    usual = replace(found, centre=SKULL_CENTRE_MM, semi_axes=SKULL_SEMI_AXES_MM, rotation=np.eye(3))
    if volume.is_frame:
        grid, shape = volume.ijk_to_ras, volume.shape
    else:
        coarse = canonical_ijk_to_ras() @ np.diag([_STEP, _STEP, _STEP, 1.0])
        grid, shape = np.linalg.inv(found.ras_to_canonical) @ coarse, (SIZE // _STEP,) * 3
    one, other = (outline.head_on(grid, shape) for outline in (found, usual))
    return float(2 * (one & other).sum() / max(1, int(one.sum()) + int(other.sum())))
