"""What follows from what a 2D frame shows: a frame without a brain is refused, another plane is warned of.

    content = check_content(volume, fan, warn=print)
    content.answer, content.probabilities

No torch here: the network (``content_model.py``) is loaded when a frame is classified. Without it, or without torch,
nothing is known of the content, and the gate's check of the texture decides alone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from USMRISynthesisLib.alignment.frame.content import PLANES, FrameContent
from USMRISynthesisLib.alignment.volume.pose import circumference_mm
from USMRISynthesisLib.errors import Failed, Refused
from USMRISynthesisLib.geometry.head import Alignment
from USMRISynthesisLib.geometry.similarity import scale_of
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.models import store
from USMRISynthesisLib.ultrasound.gate import require_speckle

MODEL = "content"
# The synthesis takes a frame for the head-circumference plane, which the first two planes are, or nearly.
_EXPECTED = PLANES[:2]
# So much of a brain's probability must lie in other planes for a warning.
_CLEARLY = 0.7
# A frame without speckle passes only where the network is as sure as this: it takes some slices of MR for a brain, too.
_SURE = 0.8
# No head of the training is smaller.
MIN_CIRCUMFERENCE_MM = 150.0
Warn = Callable[[str], None]


def classify_frame(volume: Volume, fan: np.ndarray, *, model: str = MODEL) -> FrameContent | None:
    """What a frame shows, by the network; None where the model or torch is not installed.

    Args:
        volume: an admitted 2D frame. fan: (1, j, i) bool.

    Raises:
        Failed: the network's weights are damaged.
    """
    try:
        store.find_model(model)
    except Failed:
        return None
    try:
        from USMRISynthesisLib.alignment.frame.content_model import classify, load_network
    except (ImportError, OSError):  # no torch, or an installation that broke half-way
        return None
    return classify(load_network(model), volume, fan)


def check_content(
    volume: Volume, fan: np.ndarray, *, any_content: bool = False, marked: bool = False, warn: Warn
) -> FrameContent | None:
    """What a frame shows; without a brain it is refused.

    A network that is sure of a brain decides alone: a filtered ultrasound has no speckle left. Otherwise the texture
    is checked too, so that MR and photographs are called what they are.

    Args:
        volume: a 2D frame, admitted but for its texture. fan: (1, j, i) bool.
        any_content: accept whatever it shows. marked: somebody gave the head's place, so there is one: only warn.

    Raises:
        Refused: with the kind "modality" or "content".
    """
    content = classify_frame(volume, fan)
    if not any_content and (content is None or content.brain < _SURE):
        require_speckle(volume, fan)
    if content is None or content.shows_brain:
        return content
    message = f"The frame does not look like an ultrasound of a fetal brain (probability {content.brain:.2f})."
    if not any_content and not marked:
        raise Refused("content", message, "Choose a frame of the fetal brain, or go on with --any-content.")
    warn(f"{message} The MR-like image of anything else means nothing.")
    return content


def doubts(content: FrameContent | None, alignment: Alignment) -> list[str]:
    """Warnings about a frame that shows a brain: in another plane, or in a head smaller than any of the training."""
    found = []
    if content is not None and content.shows_brain and content.answer not in _EXPECTED:
        expected = sum(content.probabilities[plane] for plane in _EXPECTED)
        if expected <= (1 - _CLEARLY) * content.brain:
            found.append(
                f"The frame seems to show another plane than the thalamic or ventricular one ({content.answer}): it is "
                "synthesised as if it were one of these, so structures that belong to its plane alone may be missing."
            )
    around = circumference_mm(alignment.semi_axes[:2] / scale_of(alignment.ras_to_canonical))
    if around < MIN_CIRCUMFERENCE_MM:
        found.append(
            f"The head's circumference is about {around:.0f} mm, less than any in the training "
            f"({MIN_CIRCUMFERENCE_MM:.0f} mm, about 18 weeks): the brain drawn is that of an older fetus."
        )
    return found
