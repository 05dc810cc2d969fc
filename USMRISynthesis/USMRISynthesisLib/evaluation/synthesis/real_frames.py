"""A model on real head-circumference frames, which have no MR: measures without a truth.

Frames of HC18's fetuses that gave no weights, in the canonical plane by their annotated ellipse.  Does the brain fill
the annotated head, and lie on it?  Does half or double the gain give the same anatomy, and a flipped frame the flipped
image?  None of this measures whether the inside is right.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from USMRISynthesisLib.datasets.simulated import Case, cases
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.evaluation.metrics import image as image_measures
from USMRISynthesisLib.evaluation.metrics import segmenter
from USMRISynthesisLib.evaluation.synthesis.frame_prediction import PredictFrame
from USMRISynthesisLib.geometry.canonical import HC_PLANE_Z_MM, SIZE, SPACING_MM, canonical_axis_mm

FIGURES = (
    "real_frames", "head_fill_dice_median", "head_fill_dice_p10", "half_gain_ncc", "double_gain_ncc", "flip_ncc",
    "centre_offset_mm_median", "real_stripe_peak_median",
)  # fmt: skip
SHOWN, COLUMNS, STRIP = 24, 8, 16
BRIGHT = 0.15  # brain, as in the simulated measures

PLANE = list(range(72, 89, 4))  # a frame's own plane is known to within half a centimetre at best
DISTANCE_FIGURES = ("frames_kid", "frames_kid_ultrasound", "frames_kid_simulated", "frames_kid_truth")

Group = list[np.ndarray]  # features (n, channels) of each subject


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
    us, fan, axes, _ = held_out(file)
    chosen = evenly(len(us), limit)
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


def draw(file: Path, predict: PredictFrame, target: Path) -> None:
    """24 held-out frames, evenly chosen, and below each what is made of it, marked as synthetic.  Raises Refused."""
    from PIL import Image, ImageDraw

    us, fan, _, _ = held_out(file)
    chosen = evenly(len(us), SHOWN)
    rows = -(-len(chosen) // COLUMNS)
    sheet = Image.new("L", (COLUMNS * SIZE, rows * (2 * SIZE + STRIP)))
    for n, index in enumerate(chosen):
        x, y = n % COLUMNS * SIZE, n // COLUMNS * (2 * SIZE + STRIP)
        made = np.clip(predict(us[index], fan[index]) * 255, 0, 255).astype(np.uint8)
        for part, image in enumerate((us[index], made)):
            sheet.paste(Image.fromarray(np.ascontiguousarray(image[::-1])), (x, y + part * SIZE))  # anterior up
        ImageDraw.Draw(sheet).text((x + 4, y + 2 * SIZE + 2), "MR-like: SYNTHETIC", fill=255)
    target.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(target)


def evenly(count: int, limit: int | None) -> np.ndarray:
    """Indices of at most `limit` of so many frames, evenly chosen; of all where None."""
    return np.unique(np.linspace(0, count - 1, count if limit is None else limit).round().astype(int))


def held_out(file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """us (n, 160, 160) uint8, fan bool, the heads' half axes (n, 2) mm and the number (n,) of the fetus, of those that
    gave no weights. Raises Refused."""
    try:
        with np.load(file) as content:
            held = content["split"] != "train"
            us, fan, axes, fetus = (content[name][held] for name in ("us", "fan", "half_axes_mm", "fetus"))
    except (OSError, KeyError, ValueError) as error:
        raise Refused(
            "frames", f"The real frames {file.name} cannot be read.", "Make them with `usmri simulate`."
        ) from error
    return us, fan, axes, fetus


def _measured(us: np.ndarray, fan: np.ndarray, axes: np.ndarray, predict: PredictFrame) -> dict[str, float]:
    head = ellipse(axes)
    seen = head & fan
    made = predict(us, fan)
    half, double = (predict(np.clip(us * gain, 0, 255).astype(np.uint8), fan) for gain in (0.5, 2.0))
    flipped = predict(us[:, ::-1].copy(), fan[:, ::-1].copy())[:, ::-1]
    filled = (made > BRIGHT) & fan
    apart = np.subtract(*(np.argwhere(mask).mean(axis=0) if mask.any() else np.zeros(2) for mask in (filled, seen)))
    return {
        "fill": image_measures.dice(filled, seen),
        "half": image_measures.ncc(half, made, seen),
        "double": image_measures.ncc(double, made, seen),
        "flip": image_measures.ncc(flipped, made, seen),
        "offset": float(np.hypot(*apart)) * SPACING_MM,
        "stripes": image_measures.stripe_peak(made),
    }


def ellipse(half_axes_mm: np.ndarray) -> np.ndarray:
    """The head (160, 160) bool in the canonical plane: half axes in mm, across and along."""
    at = (np.arange(SIZE) - (SIZE - 1) / 2) * SPACING_MM
    return np.asarray((at[None] / half_axes_mm[0]) ** 2 + (at[:, None] / half_axes_mm[1]) ** 2 <= 1)


def kernel_distances(
    file: Path,
    predict: PredictFrame,
    simulated: Path,
    train: Path,
    network: segmenter.Segmenter,
    *,
    limit: int | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> dict[str, list[float]]:
    """[value, low, high] of each of DISTANCE_FIGURES: kernel distances (KID, Binkowski 2018) to the true MR of the
    heads in `train`, in slices about the frames' plane.

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
    return {name: image_measures.kernel_distance_of(group, real) for name, group in groups.items()}


def distance_table(figures: dict[str, list[float]]) -> str:
    """The figures as text."""
    return "kernel distance to true MR of that plane\n" + "\n".join(
        f"{name:32s} {value:8.3f}   [{low:.3f}, {high:.3f}]"
        for name, (value, low, high) in ((name, figures[name]) for name in DISTANCE_FIGURES)
    )


def _of_head(network: segmenter.Segmenter, case: Case, predict: PredictFrame | None = None) -> np.ndarray:
    """Features of a head's true MR about the plane, or of what is made of each of its slices there as of a frame."""
    slices = [case.t2[k] if predict is None else predict(case.us[k], case.fan[k]) for k in PLANE]
    seen = [np.where(case.brain[k] & case.fan[k], image, 0) for k, image in zip(PLANE, slices, strict=True)]
    return segmenter.features(network, np.stack(seen), canonical_axis_mm()[PLANE])


def _by_subject(features: np.ndarray, subject: np.ndarray) -> Group:
    return [features[subject == one] for one in np.unique(subject)]
