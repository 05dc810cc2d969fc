"""A model on the simulated 2D frames of held-out heads: no real frame has a matching MR."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from USMRISynthesisLib.evaluation.metrics import image as image_measures
from USMRISynthesisLib.simulation.anatomy.labels import BRAIN

PredictFrame = Callable[[np.ndarray, np.ndarray], np.ndarray]


def frame_prediction(model: str, device: str = "auto") -> PredictFrame:
    """The generator on one frame (160, 160) uint8 with its fan, at the head-circumference plane -> MR, 0-1."""
    from USMRISynthesisLib.geometry.canonical import HC_PLANE_Z_MM
    from USMRISynthesisLib.synthesis.engine import load_generator
    from USMRISynthesisLib.synthesis.multiplane import combined, run_planes
    from USMRISynthesisLib.ultrasound.intensity import normalise_ultrasound

    generator = load_generator(model, device)
    exponent = generator.manifest.input.exponent

    def predict(us: np.ndarray, fan: np.ndarray) -> np.ndarray:
        seen = normalise_ultrasound(us[None], fan[None], exponent)
        out = combined(run_planes(generator, seen, np.array([HC_PLANE_Z_MM])), seen)
        return np.asarray((out[0] + 1) / 2)

    return predict


def mean_frame(folder: Path) -> np.ndarray | None:
    """Mean T2 (160, 160), 0-1, of a split's frames over those whose head reaches there; None without frames."""
    total, count = np.zeros((), np.float64), np.zeros((), np.float64)
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as file:
            if "frames_t2" in file:
                t2 = file["frames_t2"].astype(np.float64) / 255
                total, count = total + t2.sum(axis=0), count + (t2 > 0).sum(axis=0)
    return np.asarray(total / np.maximum(count, 1), np.float32) if total.shape else None


def measure_frames(path: Path, predict: PredictFrame, mean: np.ndarray) -> dict[str, float]:
    """Means over one head's frames, inside its brain where the beam was; nothing where it has no frames."""
    rows = []
    with np.load(path) as file:
        if "frames_us" not in file:
            return {}
        for us, fan, t2, labels in zip(
            *(file[f"frames_{name}"] for name in ("us", "fan", "t2", "labels")), strict=True
        ):
            brain = np.isin(labels, BRAIN)
            ours, truth, seen = predict(us, fan), t2.astype(np.float32) / 255, brain & fan
            rows.append(
                {
                    "frame_ncc": image_measures.ncc(ours, truth, seen),
                    "frame_ncc_mean_mr": image_measures.ncc(mean, truth, seen),
                    "frame_residual_ncc": image_measures.residual_ncc(ours, truth, mean, seen),
                    "frame_head_dice": image_measures.dice((ours > 0.15) & fan, (t2 > 0) & fan),
                }
            )
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
