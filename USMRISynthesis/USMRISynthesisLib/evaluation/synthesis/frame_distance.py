"""How near MR-like real frames come, as a set, to true MR of that plane: a kernel distance (KID, Binkowski 2018).

The features are those of the segmenter of fetal MR and not Inception's, which know photographs.  Beside it stands what
tells how large the figure is: the ultrasound itself, what the same model makes of simulated slices of that plane
one by one, and their true MR, held-out heads all of them.  A set can lie near without one image being right.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from USMRISynthesisLib.datasets.simulated import Case, cases
from USMRISynthesisLib.evaluation.metrics import image as measures
from USMRISynthesisLib.evaluation.metrics import segmenter
from USMRISynthesisLib.evaluation.synthesis.frame_prediction import PredictFrame
from USMRISynthesisLib.evaluation.synthesis.real_frames import ellipse, evenly, held_out
from USMRISynthesisLib.geometry.canonical import HC_PLANE_Z_MM, canonical_axis_mm

PLANE = list(range(72, 89, 4))  # a frame's own plane is known to within half a centimetre at best
FIGURES = ("frames_kid", "frames_kid_ultrasound", "frames_kid_simulated", "frames_kid_truth")

Group = list[np.ndarray]  # features (n, channels) of each subject


def evaluate(
    file: Path,
    predict: PredictFrame,
    simulated: Path,
    train: Path,
    network: segmenter.Segmenter,
    *,
    limit: int | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> dict[str, list[float]]:
    """[value, low, high] of each of FIGURES, all to true MR of the heads in `train` in slices about the frames' plane.

    file: `hc18.npz` of `usmri simulate`, of which the held-out fetuses are taken, `limit` frames evenly chosen;
    simulated: held-out cases.  95 % intervals over fetuses or heads.  Raises Refused without the frames.
    """
    us, fan, axes, fetus = held_out(file)
    chosen = evenly(len(us), limit)
    made, copied = [], []
    for n, index in enumerate(chosen):
        head = ellipse(axes[index]) & fan[index]
        made.append(np.where(head, predict(us[index], fan[index]), 0))
        copied.append(np.where(head, us[index] / np.float32(255), 0))
        if progress:
            progress((n + 1) / len(chosen), "kernel distance")
    places = np.full(len(chosen), HC_PLANE_Z_MM)
    groups = {
        "frames_kid": _by_subject(segmenter.features(network, np.stack(made), places), fetus[chosen]),
        "frames_kid_ultrasound": _by_subject(segmenter.features(network, np.stack(copied), places), fetus[chosen]),
        "frames_kid_simulated": [_of_head(network, case, predict) for case in cases(simulated)],
        "frames_kid_truth": [_of_head(network, case) for case in cases(simulated)],
    }
    real = np.concatenate([_of_head(network, case) for case in cases(train)])
    return {name: measures.kernel_distance_of(group, real) for name, group in groups.items()}


def table(figures: dict[str, list[float]]) -> str:
    """The figures as text."""
    return "kernel distance to true MR of that plane\n" + "\n".join(
        f"{name:32s} {value:8.3f}   [{low:.3f}, {high:.3f}]"
        for name, (value, low, high) in ((name, figures[name]) for name in FIGURES)
    )


def _of_head(network: segmenter.Segmenter, case: Case, predict: PredictFrame | None = None) -> np.ndarray:
    """Features of a head's true MR about the plane, or of what is made of each of its slices there as of a frame."""
    slices = [case.t2[k] if predict is None else predict(case.us[k], case.fan[k]) for k in PLANE]
    seen = [np.where(case.brain[k] & case.fan[k], image, 0) for k, image in zip(PLANE, slices, strict=True)]
    return segmenter.features(network, np.stack(seen), canonical_axis_mm()[PLANE])


def _by_subject(features: np.ndarray, subject: np.ndarray) -> Group:
    return [features[subject == one] for one in np.unique(subject)]
