"""Methods side by side on the same simulated heads: models, and the baselines that expose a memorised atlas.

    copy    the ultrasound itself
    mean    the training heads' mean MR at the position, over those that reach there
    atlas   one training head's MR at the position
    truth   the true MR: the most that can be had of each measure, tissue Dice above all

Per head: NCC, residual NCC, gradient NCC, SSIM and PSNR inside the brain where the beam was; tissue Dice by a segmenter
of true MR; the deformation score of three slices (`deformation.py`); over heads the rank correlation of bright fluid's
volume.  Everything here is simulated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..normalisation.canonical import canonical_axis_mm
from . import deformation, measures, segmenter
from .synthesis import SLICES, Case, Predict, bright_fluid, cases, interval, mean_mr

BASELINES = ("copy", "mean", "atlas", "truth")
BENT_SLICES = (72, 84, 96)
MEASURES = ("ncc", "residual_ncc", "gradient_ncc", "ssim", "psnr", "tissue_dice", "deformation")


def compare(
    simulated: Path,
    split: str,
    train: Path,
    predictions: Mapping[str, Predict],
    *,
    kept: Path,
    progress: Callable[[float, str], None] | None = None,
) -> dict[str, dict[str, list[float]]]:
    """Method -> measure -> [mean, low, high] over the split's heads (95 %, bootstrap over heads), and `volume_rho`.

    train: the split that mean, atlas and segmenter come from; kept: folder in which the segmenter is kept.
    """
    mean, example = mean_mr(train), _middle_head(train)
    network = segmenter.trained(train, kept, progress=progress)
    names = [*BASELINES, *predictions]
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    volumes: dict[str, list[float]] = {name: [] for name in names}
    true_volumes: list[float] = []
    listed = list(cases(simulated / split))
    for index, case in enumerate(listed):
        made = {"copy": case.us.astype(np.float32) / 255, "mean": mean, "atlas": example, "truth": case.t2}
        made |= {name: predict(case) for name, predict in predictions.items()}
        bent = _bent(case, made)
        for name, volume in made.items():
            row = _measured(case, volume, mean, network)
            rows[name].append(row | {"deformation": bent[name]})
            volumes[name].append(bright_fluid(volume, case))
        true_volumes.append(bright_fluid(case.t2, case))
        if progress:
            progress((index + 1) / len(listed), case.name)
    rng = np.random.default_rng(0)
    result: dict[str, dict[str, list[float]]] = {}
    for name in names:
        result[name] = {key: interval(np.array([row[key] for row in rows[name]]), rng) for key in MEASURES}
        result[name]["volume_rho"] = _rho(np.array(volumes[name]), np.array(true_volumes), rng)
    return result


def table(methods: Mapping[str, Mapping[str, list[float]]]) -> str:
    """One method a line, the means of its measures."""
    keys = (*MEASURES, "volume_rho")
    lines = ["method        " + "".join(f"{key:>14s}" for key in keys)]
    lines += [f"{name:14s}" + "".join(f"{row[key][0]:14.3f}" for key in keys) for name, row in methods.items()]
    return "\n".join(lines)


def _middle_head(train: Path) -> np.ndarray:
    """The T2 (0-1) of the training head in the middle of the list, which goes by weeks."""
    paths = sorted(p for p in train.glob("*.npz") if ".partial" not in p.name)
    with np.load(paths[len(paths) // 2]) as file:
        return np.asarray(file["t2"], np.float32) / 255


def _measured(case: Case, volume: np.ndarray, mean: np.ndarray, network: segmenter.Segmenter) -> dict[str, float]:
    some = list(SLICES)
    brain, seen = case.brain[some], (case.brain & case.fan)[some]
    ours, truth = volume[some], case.t2[some]
    found = segmenter.segment(network, np.where(brain, ours, 0), canonical_axis_mm()[some])
    dice = segmenter.tissue_dice(found, case.labels[some], seen)
    error = float(((ours - truth)[seen] ** 2).mean())
    return {
        "ncc": measures.ncc(ours, truth, seen),
        "residual_ncc": measures.residual_ncc(ours, truth, mean[some], seen),
        "gradient_ncc": measures.gradient_ncc(ours, truth, seen),
        "ssim": measures.ssim(ours, truth, seen),
        "psnr": float(-10 * np.log10(max(error, 1e-6))),
        "tissue_dice": float(np.mean(list(dice.values()))),
    }


def _bent(case: Case, made: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Each method's gated deformation score, the mean over the slices."""
    scores: dict[str, list[float]] = {name: [] for name in made}
    for k in BENT_SLICES:
        seen = case.brain[k] & case.fan[k]
        if seen.sum() < 500:
            continue
        inside = case.brain[k]
        bent = {name: deformation.register(volume[k] * inside, case.t2[k] * inside, seen)
                for name, volume in made.items()}  # fmt: skip
        for name, score in deformation.gated(bent).items():
            scores[name].append(score)
    return {name: float(np.mean(values)) if values else float("nan") for name, values in scores.items()}


def _rho(found: np.ndarray, true: np.ndarray, rng: np.random.Generator) -> list[float]:
    """Spearman's rho over heads with its bootstrap interval."""
    draws = [rng.integers(0, len(true), len(true)) for _ in range(500)]
    values = [measures.rank_correlation(found[d], true[d]) for d in draws]
    low, high = np.percentile(values, [2.5, 97.5])
    return [measures.rank_correlation(found, true), float(low), float(high)]


def shares(result: Mapping[str, Any]) -> dict[str, Any]:
    """The summary that is asked for beside the table, from `synthesis.evaluate`'s cases."""
    rows = list(result["per_case"].values())
    return {
        "shift_within_1px_share": float(np.mean([row["shift_within_1px"] for row in rows])),
        "stripe_share": float(np.mean([row["stripe_peak"] > 4 * row["stripe_peak_truth"] for row in rows])),
        "contrast_inverted": bool(np.median([row["ncc"] for row in rows]) < 0),
    }
