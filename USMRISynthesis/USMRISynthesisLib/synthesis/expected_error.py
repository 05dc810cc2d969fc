"""Expected error of the MR-like grey, one calibrated number for each slice and for the whole.

It is read from the reliability map and from the planes' disagreement: a regression of the logarithm of the error on
those of the mean doubt and of the mean spread, fitted on simulated heads that no network learnt from
(`usmri evaluate expected-error`), with an interval that holds nine of ten errors there. Real ultrasound is not among
them, and a head that was not found reliably gets no number: its error is not in the map.

The error is the mean over a slice's brain of |grey - true grey| on 0-255, as `reliability.error_of` has it: smoothed,
the whole brain's mean grey matched.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from USMRISynthesisLib.models.manifest import Manifest
from USMRISynthesisLib.synthesis.reliability import BRAIN

FILE = "expected_error.json"
VERSION = 1
GREY = 255.0
FEWEST = 200  # voxels of brain from which a slice has a number
LOW, MODERATE = 10.0, 20.0  # grey levels up to which an error is called low, and moderate
MEANING = "mean absolute error of the grey, 0-255, estimated; calibrated on simulated heads"
_FLOOR = 1e-3


@dataclass(frozen=True)
class Fit:
    """log(error) = intercept + doubt * log(mean doubt) + spread * log(mean spread); low, high: factors of the 90 %
    interval."""

    intercept: float
    doubt: float
    spread: float
    low: float
    high: float

    def predict(self, doubt: float, spread: float) -> tuple[float, float, float]:
        """Expected error and its interval, grey levels."""
        log = self.intercept + self.doubt * math.log(doubt + _FLOOR) + self.spread * math.log(spread + _FLOOR)
        grey = math.exp(log)
        return min(grey, GREY), min(grey * self.low, GREY), min(grey * self.high, GREY)


@dataclass(frozen=True)
class Calibration:
    """For MR of one plane and of several: the fit of a slice, and that of a whole head."""

    one: tuple[Fit, Fit]
    several: tuple[Fit, Fit]


@dataclass(frozen=True, eq=False)
class Features:
    """Of the slices with enough brain, all (n,): which; mean doubt; mean spread, 0 for one plane; voxels."""

    slices: np.ndarray
    doubt: np.ndarray
    spread: np.ndarray
    voxels: np.ndarray

    @property
    def whole(self) -> tuple[float, float]:
        """Mean doubt and mean spread of all of them."""
        return tuple(float(np.average(values, weights=self.voxels)) for values in (self.doubt, self.spread))  # type: ignore[return-value]


def features_of(
    reliability: np.ndarray, mr: np.ndarray, spread: np.ndarray | None, inside: np.ndarray
) -> Features | None:
    """Means over the MR-like brain of each axial slice; None where no slice has enough.

    reliability: probability that the grey is right; mr in [-1, 1]; spread: `reliability.spread_of`; inside: head and
    beam; all (K, H, W) of canonical space.
    """
    brain = inside & (mr > BRAIN)
    voxels = brain.sum(axis=(1, 2))
    some = np.flatnonzero(voxels >= FEWEST)
    if not len(some):
        return None
    doubt = ((1 - reliability) * brain).sum(axis=(1, 2))[some] / voxels[some]
    apart = np.zeros(len(some)) if spread is None else (spread * brain).sum(axis=(1, 2))[some] / voxels[some]
    return Features(some, doubt, apart, voxels[some])


def estimate(features: Features, calibration: Calibration, *, several: bool, z_mm: np.ndarray) -> dict[str, Any]:
    """The expected error as plain values: of the whole, and of each slice by its place in canonical space."""
    of_slice, of_whole = calibration.several if several else calibration.one
    grey, low, high = of_whole.predict(*features.whole)
    rows = []
    for k, doubt, spread in zip(features.slices, features.doubt, features.spread, strict=True):
        one = of_slice.predict(float(doubt), float(spread))
        rows.append({"z_mm": round(float(z_mm[k]), 1), "grey": round(one[0], 1), "word": word(one[0])})
    return {
        "meaning": MEANING,
        "whole": round(grey, 1),
        "interval": [round(low, 1), round(high, 1)],
        "word": word(grey),
        "slices": rows,
    }


def word(grey: float) -> str:
    """ "low", "moderate" or "high"."""
    return "low" if grey <= LOW else "moderate" if grey <= MODERATE else "high"


def read_calibration(folder: Path, manifest: Manifest) -> Calibration | None:
    """The calibration beside a model's weights; None without one, and where it was fitted for other weights."""
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if content["version"] != VERSION or content["weights"] != weights_of(manifest):
            return None
        one, several = ((Fit(**content[kind]["slice"]), Fit(**content[kind]["whole"])) for kind in ("one", "several"))
        found = Calibration(one, several)
        numbers = [value for pair in (one, several) for fit in pair for value in vars(fit).values()]
        return found if all(math.isfinite(float(value)) for value in numbers) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def weights_of(manifest: Manifest) -> dict[str, str | None]:
    """The hashes of the networks that a calibration is valid for."""
    return {"generator": manifest.sha256} | {
        name: (manifest.extra.get(name) or {}).get("sha256") for name in ("support", "fusion")
    }


def calibration_text(calibration: Calibration, manifest: Manifest, fitted_on: str) -> str:
    """What `read_calibration` reads."""
    kinds = {"one": calibration.one, "several": calibration.several}
    content = {"version": VERSION, "weights": weights_of(manifest), "fitted_on": fitted_on} | {
        kind: {"slice": vars(pair[0]), "whole": vars(pair[1])} for kind, pair in kinds.items()
    }
    return json.dumps(content, indent=1) + "\n"
