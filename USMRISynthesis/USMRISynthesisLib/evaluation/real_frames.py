"""A model on real head-circumference frames, which have no MR: what can be said without the truth.

Frames of HC18's fetuses that gave no weights, in the canonical plane by their annotated ellipse.  Does the brain fill
the annotated head, and lie on it?  Does half or double the gain give the same anatomy, and a flipped frame the flipped
image?  None of this says that the inside is right.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..errors import Refused
from ..normalisation.canonical import SIZE, SPACING_MM
from . import measures
from .synthesis_frames import PredictFrame

FIGURES = (
    "real_frames", "head_fill_dice_median", "head_fill_dice_p10", "half_gain_ncc", "double_gain_ncc", "flip_ncc",
    "centre_offset_mm_median", "real_stripe_peak_median",
)  # fmt: skip
BRIGHT = 0.15  # brain, as in the simulated measures


def evaluate(
    file: Path,
    predict: PredictFrame,
    *,
    limit: int | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> dict[str, float]:
    """Figures over the held-out frames of `hc18.npz` (of `usmri simulate`); `limit` of them, evenly chosen.

    head_fill_dice_median, head_fill_dice_p10: the output against the annotated ellipse, inside the fan.
    half_gain_ncc, double_gain_ncc, flip_ncc: medians, inside the ellipse. centre_offset_mm_median: from the centre of
    the output to that of the ellipse, both inside the fan. Raises Refused where the frames are missing.
    """
    try:
        with np.load(file) as content:
            held = content["split"] != "train"
            us, fan, axes = (content[name][held] for name in ("us", "fan", "half_axes_mm"))
    except (OSError, KeyError, ValueError) as error:
        raise Refused("frames", f"The real frames {file.name} cannot be read.",
                      "Make them with `usmri simulate`.") from error
    chosen = np.arange(len(us)) if limit is None else np.unique(np.linspace(0, len(us) - 1, limit).round().astype(int))
    rows = []
    for n, index in enumerate(chosen):
        rows.append(_measured(us[index], fan[index], axes[index], predict))
        if progress:
            progress((n + 1) / len(chosen), "real frames")

    def all_of(name: str) -> np.ndarray:
        return np.array([row[name] for row in rows])

    return {
        "real_frames": float(len(rows)),
        "head_fill_dice_median": float(np.median(all_of("fill"))),
        "head_fill_dice_p10": float(np.percentile(all_of("fill"), 10)),
        "half_gain_ncc": float(np.median(all_of("half"))),
        "double_gain_ncc": float(np.median(all_of("double"))),
        "flip_ncc": float(np.median(all_of("flip"))),
        "centre_offset_mm_median": float(np.median(all_of("offset"))),
        "real_stripe_peak_median": float(np.median(all_of("stripes"))),
    }


def _measured(us: np.ndarray, fan: np.ndarray, axes: np.ndarray, predict: PredictFrame) -> dict[str, float]:
    head = ellipse(axes)
    seen = head & fan
    made = predict(us, fan)
    half, double = (predict(np.clip(us * gain, 0, 255).astype(np.uint8), fan) for gain in (0.5, 2.0))
    flipped = predict(us[:, ::-1].copy(), fan[:, ::-1].copy())[:, ::-1]
    filled = (made > BRIGHT) & fan
    apart = np.subtract(*(np.argwhere(mask).mean(axis=0) if mask.any() else np.zeros(2) for mask in (filled, seen)))
    return {
        "fill": measures.dice(filled, seen),
        "half": measures.ncc(half, made, seen),
        "double": measures.ncc(double, made, seen),
        "flip": measures.ncc(flipped, made, seen),
        "offset": float(np.hypot(*apart)) * SPACING_MM,
        "stripes": measures.stripe_peak(made),
    }


def ellipse(half_axes_mm: np.ndarray) -> np.ndarray:
    """The head (160, 160) bool in the canonical plane: half axes in mm, across and along."""
    at = (np.arange(SIZE) - (SIZE - 1) / 2) * SPACING_MM
    return np.asarray((at[None] / half_axes_mm[0]) ** 2 + (at[:, None] / half_axes_mm[1]) ** 2 <= 1)
