"""Evaluation of the reliability map: does it find where the MR-like image is wrong?  Simulated heads, true MR known.

A voxel is wrong as defined in `synthesis/reliability.py`: its grey is off by more than 0.15 of the brightest fluid's,
smoothed, once the whole brain's mean is the truth's. The beam's own answer, and the output's gradient, are measured
beside it: a map must beat what costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from USMRISynthesisLib.datasets.simulated import cases
from USMRISynthesisLib.evaluation.metrics.image import auc, rank_correlation
from USMRISynthesisLib.evaluation.synthesis.evaluate import interval
from USMRISynthesisLib.geometry.canonical import canonical_axis_mm
from USMRISynthesisLib.synthesis.engine import load_generator
from USMRISynthesisLib.synthesis.multiplane import combined, run_planes
from USMRISynthesisLib.synthesis.reliability import WRONG, error_of, reliability_and_size, spread_of
from USMRISynthesisLib.ultrasound.intensity import normalise_ultrasound

SLICES = np.arange(40, 124, 4)
BINS = 5


def evaluate(
    folder: Path, model: str, device: str = "auto", *, planes: str = "axial",
    progress: Callable[[float, str], None] | None = None,
) -> dict[str, Any] | None:  # fmt: skip
    """Figures over the cases of a folder at their true pose; None if the model has no reliability map.

    support_auc: over all voxels of the brain in the beam, with its 95 % interval over heads; support_auc_head: mean of
    single heads. support_calibration: for each fifth of the scale [predicted, found, share of voxels].
    support_error_rho: over heads, rank correlation between the share that it doubts and the share that is wrong.
    support_gradient_auc, support_spread_auc: what the output's own gradient magnitude and, with several planes, their
    disagreement reach alone. support_by_anomaly: mean doubt, mean wrong.
    """
    generator = load_generator(model, device)
    if generator.reliability is None:
        return None
    form = generator.manifest.input
    doubts, wrongs, gradients, spreads, heads = [], [], [], [], []
    listed = list(cases(folder))
    for index, case in enumerate(listed):
        us = normalise_ultrasound(case.us, case.fan, form.exponent)
        made = run_planes(generator, us, canonical_axis_mm(), planes=planes)
        mr = combined(made, us, generator.fusion, device=generator.device)
        spread = spread_of(made)
        brain = case.brain & case.fan
        inside = brain[SLICES]
        predicted, _ = reliability_and_size(generator.reliability, us, mr, spread, brain, device=generator.device)
        doubts.append(1 - predicted[SLICES][inside])
        wrongs.append(error_of((mr + 1) / 2, case.t2, brain)[SLICES][inside] > WRONG)
        edges = [ndimage.gaussian_gradient_magnitude(mr[k].astype(float), 1.5) for k in SLICES]
        gradients.append(np.stack(edges)[inside])
        if spread is not None:
            spreads.append(ndimage.gaussian_filter(spread, 1.5)[SLICES][inside])
        heads.append({"anomaly": case.anomaly, "doubt": float(doubts[-1].mean()), "wrong": float(wrongs[-1].mean())})
        if progress:
            progress((index + 1) / len(listed), case.name)
    predicted, found = np.concatenate(doubts), np.concatenate(wrongs)
    single = np.array([auc(d, w) for d, w in zip(doubts, wrongs, strict=True)])
    return {
        "support_auc": [auc(predicted, found), *_over_heads(doubts, wrongs)],
        "support_auc_head": interval(single, np.random.default_rng(0)),
        "support_gradient_auc": auc(np.concatenate(gradients), found),
        "support_spread_auc": auc(np.concatenate(spreads), found) if spreads else None,
        "support_wrong_share": float(found.mean()),
        "support_calibration": _calibration(predicted, found),
        "support_error_rho": _rho(heads),
        "support_by_anomaly": _by_anomaly(heads),
    }


def table(figures: Mapping[str, Any]) -> str:
    """The figures as text."""
    value, low, high = figures["support_auc"]
    lines = [
        "reliability map: does it find where the grey is wrong? (simulated)",
        f"AUC over voxels             {value:.3f}   [{low:.3f}, {high:.3f}]; single heads "
        f"{figures['support_auc_head'][0]:.3f}; the output's gradient alone {figures['support_gradient_auc']:.3f}"
        + ("" if figures["support_spread_auc"] is None else f", the planes' {figures['support_spread_auc']:.3f}"),
        f"wrong voxels                {figures['support_wrong_share']:.3f}; rank correlation over heads of doubted and "
        f"wrong shares {figures['support_error_rho']:.2f}",
        "predicted / found wrong     " + ", ".join(f"{s:.2f} / {f:.2f} ({n:.0%})"
                                                   for s, f, n in figures["support_calibration"]),
    ]  # fmt: skip
    lines += [
        f"{kind:18s} {row['heads']:.0f} heads: doubted {row['doubt']:.3f}, wrong {row['wrong']:.3f}"
        for kind, row in figures["support_by_anomaly"].items()
    ]
    return "\n".join(lines)


def _over_heads(doubts: list[np.ndarray], wrongs: list[np.ndarray]) -> list[float]:
    """95 % interval of the pooled AUC, bootstrap over heads; of every fiftieth voxel, which is plenty."""
    rng = np.random.default_rng(0)
    thin = [(d[::50], w[::50]) for d, w in zip(doubts, wrongs, strict=True)]
    values = []
    for _ in range(200):
        some = rng.integers(0, len(thin), len(thin))
        values.append(auc(np.concatenate([thin[n][0] for n in some]), np.concatenate([thin[n][1] for n in some])))
    return [float(v) for v in np.percentile(values, [2.5, 97.5])]


def _calibration(predicted: np.ndarray, found: np.ndarray) -> list[list[float]]:
    """[mean probability of being wrong, share that is wrong, share of voxels] of each fifth of the scale."""
    part = np.minimum((predicted * BINS).astype(int), BINS - 1)
    return [[float(predicted[part == n].mean()), float(found[part == n].mean()), float((part == n).mean())]
            for n in range(BINS) if (part == n).any()]  # fmt: skip


def _rho(heads: list[dict[str, Any]]) -> float:
    return rank_correlation(*(np.array([head[key] for head in heads]) for key in ("doubt", "wrong")))


def _by_anomaly(heads: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    kinds = sorted({head["anomaly"] for head in heads})
    result = {}
    for kind in kinds:
        chosen = [head for head in heads if head["anomaly"] == kind]
        result[kind] = {"heads": float(len(chosen))} | {
            key: float(np.mean([head[key] for head in chosen])) for key in ("doubt", "wrong")
        }
    return result
