"""What a synthesis returns. No torch here: a process that only talks to the worker needs these names too."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from USMRISynthesisLib.io.volume import Volume

# The two meanings of a confidence volume; its provenance names one. Stored in provenance: the texts do not change.
PROBABILITY = (
    "probability that the MR-like grey is right within 15 % of the brightest fluid's, learnt and calibrated "
    "on simulated heads"
)
# Below the first probability of being right a voxel is covered wherever it is shown, in yellow; at the second, in red.
DOUBT, GRAVE_DOUBT = 0.9, 0.75
BEAM_ONLY = "1 where the beam reached the inside of the head; it does not say how right the image is"


@dataclass(eq=False)
class Synthesis:
    """An MR-like image on the grid of the ultrasound it was made from.

    Attributes:
        mr: int16, 0-1000, 0 outside the head or the fan; same shape and `ijk_to_ras` as the input.
        transform: `(4, 4)` ras_to_canonical; its scale is kept, so it can be inverted.
        confidence: float32 0-1 on the same grid, 0 outside the head and where no beam was. With a model that has a
            reliability map: the probability that the grey is right; else 1 wherever the beam was.
            `provenance["support"]["meaning"]` states which of the two.
        provenance: what went in, what was done with it and with which model; no names, no paths.
    """

    mr: Volume
    transform: np.ndarray
    confidence: Volume
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def trusted(self) -> bool:
        """Whether the head was found well enough for the alignment to be relied on."""
        return bool(self.provenance.get("alignment_trusted", True))


@dataclass(eq=False)
class Normalised:
    """An ultrasound image brought into canonical space.

    Attributes:
        canonical: float32 ultrasound, 160^3 (a frame: 160^2) at 0.6 mm, in its own intensities.
        transform: `(4, 4)` ras_to_canonical.
        provenance: what was done; no names, no paths.
    """

    canonical: Volume
    transform: np.ndarray
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def trusted(self) -> bool:
        """Whether the head was found well enough for the alignment to be relied on."""
        return bool(self.provenance.get("alignment_trusted", True))
