"""Expected error of the MR-like grey, one calibrated number for each slice and for the whole.

It is read from the error's size that the reliability map's network expects, and from how large a slice's brain is: a
regression of the logarithm of the error, fitted on simulated heads that no network learnt from
(`usmri evaluate expected-error`), with an interval that holds nine of ten errors there. Real ultrasound is not among
them, and a head that was not found reliably gets no number: its error is not in the map.

The error is the mean over a slice's brain of |grey - true grey| on 0-255, as `reliability.error_of` has it: smoothed,
the whole brain's mean grey matched.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from USMRISynthesisLib.models.manifest import Manifest
from USMRISynthesisLib.synthesis.reliability import BRAIN

FILE = "expected_error.json"
VERSION = 2
GREY = 255.0
FEWEST = 200  # voxels of brain from which a slice has a number
LOW, MODERATE = 10.0, 20.0  # grey levels up to which an error is called low, and moderate
MEANING = "mean absolute error of the grey, 0-255, estimated; calibrated on simulated heads"
# What a slice's error is read from, in the order of `Features.values` and `Fit.weights`.
NAMES = ("size", "area")
RISING = ("size",)  # more of these never means a smaller error
_FLOOR = 1e-3


@dataclass(frozen=True)
class Fit:
    """log(error) = intercept + sum of weights * features, of features kept within `lowest` and `highest`, the ranges
    that were fitted; low, high: factors of the 90 % interval. weights, lowest, highest: as NAMES."""

    intercept: float
    weights: tuple[float, ...]
    lowest: tuple[float, ...]
    highest: tuple[float, ...]
    low: float
    high: float

    def predict(self, values: np.ndarray) -> np.ndarray:
        """(n, features) -> (n, 3): expected error and its interval, grey levels."""
        log = self.intercept + np.clip(values, self.lowest, self.highest) @ np.array(self.weights)
        return np.minimum(np.exp(log)[:, None] * [1.0, self.low, self.high], GREY)


@dataclass(frozen=True)
class Whole:
    """A head's error = factor * the mean of its slices' expected errors; low, high: as of `Fit`."""

    factor: float
    low: float
    high: float

    def predict(self, slices: np.ndarray, voxels: np.ndarray) -> np.ndarray:
        """(n,) expected errors and voxels of the slices -> (3,): expected error and its interval, grey levels."""
        middle = self.factor * float(np.average(slices, weights=voxels))
        return np.minimum(middle * np.array([1.0, self.low, self.high]), GREY)


@dataclass(frozen=True)
class Calibration:
    """For MR of one plane and of several: the fit of a slice, and that of a whole head."""

    one: tuple[Fit, Whole]
    several: tuple[Fit, Whole]


@dataclass(frozen=True, eq=False)
class Features:
    """Of the n slices with enough brain: which, (n,); values (n, features) as NAMES; voxels of brain, (n,)."""

    slices: np.ndarray
    values: np.ndarray
    voxels: np.ndarray


def features_of(size: np.ndarray, mr: np.ndarray, inside: np.ndarray) -> Features | None:
    """Of the MR-like brain of each axial slice; None where no slice has enough.

    size: the error's expected size, 0-1 (`reliability.reliability_and_size`); mr in [-1, 1]; inside: head and beam; all
    (K, H, W) of canonical space. The features are the logarithms of the mean size and of the voxels of brain, a share
    of the largest slice's.
    """
    brain = inside & (mr > BRAIN)
    voxels = brain.sum(axis=(1, 2))
    some = np.flatnonzero(voxels >= FEWEST)
    if not len(some):
        return None
    mean = (size[some] * brain[some]).sum(axis=(1, 2), dtype=float) / voxels[some]
    columns = {"size": np.log(mean + _FLOOR), "area": np.log(voxels[some] / voxels.max())}
    return Features(some, np.stack([columns[name] for name in NAMES], axis=1), voxels[some])


def estimate(features: Features, calibration: Calibration, *, several: bool, z_mm: np.ndarray) -> dict[str, Any]:
    """The expected error as plain values: of the whole, and of each slice by its place in canonical space."""
    of_slice, of_whole = calibration.several if several else calibration.one
    made = of_slice.predict(features.values)[:, 0]
    grey, low, high = (float(one) for one in of_whole.predict(made, features.voxels))
    return {
        "meaning": MEANING,
        "whole": round(grey, 1),
        "interval": [round(low, 1), round(high, 1)],
        "word": word(grey),
        "slices": [
            {"z_mm": round(float(z_mm[k]), 1), "grey": round(float(one), 1), "word": word(float(one))}
            for k, one in zip(features.slices, made, strict=True)
        ],
    }


def word(grey: float) -> str:
    """ "low", "moderate" or "high"."""
    return "low" if grey <= LOW else "moderate" if grey <= MODERATE else "high"


def read_calibration(folder: Path, manifest: Manifest) -> Calibration | None:
    """The calibration beside a model's weights; None without one, and where it was fitted for other weights."""
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if (content["version"], content["weights"], content["names"]) != (VERSION, weights_of(manifest), list(NAMES)):
            return None
        return Calibration(*(_read(content[kind]) for kind in ("one", "several")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read(content: dict[str, Any]) -> tuple[Fit, Whole]:
    """Raises ValueError, KeyError, TypeError: it is damaged."""
    part, whole = content["slice"], Whole(**{name: float(one) for name, one in content["whole"].items()})
    weights, lowest, highest = (tuple(map(float, part[name])) for name in ("weights", "lowest", "highest"))
    fit = Fit(float(part["intercept"]), weights, lowest, highest, float(part["low"]), float(part["high"]))
    columns = (fit.weights, fit.lowest, fit.highest)
    numbers = [fit.intercept, fit.low, fit.high, *vars(whole).values(), *(one for column in columns for one in column)]
    if any(len(column) != len(NAMES) for column in columns) or not np.isfinite(numbers).all():
        raise ValueError("damaged")
    return fit, whole


def weights_of(manifest: Manifest) -> dict[str, str | None]:
    """The hashes of the networks that a calibration is valid for."""
    return {"generator": manifest.sha256} | {
        name: (manifest.extra.get(name) or {}).get("sha256") for name in ("support", "fusion")
    }


def calibration_text(calibration: Calibration, manifest: Manifest, fitted_on: str) -> str:
    """What `read_calibration` reads."""
    kinds = {"one": calibration.one, "several": calibration.several}
    content = {"version": VERSION, "weights": weights_of(manifest), "fitted_on": fitted_on, "names": NAMES} | {
        kind: {"slice": vars(pair[0]), "whole": vars(pair[1])} for kind, pair in kinds.items()
    }
    return json.dumps(content, indent=1) + "\n"
