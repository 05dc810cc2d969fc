"""The methods that are compared, and one run of one of them; what an engine cannot do counts as a failure."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from USMRISynthesisLib.evaluation.real.fitted_atlas import FITTED
from USMRISynthesisLib.evaluation.registration import elastix_engine, itk_engine, own_engine
from USMRISynthesisLib.evaluation.registration.settings import (
    CORRELATION,
    GRADIENTS,
    LOCAL,
    MUTUAL,
    Registered,
    Settings,
    identity,
)

log = logging.getLogger(__name__)

US, MADE, TRUE = "ultrasound", "MR-like", "true MR"
ITK, ELASTIX, OWN = "SimpleITK", "elastix", "own"
_ENGINES = {ITK: itk_engine.register, ELASTIX: elastix_engine.register, OWN: own_engine.register}
# Points farther than this from where they started lie outside any head: the engine ran away.
_LOST_MM = 60.0


@dataclass(frozen=True)
class Method:
    """moving: which image stands for the ultrasound (US, MADE, FITTED, TRUE). metric, engine: how it is registered."""

    moving: str
    metric: str
    engine: str

    @property
    def name(self) -> str:
        return f"{self.moving}, {self.metric} ({self.engine})"


METHODS = (
    Method(US, MUTUAL, ITK),
    Method(US, LOCAL, ITK),
    Method(US, GRADIENTS, OWN),
    Method(US, MUTUAL, ELASTIX),
    Method(MADE, CORRELATION, ITK),
    Method(MADE, MUTUAL, ITK),
    Method(MADE, CORRELATION, ELASTIX),
    Method(MADE, MUTUAL, ELASTIX),
    Method(FITTED, CORRELATION, ITK),
    Method(FITTED, MUTUAL, ITK),
    Method(FITTED, CORRELATION, ELASTIX),
    Method(FITTED, MUTUAL, ELASTIX),
    Method(TRUE, CORRELATION, ITK),  # what a perfect synthesis would reach
)


def run(
    method: Method, fixed: sitk.Image, mask: sitk.Image, moving: sitk.Image, settings: Settings, *, deformable: bool
) -> tuple[Registered, bool]:
    """What the method found, and whether it failed: then the points stay where they started."""
    try:
        found = _ENGINES[method.engine](fixed, mask, moving, method.metric, settings, deformable=deformable)
    except RuntimeError as error:
        log.info("%s failed: %s", method.name, str(error).splitlines()[-1] if str(error) else "no reason given")
        return Registered(identity, identity if deformable else None, math.nan, math.nan), True
    corner = np.array([fixed.TransformIndexToPhysicalPoint([n // 2 for n in fixed.GetSize()])]) * [-1, -1, 1]
    for mapping in (found.rigid, found.deformable or found.rigid):
        shift = float(np.linalg.norm(mapping(corner) - corner))
        if not shift < _LOST_MM:
            return Registered(identity, identity if deformable else None, found.seconds, math.nan), True
    return found, False
