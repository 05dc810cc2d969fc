"""`usmri evaluate synthesis`: a model on simulated cases of unseen weeks, against the truth and the mean MR.

Everything here is simulated and printed as such.  Cases come from `usmri simulate`; the mean MR at each
position is that of the training split, so it contains nothing of the evaluated weeks.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from USMRISynthesisLib.datasets.simulated import Case, cases
from USMRISynthesisLib.evaluation.metrics import image as image_measures
from USMRISynthesisLib.evaluation.synthesis.frame_prediction import PredictFrame, mean_frame, measure_frames
from USMRISynthesisLib.geometry.canonical import HEAD_LENGTH_MM, SIZE, canonical_axis_mm, canonical_ijk_to_ras
from USMRISynthesisLib.geometry.planes import PLANES, to_plane

SLICES = range(44, 117, 4)  # slices that hold brain, in every plane
_BOOTSTRAPS = 500


def mean_mr(folder: Path) -> np.ndarray:
    """Mean T2 (160, 160, 160), 0-1, of a split at every canonical position, over the heads that reach there.

    Without that condition the rim would be half background, and the baseline easy to beat.
    """
    total = np.zeros((SIZE,) * 3, np.float64)
    count = np.zeros((SIZE,) * 3, np.float64)
    for case in cases(folder):
        total += case.t2
        count += case.t2 > 0
    return np.asarray(total / np.maximum(count, 1), np.float32)


Predict = Callable[[Case], np.ndarray]


def canonical_prediction(model: str, device: str = "auto", planes: str = "axial") -> Predict:
    """The generator alone, on the true canonical pose: what the training can reach."""
    from USMRISynthesisLib.synthesis.engine import load_generator
    from USMRISynthesisLib.synthesis.multiplane import combined, run_planes
    from USMRISynthesisLib.ultrasound.intensity import normalise_ultrasound

    generator = load_generator(model, device)

    def predict(case: Case) -> np.ndarray:
        us = normalise_ultrasound(case.us, case.fan, generator.manifest.input.exponent)
        made = run_planes(generator, us, canonical_axis_mm(), planes=planes)
        out = combined(made, us, generator.fusion, device=generator.device)
        return np.asarray((out + 1) / 2)

    return predict


def single_slices_prediction(model: str, device: str = "auto") -> Predict:
    """The generator on every axial slice by itself, as on a 2D frame: what is left without the neighbours."""
    from USMRISynthesisLib.synthesis.engine import load_generator
    from USMRISynthesisLib.synthesis.multiplane import run_planes
    from USMRISynthesisLib.ultrasound.intensity import normalise_ultrasound

    generator = load_generator(model, device)

    def predict(case: Case) -> np.ndarray:
        us, z_mm = normalise_ultrasound(case.us, case.fan, generator.manifest.input.exponent), canonical_axis_mm()
        made = [run_planes(generator, us[k : k + 1], z_mm[k : k + 1])["axial"] for k in range(len(us))]
        return np.asarray((np.concatenate(made) + 1) / 2)

    return predict


def pipeline_prediction(model: str, device: str = "auto", planes: str = "axial") -> Predict:
    """The whole product: gate, estimated alignment, synthesis, back onto the input's grid."""
    from USMRISynthesisLib.io.volume import Volume
    from USMRISynthesisLib.synthesis.pipeline import synthesize

    def predict(case: Case) -> np.ndarray:
        to_physical = np.diag([1 / case.scale] * 3 + [1.0])
        volume = Volume(case.us, to_physical @ canonical_ijk_to_ras())
        made = synthesize(volume, model=model, device=device, planes=planes, unreliable=True)
        return made.mr.array.astype(np.float32) / 1000

    return predict


def fitted_prediction(data: Path) -> Predict:
    """The fitted atlas: the average of the week whose heads are as long as the case's, scaled to its skull.

    The case's own week is left out: its head was made from that very average.
    """
    from USMRISynthesisLib.evaluation.real.fitted_atlas import atlas_of_length
    from USMRISynthesisLib.simulation.anatomy.atlas import week_of

    def predict(case: Case) -> np.ndarray:
        return atlas_of_length(data, HEAD_LENGTH_MM / case.scale, without=week_of(case.name)).astype(np.float32)

    return predict


