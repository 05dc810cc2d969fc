"""Alignment of simulated heads in random orientations against their truth: errors, flips, and which of them the score
detects.

Simulated: no measure of real volumes. A case is moved, turned over the full sphere and scaled, with a seed from its
name; the alignment is compared with the inverse of that transform.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from USMRISynthesisLib.alignment.volume.search import Located
from USMRISynthesisLib.datasets.heads import BRAIN, FAN, US, Head
from USMRISynthesisLib.geometry.similarity import angle_deg, random_rotation, rotation_of, scale_of, small_rotation
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.simulation.scanner.wide import wide_ijk_to_canonical

FLIP_DEG = 30.0

Aligner = Callable[[Volume, np.ndarray], Located | None]


@dataclass(frozen=True, eq=False)
class Placed:
    """A head somewhere in the world: the volume, its fan, and anatomical mm to RAS mm."""

    head: Head
    volume: Volume
    fan: np.ndarray
    anatomy_to_ras: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """One alignment. Lengths in mm of the world. Where no head was found the errors are infinite, the score 0."""

    case: str
    week: int
    view: str
    rotation_deg: float
    translation_mm: float
    scale_percent: float
    mask_dice: float
    eye_mm: float
    score: float
    seconds: float

    @property
    def flipped(self) -> bool:
        return not self.rotation_deg <= FLIP_DEG


def place(head: Head, number: int, *, most_deg: float = 180.0) -> Placed:
    """The head in its `number`-th random pose, always the same one for the same case; anywhere over the sphere, or
    turned by `most_deg` at most."""
    rng = np.random.default_rng([zlib.crc32(head.name.encode()), number])
    matrix = np.eye(4)
    scale = rng.uniform(0.7, 1.3)
    matrix[:3, :3] = scale * (random_rotation(rng) if most_deg >= 180 else small_rotation(rng, most_deg))
    matrix[:3, 3] = rng.uniform(-40, 40, 3)
    us = np.where(head.channels[FAN] > 0, head.channels[US], 0).astype(np.uint8)
    volume = Volume(us, matrix @ head.pose @ wide_ijk_to_canonical())
    return Placed(head, volume, head.channels[FAN] > 0, matrix)


def compare(placed: Placed, found: Located | None, seconds: float = 0.0) -> Outcome:
    """The errors of an alignment."""
    head = placed.head
    if found is None:
        infinite = float("inf")
        return Outcome(head.name, head.week, head.view, infinite, infinite, infinite, 0.0, infinite, 0.0, seconds)
    error = found.matrix @ placed.anatomy_to_ras
    scale = scale_of(found.matrix)
    rotation, translation = pose_error(placed, found.matrix)
    eyes = head.eyes @ error[:3, :3].T + error[:3, 3]
    sure = found.eye_weights > 0.5
    away = np.linalg.norm(found.eyes - eyes, axis=1)[sure] / scale
    return Outcome(
        head.name,
        head.week,
        head.view,
        rotation,
        translation,
        100 * (scale_of(error) - 1),
        _brain_dice(placed, found),
        float(away.mean()) if sure.any() else float("nan"),
        found.score,
        seconds,
    )


def pose_error(placed: Placed, ras_to_canonical: np.ndarray) -> tuple[float, float]:
    """Degrees, and mm of the world at the canonical origin."""
    error = ras_to_canonical @ placed.anatomy_to_ras  # true canonical -> its estimate: the identity if perfect
    return (angle_deg(rotation_of(error), np.eye(3)), float(np.linalg.norm(error[:3, 3])) / scale_of(ras_to_canonical))


def _brain_dice(placed: Placed, found: Located) -> float:
    """Of the network's brain mask against the truth, on the truth's grid."""
    truth = placed.head.channels[BRAIN] > 127
    size = found.brain.shape[0]
    unit_to_index = np.diag([size / 2] * 3 + [1.0])
    unit_to_index[:3, 3] = (size - 1) / 2
    matrix = unit_to_index @ np.linalg.inv(found.brain_to_canonical) @ found.matrix @ placed.volume.ijk_to_ras
    flip = np.eye(4)[[2, 1, 0, 3]]  # (i, j, k) <-> (k, j, i)
    matrix = flip @ matrix @ flip
    predicted = ndimage.affine_transform(found.brain, matrix[:3, :3], matrix[:3, 3], output_shape=truth.shape, order=1)
    predicted = predicted > 0.5
    return float(2 * (predicted & truth).sum() / max(1, predicted.sum() + truth.sum()))


def run(
    heads: Sequence[Head], poses: int, aligner: Aligner, progress: Callable[[float, str], None] | None = None
) -> list[Outcome]:
    """Every head in `poses` random poses."""
    outcomes = []
    for n, head in enumerate(heads):
        for number in range(poses):
            placed = place(head, number)
            begun = time.perf_counter()
            found = aligner(placed.volume, placed.fan)
            outcomes.append(compare(placed, found, time.perf_counter() - begun))
        if progress is not None:
            progress((n + 1) / len(heads), head.name)
    return outcomes


def summary(outcomes: Sequence[Outcome], low_score: float = 0.5) -> dict[str, float]:
    """The figures of a set of outcomes, under the names that the evaluation prints."""
    turn = np.array([o.rotation_deg for o in outcomes])
    move = np.array([o.translation_mm for o in outcomes])
    dice = np.array([o.mask_dice for o in outcomes])
    eyes = np.array([o.eye_mm for o in outcomes])
    low = np.array([o.score < low_score for o in outcomes])
    flipped = np.array([o.flipped for o in outcomes])
    eyes = eyes[np.isfinite(eyes)]
    return {
        "mask_dice_median": float(np.median(dice)),
        "translation_mm_median": float(np.median(move)),
        "translation_mm_p90": float(np.percentile(move, 90, method="higher")),
        "rotation_deg_median": float(np.median(turn)),
        "rotation_deg_p90": float(np.percentile(turn, 90, method="higher")),
        "rotation_deg_mean": float(np.minimum(turn, 180).mean()),
        "flip_share": float(flipped.mean()),
        "flips_caught_share": float(low[flipped].mean()) if flipped.any() else 1.0,
        "good_with_low_score": float(low[~flipped].mean()) if (~flipped).any() else 0.0,
        "eye_mm_median": float(np.median(eyes)) if len(eyes) else float("nan"),
        "seconds_per_volume": float(np.median([o.seconds for o in outcomes])),
    }


def by_group(outcomes: Sequence[Outcome]) -> dict[str, dict[str, float]]:
    """`summary` for each probe view and each week: "view left", "week 26"."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(f"view {outcome.view or 'unknown'}", []).append(outcome)
        groups.setdefault(f"week {outcome.week}", []).append(outcome)
    return {name: summary(some) for name, some in sorted(groups.items())}


def failures(outcomes: Sequence[Outcome]) -> list[dict[str, object]]:
    """The flips, worst first, and whether the score caught each."""
    wrong = sorted((o for o in outcomes if o.flipped), key=lambda o: -o.rotation_deg)
    return [
        {
            "case": o.case,
            "week": o.week,
            "view": o.view,
            "rotation_deg": round(min(o.rotation_deg, 180.0), 1),
            "score": round(o.score, 3),
            "caught": o.score < 0.5,
        }
        for o in wrong
    ]
