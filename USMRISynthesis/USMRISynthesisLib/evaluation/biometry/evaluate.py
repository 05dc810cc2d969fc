"""How right the biometry is: HC18's annotated circumferences on frames, and the true skulls of simulated volumes.

The offset comes from the fetuses that the outline network was trained on, the error behind the intervals from those of
the validation, and what is reported from held-out ones. `alignment/biometry.py` holds what this printed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from USMRISynthesisLib.alignment.align import align
from USMRISynthesisLib.alignment.biometry import FRAMES, NAMES, VOLUMES, Accuracy, sizes_mm
from USMRISynthesisLib.alignment.common.confidence import MIN_CONFIDENCE
from USMRISynthesisLib.alignment.growth import NORMAL_95
from USMRISynthesisLib.alignment.volume.pose import circumference_mm
from USMRISynthesisLib.callbacks import Progress
from USMRISynthesisLib.datasets.frames import annotated, rows_of
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.geometry.canonical import HC_PLANE_Z_MM, canonical_axis_mm
from USMRISynthesisLib.geometry.ellipse import from_mask
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.simulation.dataset import MINIMUM_CIRCUMFERENCE_MM, frame_volume
from USMRISynthesisLib.ultrasound.gate import find_fan

Pair = tuple[dict[str, float], dict[str, float]]  # measured, true: mm by name
_FEWEST = 8  # heads from which an error is estimated


def evaluate(
    data: Path, *, limit: int | None = None, cases: Path | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Errors of frames of 150 mm and more of held-out fetuses; of volumes where simulated cases are given.

    Args:
        data: holds hc18/. limit: that many frames of each split, drawn at random.
        cases: a folder of simulated cases of unseen weeks with `wide` volumes.

    Raises Refused (no data).
    """
    result: dict[str, Any] = {"minimum_mm": MINIMUM_CIRCUMFERENCE_MM}
    fitted = {}
    for n, split in enumerate(("train", "val", "test")):
        rows = _drawn(rows_of(data, split, MINIMUM_CIRCUMFERENCE_MM), limit)
        pairs, refused = _frames(data, rows, _share(progress, n / 3, (n + 1) / 3, split))
        fitted[split] = pairs
        result[f"{split}_frames"] = len(rows)
        result[f"{split}_not_found_share"] = refused / len(rows)
    result["frames"] = report(fitted["test"], FRAMES)
    result["frames_fitted"] = fit(fitted["train"], fitted["val"])
    if cases is not None:
        pairs, refused, count = _volumes(cases)
        result |= {"simulated_volumes": count, "simulated_volumes_not_found_share": refused / count}
        result["volumes"] = report(pairs, VOLUMES)
        result["volumes_fitted"] = fit([], pairs)
    return result


def fit(offset_from: Sequence[Pair], error_from: Sequence[Pair]) -> dict[str, dict[str, float]]:
    """Offset and standard deviation as shares of each measure; no offset where there is nothing to take it from.

    The offset is the median, and the deviation is the normal one with the 95th centile of the absolute errors that are
    left, so that the interval holds 95 % of them whatever their distribution.
    """
    found = {}
    for name in NAMES:
        offset = float(np.median(_shares(offset_from, name))) if len(offset_from) >= _FEWEST else 0.0
        left = (1 + _shares(error_from, name)) / (1 + offset) - 1
        found[name] = {
            "offset": offset,
            "deviation": float(np.percentile(np.abs(left), 95)) / NORMAL_95 if len(left) >= _FEWEST else float("nan"),
        }
    return found


def report(pairs: Sequence[Pair], accuracy: dict[str, Accuracy]) -> dict[str, dict[str, float]]:
    """Of each measure as the product gives it, in mm: mean difference, its limits of agreement (95 %), mean and 95th
    centile of the absolute one, and the share of heads whose interval holds the truth."""
    found = {}
    for name in NAMES:
        true = np.array([truth[name] for _, truth in pairs])
        made = np.array([measured[name] for measured, _ in pairs]) / (1 + accuracy[name].offset)
        off = made - true
        spread = float(off.std(ddof=1)) if len(off) > 1 else float("nan")
        inside = np.abs(off) <= NORMAL_95 * accuracy[name].deviation * made
        found[name] = {
            "heads": float(len(off)),
            "difference_mm": float(off.mean()),
            "agreement_low_mm": float(off.mean()) - NORMAL_95 * spread,
            "agreement_high_mm": float(off.mean()) + NORMAL_95 * spread,
            "absolute_mm": float(np.abs(off).mean()),
            "absolute_mm_p95": float(np.percentile(np.abs(off), 95)),
            "interval_coverage": float(inside.mean()),
        }
    return found