def evaluate(
    simulated: Path,
    predict: Predict,
    *,
    split: str = "val",
    train: Path | None = None,
    predict_frame: PredictFrame | None = None,
    fitted: Predict | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> dict[str, Any]:
    """Measures a case, their means with 95 % bootstrap intervals over cases, and the baselines' own.

    train: the split whose mean MR is the baseline, where it is not beside the other.
    predict_frame: also measure the cases' simulated 2D frames (keys frame_*), where they hold any.
    fitted: also measure this baseline, `fitted_prediction` (keys *_fitted_atlas).

    Returns {"simulated": True, "cases", "values": {measure: [mean, low, high]}, "by_anomaly": {name: {measure: mean}},
    "per_case": {...}}.
    """
    train = train or simulated / "train"
    mean = mean_mr(train)
    plane = mean_frame(train) if predict_frame else None
    rows: list[dict[str, float]] = []
    names: list[str] = []
    anomalies: list[str] = []
    listed = list(cases(simulated / split))
    for index, case in enumerate(listed):
        rows.append(_measure(case, predict(case), mean))
        if fitted is not None:
            baseline = _measure(case, fitted(case), mean)
            rows[-1] |= {f"{key}_fitted_atlas": baseline[key] for key in ("ncc", "residual_ncc", "gradient_ncc")}
        if predict_frame and plane is not None:
            rows[-1] |= measure_frames(simulated / split / f"{case.name}.npz", predict_frame, plane)
        names.append(case.name)
        anomalies.append(case.anomaly)
        if progress:
            progress((index + 1) / len(listed), case.name)
    values: dict[str, list[float]] = {}
    rng = np.random.default_rng(0)
    for key in rows[0]:
        values[key] = interval(np.array([row[key] for row in rows]), rng)
    return {
        "simulated": True,
        "split": split,
        "cases": len(rows),
        "values": values,
        "by_anomaly": _by_anomaly(rows, anomalies),
        "per_case": dict(zip(names, rows, strict=True)),
    }


def _by_anomaly(rows: list[dict[str, float]], anomalies: list[str]) -> dict[str, dict[str, float]]:
    """Means and the worst case of each kind of head; nothing where all are of one kind."""
    kinds = sorted(set(anomalies))
    if len(kinds) < 2:
        return {}
    result = {}
    for kind in kinds:
        chosen = [row for row, anomaly in zip(rows, anomalies, strict=True) if anomaly == kind]
        result[kind] = {"cases": float(len(chosen)), "ncc_lowest": min(row["ncc"] for row in chosen)}
        result[kind] |= {key: float(np.mean([row[key] for row in chosen])) for key in ("ncc", "residual_ncc")}
    return result


def _measure(case: Case, prediction: np.ndarray, mean: np.ndarray) -> dict[str, float]:
    slices = list(SLICES)
    brain, seen = case.brain[slices], (case.brain & case.fan)[slices]
    ours, truth, average = prediction[slices], case.t2[slices], mean[slices]
    us = case.us[slices].astype(np.float32) / 255
    offsets = [image_measures.shift(prediction[k], case.t2[k]) for k in (64, 76, 88, 100)]
    across = {f"gradient_ncc_{plane}": image_measures.gradient_ncc(*(to_plane(volume, plane)[slices] for volume in
                                                               (prediction, case.t2, case.brain & case.fan)))
              for plane in PLANES[1:]}  # fmt: skip
    return {
        "ncc": image_measures.ncc(ours, truth, seen),
        "ncc_mean_mr": image_measures.ncc(average, truth, seen),
        "ncc_copied_input": image_measures.ncc(us, truth, seen),
        "residual_ncc": image_measures.residual_ncc(ours, truth, average, seen),
        "gradient_ncc": image_measures.gradient_ncc(ours, truth, seen),
        "gradient_ncc_mean_mr": image_measures.gradient_ncc(average, truth, seen),
        "head_dice": image_measures.dice(ours > 0.15, brain),
        "mae": float(np.abs(ours - truth)[seen].mean()),
        "shift_within_1px": float(np.mean([max(abs(r), abs(c)) <= 1 for r, c in offsets])),
        "stripe_peak": float(np.median([image_measures.stripe_peak(prediction[k]) for k in (64, 80, 96)])),
        "stripe_peak_truth": float(np.median([image_measures.stripe_peak(case.t2[k]) for k in (64, 80, 96)])),
    } | across


def interval(values: np.ndarray, rng: np.random.Generator) -> list[float]:
    """[mean, low, high]: 95 %, bootstrap over cases."""
    draws = rng.integers(0, len(values), (_BOOTSTRAPS, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
    return [float(values.mean()), float(low), float(high)]


def table(result: dict[str, Any]) -> str:
    """The result as aligned text, one measure a line."""
    head = f"simulated ultrasound, split {result['split']}, {result['cases']} cases (mean, 95 % interval over cases)"
    lines = [f"{key:22s} {v[0]:7.3f}   [{v[1]:.3f}, {v[2]:.3f}]" for key, v in result["values"].items()]
    lines += [
        f"anomaly {kind:16s} {v['cases']:.0f} cases: NCC {v['ncc']:.3f} (lowest {v['ncc_lowest']:.3f}), "
        f"residual NCC {v['residual_ncc']:.3f}"
        for kind, v in result.get("by_anomaly", {}).items()
    ]
    return "\n".join([head, *lines])
