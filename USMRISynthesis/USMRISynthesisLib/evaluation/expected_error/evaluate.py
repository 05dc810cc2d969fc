"""Fit the expected error on simulated heads whose true MR is known, and test it on heads of other weeks or simulators.

Slices are ranked and covered one by one; wholes are few, and counted beside them. The poses are the true ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import lsq_linear

from USMRISynthesisLib.callbacks import Progress
from USMRISynthesisLib.datasets.simulated import case_files, read_case
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.evaluation.metrics.image import rank_correlation
from USMRISynthesisLib.geometry.canonical import canonical_axis_mm
from USMRISynthesisLib.synthesis.engine import LoadedGenerator, load_generator
from USMRISynthesisLib.synthesis.expected_error import (
    FEWEST,
    GREY,
    NAMES,
    RISING,
    Calibration,
    Features,
    Fit,
    Whole,
    features_of,
)
from USMRISynthesisLib.synthesis.multiplane import combined, run_planes
from USMRISynthesisLib.synthesis.reliability import error_of, reliability_and_size, spread_of
from USMRISynthesisLib.ultrasound.intensity import normalise_ultrasound

COVERED = 0.9
KINDS = ("one", "several")
RIDGE = 0.02  # of the standardised features, as a share of the slices


@dataclass(frozen=True, eq=False)
class Head:
    """One simulated head: features, and the true error of the same slices in grey levels, (n,); whole: of all."""

    name: str
    features: Features
    error: np.ndarray
    whole: float


def measure(
    folders: Sequence[Path], model: str, device: str = "auto", *, limit: int | None = None,
    progress: Progress | None = None,
) -> dict[str, list[Head]]:  # fmt: skip
    """The heads of these folders by "one" (axial slices) and "several" (three planes, if the model takes them).

    limit: heads of each folder, evenly chosen. Raises Refused (no cases, or a model without a reliability map).
    """
    generator = load_generator(model, device)
    if generator.reliability is None:
        raise Refused("model", f"The model {generator.manifest.name!r} has no reliability map.", "Choose another one.")
    paths = [path for folder in folders for path in _even(case_files(folder), limit)]
    found: dict[str, list[Head]] = {kind: [] for kind in KINDS}
    for n, path in enumerate(paths):
        for kind, head in _heads(generator, path).items():
            found[kind].append(head)
        if progress is not None:
            progress((n + 1) / len(paths), f"Measuring {path.stem}")
    return found


def _even(paths: list[Path], limit: int | None) -> list[Path]:
    if limit is None or limit >= len(paths):
        return paths
    return [paths[n] for n in np.linspace(0, len(paths) - 1, limit).round().astype(int)]


def _heads(generator: LoadedGenerator, path: Path) -> dict[str, Head]:
    case, z_mm = read_case(path), canonical_axis_mm()
    us = normalise_ultrasound(case.us, case.fan, generator.manifest.input.exponent)
    several = len(generator.manifest.input.planes) > 1
    made = run_planes(generator, us, z_mm, planes="all" if several else "axial", inside=case.fan)
    outputs = {"one": {"axial": made["axial"]}} | ({"several": made} if several else {})
    found = {}
    for kind, planes in outputs.items():
        assert generator.reliability is not None
        mr, spread = combined(planes, us, generator.fusion, device=generator.device), spread_of(planes)
        _, size = reliability_and_size(generator.reliability, us, mr, spread, case.fan, device=generator.device)
        if size is None:
            raise Refused("model", "This model's reliability map gives no size of an error.", "Export the map anew.")
        features = features_of(size, mr, case.fan)
        brain = case.brain & case.fan
        off = error_of((mr + 1) / 2, case.t2, brain) * GREY
        if features is None:
            continue
        true = brain.sum(axis=(1, 2))[features.slices]
        keep = true >= FEWEST
        some = features.slices[keep]
        error = (off * brain).sum(axis=(1, 2))[some] / true[keep]
        kept = Features(some, features.values[keep], features.voxels[keep])
        found[kind] = Head(case.name, kept, error, float(off[brain].mean()))
    return found


def fit(heads: dict[str, list[Head]]) -> Calibration:
    """Ridge regression of the logarithms; intervals from the residuals. Raises Refused with too few heads."""
    if len(heads["one"]) < 3:
        raise Refused("data", "At least three simulated heads are needed for a calibration.", "Give more cases.")
    pairs = {}
    for kind in KINDS:
        some = heads[kind] or heads["one"]
        slices = _fit(np.concatenate([h.features.values for h in some]), np.concatenate([h.error for h in some]))
        made = [np.average(slices.predict(h.features.values)[:, 0], weights=h.features.voxels) for h in some]
        left = np.log([h.whole for h in some]) - np.log(made)
        middle = float(np.median(left))
        # The quantiles of few heads are too narrow: the conformal ones, which are the ends where heads are few.
        low, high = _ends(left - middle)
        pairs[kind] = slices, Whole(float(np.exp(middle)), float(np.exp(low)), float(np.exp(high)))
    return Calibration(pairs["one"], pairs["several"])


def _fit(values: np.ndarray, error: np.ndarray) -> Fit:
    """values: (n, features) of all slices."""
    middle, scale = values.mean(axis=0), values.std(axis=0)
    x, y = (values - middle) / np.where(scale > 0, scale, 1), np.log(np.maximum(error, 0.1))
    features = x.shape[1]
    x = np.concatenate([x, np.sqrt(RIDGE * len(x)) * np.eye(features)])
    lowest = np.where([name in RISING for name in NAMES], 0, -np.inf)
    solved = lsq_linear(x, np.concatenate([y - y.mean(), np.zeros(features)]), bounds=(lowest, np.inf)).x
    weights = solved / np.where(scale > 0, scale, 1)
    low, high = _ends(y - y.mean() - x[: len(y)] @ solved)
    return Fit(
        float(y.mean() - middle @ weights), tuple(weights.tolist()), tuple(values.min(axis=0).tolist()),
        tuple(values.max(axis=0).tolist()), float(np.exp(low)), float(np.exp(high)),
    )  # fmt: skip


def _ends(residuals: np.ndarray) -> tuple[float, float]:
    """Below and above which a twentieth of new residuals lies, of exchangeable ones (conformal prediction)."""
    ordered, n = np.sort(residuals), len(residuals)
    at = int(np.floor((1 - COVERED) / 2 * (n + 1)))
    return float(ordered[max(at - 1, 0)]), float(ordered[min(n - at, n - 1)])


def tested(heads: dict[str, list[Head]], calibration: Calibration) -> dict[str, dict[str, float]]:
    """Of "one" and "several": rank correlation over slices with the true error, and within single heads; coverage of
    the 90 % interval; mean true and expected error in grey levels; of whole heads the same."""
    result = {}
    for kind in KINDS:
        if not heads[kind]:
            continue
        of_slice, of_whole = calibration.one if kind == "one" else calibration.several
        rows = [of_slice.predict(h.features.values) for h in heads[kind]]
        made, true = np.concatenate(rows), np.concatenate([h.error for h in heads[kind]])
        wholes = np.array(
            [of_whole.predict(row[:, 0], h.features.voxels) for row, h in zip(rows, heads[kind], strict=True)]
        )
        errors = np.array([h.whole for h in heads[kind]])
        alone = [rank_correlation(row[:, 0], h.error) for row, h in zip(rows, heads[kind], strict=True)]
        result[kind] = {
            "heads": float(len(errors)),
            "slices": float(len(true)),
            "slice_rank_correlation": rank_correlation(made[:, 0], true),
            "slice_rank_correlation_within_heads": float(np.mean(alone)),
            "slice_coverage": _coverage(made, true),
            "slice_error_grey": float(true.mean()),
            "slice_expected_grey": float(made[:, 0].mean()),
            "head_rank_correlation": rank_correlation(wholes[:, 0], errors) if len(errors) > 2 else float("nan"),
            "head_coverage": _coverage(wholes, errors),
            "head_error_grey": float(errors.mean()),
            "head_expected_grey": float(wholes[:, 0].mean()),
        }
    return result


def _coverage(made: np.ndarray, true: np.ndarray) -> float:
    return float(((true >= made[:, 1]) & (true <= made[:, 2])).mean())


def table(result: dict[str, Any]) -> str:
    """As text."""
    lines = []
    for folder, kinds in result["tested"].items():
        for kind, row in kinds.items():
            lines.append(
                f"{folder}, {kind} plane(s), {row['heads']:.0f} heads, {row['slices']:.0f} slices: rank correlation "
                f"{row['slice_rank_correlation']:.2f} (within heads {row['slice_rank_correlation_within_heads']:.2f}), "
                f"coverage {row['slice_coverage']:.0%}, error {row['slice_error_grey']:.1f}, expected "
                f"{row['slice_expected_grey']:.1f} grey levels; whole heads: {row['head_rank_correlation']:.2f}, "
                f"{row['head_coverage']:.0%}"
            )
    return "\n".join(lines)