def table(result: dict[str, Any]) -> str:
    """As text."""
    lines = [f"{result['test_frames']} frames of held-out fetuses, {result['minimum_mm']:g} mm and more."]
    for group in ("frames", "volumes"):
        for name, row in result.get(group, {}).items():
            lines.append(
                f"{group} {name.upper():3}: {row['difference_mm']:+.2f} mm ({row['agreement_low_mm']:+.2f} to "
                f"{row['agreement_high_mm']:+.2f}), absolute {row['absolute_mm']:.2f} mm, interval holds the truth in "
                f"{row['interval_coverage']:.0%} of {row['heads']:.0f}"
            )
        for name, row in result.get(f"{group}_fitted", {}).items():
            lines.append(f"  fitted {name}: offset {row['offset']:+.4f}, deviation {row['deviation']:.4f}")
    return "\n".join(lines)


def _shares(pairs: Sequence[Pair], name: str) -> np.ndarray:
    return np.array([measured[name] / true[name] - 1 for measured, true in pairs])


def _drawn(rows: list[dict[str, str]], limit: int | None) -> list[dict[str, str]]:
    if limit is None or limit >= len(rows):
        return rows
    return [rows[n] for n in np.random.default_rng(0).choice(len(rows), limit, replace=False)]


def _share(progress: Progress | None, low: float, high: float, text: str) -> Callable[[float], None]:
    def say(value: float) -> None:
        if progress is not None:
            progress(low + (high - low) * value, f"Measuring frames ({text})")

    return say


def _frames(data: Path, rows: list[dict[str, str]], say: Callable[[float], None]) -> tuple[list[Pair], int]:
    """Measured and annotated sizes, and how many heads were not found reliably."""
    pairs: list[Pair] = []
    for n, row in enumerate(rows):
        volume = frame_volume(data, row)
        found = align(volume, find_fan(volume.array, volume.spacing))
        sizes = sizes_mm(found, is_frame=True) if found.score >= MIN_CONFIDENCE else None
        if sizes is not None:
            along, across = annotated(row).semi_axes * float(row["pixel_size_mm"])
            truth = {"hc": float(row["head_circumference_mm"]), "bpd": 2 * float(across), "ofd": 2 * float(along)}
            pairs.append((sizes, truth))
        say((n + 1) / len(rows))
    return pairs, len(rows) - len(pairs)


def _volumes(folder: Path) -> tuple[list[Pair], int, int]:
    """Measured and true sizes of the `wide` volumes, how many were not found, and how many there are."""
    pairs: list[Pair] = []
    count = 0
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as case:
            if "wide" not in case:
                continue
            us, skull, pose = case["wide"], case["skull"], case["pose"]
            volume = Volume(us, np.linalg.inv(pose) @ case["wide_to_canonical"])
        count += 1
        found = align(volume, find_fan(volume.array, volume.spacing))
        sizes = sizes_mm(found, is_frame=False) if found.score >= MIN_CONFIDENCE else None
        truth = _true_sizes(skull, float(np.cbrt(abs(np.linalg.det(pose[:3, :3])))))
        if sizes is not None and truth is not None:
            pairs.append((sizes, truth))
    if not count:
        raise Refused("data", f"There are no cases with volumes in {folder.name}.", "Give a folder such as sim/test.")
    return pairs, count - len(pairs), count


def _true_sizes(skull: np.ndarray, scale: float) -> dict[str, float] | None:
    """Of the head-circumference slice of a canonical mask (160, 160, 160) of all that the outer skull encloses.

    scale: canonical mm to one of the head's own.
    """
    axis = canonical_axis_mm()
    y, x = np.meshgrid(axis, axis, indexing="ij")
    mask = skull[int(np.argmin(np.abs(axis - HC_PLANE_Z_MM)))]
    found = from_mask(mask.ravel().astype(np.float64), np.stack([x.ravel(), y.ravel()]))
    if found is None:
        return None
    along, across = found.semi_axes / scale
    return {"hc": circumference_mm(found.semi_axes / scale), "bpd": 2 * float(across), "ofd": 2 * float(along)}
