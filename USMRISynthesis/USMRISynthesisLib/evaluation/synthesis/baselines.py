"""Methods side by side on the same simulated heads: models, and the baselines that expose a memorised atlas.

    copy    the ultrasound itself
    mean    the training heads' mean MR at the position, over those that reach there
    atlas   one training head's MR at the position
    truth   the true MR: the most that can be had of each measure, tissue Dice above all

Per head: NCC, residual NCC, gradient NCC, SSIM and PSNR inside the brain where the beam was, in axial slices;
`through`, the gradient NCC in coronal and sagittal ones, where a method that works slice by slice is uneven;
tissue Dice by a segmenter of true MR; the deformation score of three slices (`metrics/deformation.py`); LPIPS
(`metrics/lpips.py`) where its weights are installed.  Over heads: the rank correlation of the ventricles' and of the
outer fluid's volume, as the segmenter finds them, with that of the simulator's labels, and the ventricles' median
bias; a kernel distance (KID, Binkowski 2018) of all slices to true MR of the training heads, on the segmenter's
features instead of Inception's, which were trained on photographs.  Everything here is simulated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from USMRISynthesisLib.datasets.simulated import Case, case_files, cases, read_case
from USMRISynthesisLib.evaluation.metrics import deformation, lpips, segmenter
from USMRISynthesisLib.evaluation.metrics import image as image_measures
from USMRISynthesisLib.evaluation.synthesis.evaluate import SLICES as EVALUATED
from USMRISynthesisLib.evaluation.synthesis.evaluate import Predict, interval, mean_mr
from USMRISynthesisLib.geometry.canonical import canonical_axis_mm
from USMRISynthesisLib.geometry.planes import PLANES, to_plane
from USMRISynthesisLib.simulation.anatomy.labels import MASS

SLICES = list(EVALUATED)
BASELINES = ("copy", "mean", "atlas", "truth")
DEFORMATION_SLICES = (72, 84, 96)
MEASURES = ("ncc", "residual_ncc", "gradient_ncc", "through", "ssim", "psnr", "tissue_dice", "deformation")
PERCEPTUAL = "lpips"  # where its weights are installed
OVER_HEADS = ("volume_rho", "csf_rho", "volume_bias", "kid")
REAL_HEADS = 24  # training heads whose MR is what the kernel distance compares with


def compare(
    simulated: Path,
    split: str,
    train: Path,
    predictions: Mapping[str, Predict],
    *,
    kept: Path,
    also: Sequence[Path] = (),
    progress: Callable[[float, str], None] | None = None,
) -> dict[str, dict[str, list[float]]]:
    """Method -> measure -> [mean, low, high] over the split's heads (95 %, bootstrap over heads).

    train: the split that mean, atlas and segmenter come from; also: further splits that the segmenter learns from;
    kept: folder in which the segmenter is kept. LPIPS is among the measures where its weights are installed.
    Raises Failed where these are others.
    """
    lpips_network = lpips.perceptual()
    mean, example = mean_mr(train), _middle_head(train)
    network = segmenter.trained([train, *also], kept, progress=progress)
    real = _real_features(train, network)
    names = [*BASELINES, *predictions]
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    volumes: dict[str, list[tuple[int, int]]] = {name: [] for name in names}
    features: dict[str, list[np.ndarray]] = {name: [] for name in names}
    true_volumes: list[tuple[int, int]] = []
    listed = list(cases(simulated / split))
    for index, case in enumerate(listed):
        made = {"copy": case.us.astype(np.float32) / 255, "mean": mean, "atlas": example, "truth": case.t2}
        made |= {name: predict(case) for name, predict in predictions.items()}
        deformations = _deformation_scores(case, made)
        for name, volume in made.items():
            slices = np.where(case.brain[SLICES], volume[SLICES], 0)
            found = segmenter.segment(network, slices, canonical_axis_mm()[SLICES])
            row = _measured(case, volume, mean, found) | _perceptual(case, volume, lpips_network)
            rows[name].append(row | {"deformation": deformations[name]})
            volumes[name].append(_fluids(found, case))
            features[name].append(segmenter.features(network, slices, canonical_axis_mm()[SLICES]))
        true_volumes.append(_fluids(segmenter.class_map(case.labels[SLICES]), case))
        if progress:
            progress((index + 1) / len(listed), case.name)
    rng = np.random.default_rng(0)
    result: dict[str, dict[str, list[float]]] = {}
    for name in names:
        result[name] = {key: interval(np.array([row[key] for row in rows[name]]), rng) for key in rows[name][0]}
        result[name] |= _over_heads(np.array(volumes[name], float), np.array(true_volumes, float), features[name], real)
    return result


def table(methods: Mapping[str, Mapping[str, list[float]]]) -> str:
    """One method a line, the means of its measures."""
    keys = columns(methods)
    lines = ["method        " + "".join(f"{key:>14s}" for key in keys)]
    lines += [f"{name:14s}" + "".join(f"{row[key][0]:14.3f}" for key in keys) for name, row in methods.items()]
    return "\n".join(lines)


def columns(methods: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    """The measures there are, in the tables' order."""
    there = next(iter(methods.values()))
    return [key for key in (*MEASURES, PERCEPTUAL, *OVER_HEADS) if key in there]


