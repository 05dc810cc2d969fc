"""From an ultrasound image to canonical space: pose and size of the head, and the confidence in them.

The networks find a volume's head in any orientation, and the outline of a frame's head. If the models or torch are not
installed, the skull alone is fitted (``skull/fit.py``) and the orientation is assumed: the RAS axes of a volume are
those of the fetal anatomy to within about 25 degrees. The ellipsoid may tilt a little to outline the head, but the
assumed axes are kept: on simulated heads its tilt explained a third of the true pitch and a seventh of the yaw, and
applying it made the orientation worse. A frame is assumed to show the head-circumference plane, with the major axis of
its ellipse along +-A. The network decides which end is the face if its logit is large enough (no real frame could
verify that); otherwise the end nearer to the assumed anterior becomes anterior, and the face is left open.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from USMRISynthesisLib.alignment.common.confidence import NO_HEAD
from USMRISynthesisLib.alignment.given_pose import outline_in_pose
from USMRISynthesisLib.alignment.skull.fit import Skull, align_skull, from_outline
from USMRISynthesisLib.alignment.skull.search import LENGTH_MM
from USMRISynthesisLib.errors import Failed, Refused
from USMRISynthesisLib.geometry.head import Alignment
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.models import store

# Gestational ages that are taken as a prior, weeks: the growth standard's.
AGE_WEEKS = (14.0, 42.0)
MODEL = "alignment"
FRAMES_MODEL = "frames"
# Minimum absolute logit at which the network decides on the end of the face; below it, that is left open.
CONFIDENT_FRONT = 2.0


def validate_gestational_age(weeks: float | None) -> float | None:
    """A gestational age in weeks that can be a prior, or None. Raises Refused for any other."""
    if weeks is None or AGE_WEEKS[0] <= weeks <= AGE_WEEKS[1]:
        return weeks
    raise Refused(
        "gestational-age",
        f"A gestational age of {weeks:g} weeks is outside {AGE_WEEKS[0]:g} to {AGE_WEEKS[1]:g}.",
        "Give it in weeks, or leave it out.",
    )


def align(
    volume: Volume, fan: np.ndarray, *, transform: np.ndarray | None = None, gestational_age: float | None = None
) -> Alignment:
    """Find the head by the networks, or by its skull if they are not installed; with a transform, its outline only.

    Args:
        volume: an admitted ultrasound volume or frame.
        fan: (k, j, i) bool, from the gate.
        transform: (4, 4) RAS mm to canonical mm, kept exactly; its scale should bring the head to 88 mm.
        gestational_age: weeks, where it is known: a prior for the size of a volume's head; a frame shows its own.

    Raises:
        Refused: nothing in the image has a possible size for a head, the transform is not invertible, or no head has
            that age.
        Failed: the network's weights are damaged.
    """
    gestational_age = validate_gestational_age(gestational_age)
    model = FRAMES_MODEL if volume.is_frame else MODEL
    if transform is not None:
        return outline_in_pose(volume, fan, transform, model=model if is_installed(model) else None)
    if not is_installed(model):
        return align_skull(volume, fan)
    try:
        if volume.is_frame:
            found = segment_head_2d(volume, fan)
        else:
            found = align_volume(volume, fan, gestational_age=gestational_age)
    except (ImportError, OSError):  # no torch, or an installation that broke half-way
        return align_skull(volume, fan)
    if found is not None:
        return found
    outline = align_skull(volume, fan)  # an outline to show, with the confidence of no head
    return replace(outline, score=min(outline.score, NO_HEAD))


def is_installed(model: str = MODEL) -> bool:
    """Whether there is an alignment model of this name, without loading it."""
    try:
        store.find_model(model)
    except Failed:
        return False
    return True


def align_volume(
    volume: Volume, fan: np.ndarray, *, gestational_age: float | None = None, model: str = MODEL
) -> Alignment | None:
    """Alignment of a volume by the networks; None without a head.

    Args:
        volume: an admitted 3D volume; fan: (k, j, i) bool.
        gestational_age: weeks, a prior for the scale.

    Raises:
        ImportError: there is no torch. Failed: the model is not there or not intact.
    """
    from USMRISynthesisLib.alignment.volume.model import load_networks
    from USMRISynthesisLib.alignment.volume.search import find_head

    found = find_head(load_networks(model), volume, fan, gestational_age=gestational_age)
    if found is None:
        return None
    skull = found.ellipsoid
    return Alignment(found.matrix, skull.centre, skull.semi_axes, skull.axes, found.score, "network")


def segment_head_2d(volume: Volume, fan: np.ndarray, *, model: str = FRAMES_MODEL) -> Alignment | None:
    """Alignment of a frame by the network's outline; None without a head of a possible size.

    Args:
        volume: an admitted 2D frame; fan: (1, j, i) bool.

    Raises:
        ImportError: there is no torch. Failed: the model is not there or not intact.
    """
    from USMRISynthesisLib.alignment.frame.outline import find_outline, load_network

    found = find_outline(load_network(model), volume, fan)
    if found is None or not LENGTH_MM[0] <= found.ellipse.length <= LENGTH_MM[1]:
        return None
    major, minor = found.ellipse.directions.T
    skull = Skull(found.ellipse.centre, found.ellipse.semi_axes[::-1], np.column_stack([minor, major]))
    front = None
    if abs(found.front) >= CONFIDENT_FRONT:
        front = found.plane_to_ras[:3, :2] @ major * np.sign(found.front)
    return from_outline(skull, found.plane_to_ras, found.score, front=front)
