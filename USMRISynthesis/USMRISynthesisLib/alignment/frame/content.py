"""What a 2D frame shows: a fetal brain in which plane, or no brain.

The network that finds it out is in ``content_model.py``; what follows from it for the synthesis in ``admission.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit, softmax

# The planes in the order of the network's outputs, which follow the logit of there being a brain.
PLANES = ("trans-thalamic", "trans-ventricular", "trans-cerebellum", "other brain plane")
NO_BRAIN = "no brain"
# The probability of a brain from which on a frame is taken for one.
MIN_BRAIN = 0.5


@dataclass(frozen=True)
class FrameContent:
    """What a frame shows.

    answer: one of `PLANES`, or "no brain". probabilities: of each of these five answers; they add up to 1.
    """

    answer: str
    probabilities: Mapping[str, float]

    @property
    def shows_brain(self) -> bool:
        return self.answer != NO_BRAIN

    @property
    def brain(self) -> float:
        """Probability of a brain in whichever plane."""
        return 1.0 - self.probabilities[NO_BRAIN]

    def to_json(self) -> dict[str, Any]:
        """Plain values, for the provenance."""
        return {"answer": self.answer, "probabilities": {k: round(v, 4) for k, v in self.probabilities.items()}}


def content_of(logits: np.ndarray) -> FrameContent:
    """The content from logits (5,): of a brain, then of each plane."""
    brain = float(expit(logits[0]))
    shares = brain * softmax(logits[1:].astype(np.float64))
    probabilities = {plane: float(share) for plane, share in zip(PLANES, shares, strict=True)} | {NO_BRAIN: 1 - brain}
    return FrameContent(PLANES[int(np.argmax(shares))] if brain >= MIN_BRAIN else NO_BRAIN, probabilities)