def _middle_head(train: Path) -> np.ndarray:
    """The T2 (0-1) of the training head in the middle of the list, which goes by weeks."""
    paths = case_files(train)
    return read_case(paths[len(paths) // 2]).t2


def _measured(case: Case, volume: np.ndarray, mean: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """found: the tissues that the segmenter finds in the volume's slices."""
    some = SLICES
    seen = (case.brain & case.fan)[some]
    ours, truth = volume[some], case.t2[some]
    labels = case.labels[some]
    dice = segmenter.tissue_dice(found, labels, seen & (labels != MASS))  # a mass is none of the tissues
    error = float(((ours - truth)[seen] ** 2).mean())
    return {
        "ncc": image_measures.ncc(ours, truth, seen),
        "residual_ncc": image_measures.residual_ncc(ours, truth, mean[some], seen),
        "gradient_ncc": image_measures.gradient_ncc(ours, truth, seen),
        "through": through_planes(case, volume),
        "ssim": image_measures.ssim(ours, truth, seen),
        "psnr": float(-10 * np.log10(max(error, 1e-6))),
        "tissue_dice": float(np.mean(list(dice.values()))),
    }


def _perceptual(case: Case, volume: np.ndarray, lpips_network: lpips.Perceptual | None) -> dict[str, float]:
    """LPIPS of the axial slices, black beside the brain where the beam was; nothing without its weights."""
    if lpips_network is None:
        return {}
    return {PERCEPTUAL: lpips.lpips(lpips_network, volume[SLICES], case.t2[SLICES], (case.brain & case.fan)[SLICES])}


def through_planes(case: Case, volume: np.ndarray) -> float:
    """Gradient NCC in the coronal and sagittal slices, their mean."""
    views = [[to_plane(values, plane)[SLICES] for values in (volume, case.t2, case.brain & case.fan)]
             for plane in PLANES[1:]]  # fmt: skip
    return float(np.mean([image_measures.gradient_ncc(*view) for view in views]))


def _deformation_scores(case: Case, made: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Each method's gated deformation score, the mean over the slices."""
    scores: dict[str, list[float]] = {name: [] for name in made}
    for k in DEFORMATION_SLICES:
        seen = case.brain[k] & case.fan[k]
        if seen.sum() < 500:
            continue
        inside = case.brain[k]
        deformations = {name: deformation.register(volume[k] * inside, case.t2[k] * inside, seen)
                for name, volume in made.items()}  # fmt: skip
        for name, score in deformation.penalised_scores(deformations).items():
            scores[name].append(score)
    return {name: float(np.mean(values)) if values else float("nan") for name, values in scores.items()}


def _fluids(found: np.ndarray, case: Case) -> tuple[int, int]:
    """Voxels of ventricles and of outer fluid among class numbers of the evaluated slices, where the beam was."""
    seen, names = (case.brain & case.fan)[SLICES], list(segmenter.CLASSES)
    numbers = (1 + names.index(name) for name in ("ventricles", "external CSF"))
    ventricles, outer = (int(((found == number) & seen).sum()) for number in numbers)
    return ventricles, outer


def _real_features(train: Path, network: segmenter.Segmenter) -> np.ndarray:
    """The segmenter's features of true MR slices of the first training heads."""
    made = [segmenter.features(network, np.where(case.brain[SLICES], case.t2[SLICES], 0), canonical_axis_mm()[SLICES])
            for _, case in zip(range(REAL_HEADS), cases(train), strict=False)]  # fmt: skip
    return np.concatenate(made)


def _over_heads(
    found: np.ndarray, true: np.ndarray, features: Sequence[np.ndarray], real: np.ndarray
) -> dict[str, list[float]]:
    """[value, low, high] of what only a set of heads has; found, true (heads, 2): ventricles and outer fluid."""
    rng = np.random.default_rng(0)
    draws = [np.arange(len(true)), *(rng.integers(0, len(true), len(true)) for _ in range(500))]

    def spread(value: Callable[[np.ndarray], float], count: int) -> list[float]:
        values = [value(draw) for draw in draws[: count + 1]]
        low, high = np.percentile(values[1:], [2.5, 97.5])
        return [values[0], min(float(low), values[0]), max(float(high), values[0])]

    return {
        "volume_rho": spread(lambda some: image_measures.rank_correlation(found[some, 0], true[some, 0]), 500),
        "csf_rho": spread(lambda some: image_measures.rank_correlation(found[some, 1], true[some, 1]), 500),
        "volume_bias": spread(lambda some: float(np.median(found[some, 0] / np.maximum(true[some, 0], 1) - 1)), 500),
        "kid": image_measures.kernel_distance_of(features, real),
    }


def shares(result: Mapping[str, Any]) -> dict[str, Any]:
    """The summary beside the table, from `synthesis.evaluate`'s cases."""
    rows = list(result["per_case"].values())
    return {
        "shift_within_1px_share": float(np.mean([row["shift_within_1px"] for row in rows])),
        "stripe_share": float(np.mean([row["stripe_peak"] > 4 * row["stripe_peak_truth"] for row in rows])),
        "contrast_inverted": bool(np.median([row["ncc"] for row in rows]) < 0),
    }
