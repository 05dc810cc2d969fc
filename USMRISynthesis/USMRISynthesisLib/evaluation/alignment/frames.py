"""How well the skull is found: against the annotated ellipses of HC18 frames, and against simulated volumes.

``python -m USMRISynthesisLib.evaluation.alignment.frames [--frames N] [--volumes N] [--seed S]``
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import os
import time
import zlib
from pathlib import Path

import numpy as np

from USMRISynthesisLib.alignment.common.confidence import LOW_SCORE
from USMRISynthesisLib.alignment.skull.fit import align_skull as align
from USMRISynthesisLib.alignment.volume.pose import circumference_mm
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.geometry.canonical import canonical_axis_mm, canonical_ijk_to_ras
from USMRISynthesisLib.geometry.head import Alignment
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.ultrasound.gate import admit, find_fan

log = logging.getLogger(__name__)


def data_directory() -> Path:
    """The shared data: environment variable ``USMRI_DATA``, or ``../shared/data`` beside the repository."""
    default = Path(__file__).resolve().parents[4].parent / "shared" / "data"
    return Path(os.environ.get("USMRI_DATA", default))


def evaluate_frames(data_dir: Path, limit: int | None = None, seed: int = 0) -> dict[str, float]:
    """Alignment of HC18 frames against their annotated ellipses.

    Args:
        data_dir: holds ``index.csv`` and ``images/``.
        limit: that many frames, drawn with ``seed``; all where None.

    Returns:
        Dice (median, 10th percentile, shares below 0.9 and 0.85), angle error of the major axis in degrees,
        head circumference error in percent, processor seconds a frame, refused frames, and what the score catches.
    """
    with open(data_dir / "index.csv") as file:
        rows = list(csv.DictReader(file))
    if limit is not None and limit < len(rows):
        rows = [rows[i] for i in np.random.default_rng(seed).choice(len(rows), limit, replace=False)]
    results = []
    refused = 0
    for row in rows:
        volume = Volume.read(data_dir / "images" / row["file"], pixel_size_mm=float(row["pixel_size_mm"]))
        try:
            admit(volume)
        except Refused:
            refused += 1
        begun = time.process_time()
        alignment = align(volume, find_fan(volume.array, volume.spacing))
        seconds = time.process_time() - begun
        centre = np.array([float(row["centre_x_px"]), float(row["centre_y_px"])])
        semi_axes = np.array([float(row["semi_major_px"]), float(row["semi_minor_px"])])
        angle = np.deg2rad(float(row["angle_deg"]))
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        found = ellipse_in_pixels(alignment, volume)
        dice = overlap(inside_ellipse(*found, volume), inside_ellipse(centre, semi_axes, rotation, volume))
        turn = abs(np.rad2deg(np.arccos(min(1.0, abs(found[2][:, 0] @ rotation[:, 0])))))
        size = circumference_mm(found[1]) / circumference_mm(semi_axes) - 1
        results.append((dice, turn, 100 * size, alignment.score, seconds))
    return {"frames": len(rows), "refused": refused, **_summary(np.array(results))}


def evaluate_volumes(paths: list[Path]) -> dict[str, float]:
    """Alignment of simulated volumes (``.npz``, canonical grid) against the inside of their outer skull.

    Simulated: says nothing about real volumes. Each case is turned by up to 15 degrees, shifted and scaled, with a
    seed from its name, so that the assumed orientation is not the true one.

    Returns:
        As ``evaluate_frames``, with the error of the size in percent, and how far the origin lands from where it
        should, in mm.
    """
    results = []
    for path in paths:
        volume, head_canonical, placed = _displaced(path)
        begun = time.process_time()
        alignment = align(volume, find_fan(volume.array, volume.spacing))
        seconds = time.process_time() - begun
        # true canonical -> where the alignment puts it: the identity if it is perfect
        error = alignment.ras_to_canonical @ placed
        scale = np.cbrt(np.linalg.det(error[:3, :3]))
        turn = np.rad2deg(np.arccos(np.clip((np.trace(error[:3, :3] / scale) - 1) / 2, -1, 1)))
        points = _voxels(error)
        inside = ((((points - alignment.centre) @ alignment.rotation) / alignment.semi_axes) ** 2).sum(-1) <= 1
        off = np.linalg.norm(error[:3, 3])
        results.append((overlap(inside, head_canonical), turn, 100 * (scale - 1), alignment.score, seconds, off))
        log.info("%s: Dice %.3f, turn %.1f deg, score %.2f", path.stem, *np.array(results[-1])[[0, 1, 3]])
    table = np.array(results)
    return {
        "volumes": len(paths),
        **_summary(table),
        "origin_mm_median": float(np.median(table[:, 5])),
        "origin_mm_p90": float(np.percentile(table[:, 5], 90)),
    }


def _summary(table: np.ndarray) -> dict[str, float]:
    dice, turn, size, score, seconds = table[:, :5].T
    failed, low = dice < 0.85, score < LOW_SCORE
    return {
        "dice_median": float(np.median(dice)),
        "dice_p10": float(np.percentile(dice, 10)),
        "dice_below_0.90": float((dice < 0.90).mean()),
        "dice_below_0.85": float(failed.mean()),
        "angle_deg_median": float(np.median(turn)),
        "angle_deg_p90": float(np.percentile(turn, 90)),
        "size_percent_median": float(np.median(size)),
        "size_percent_abs_median": float(np.median(np.abs(size))),
        "low_score": float(low.mean()),
        "failures_with_low_score": float(low[failed].mean()) if failed.any() else float("nan"),
        "good_with_low_score": float(low[~failed].mean()) if (~failed).any() else float("nan"),
        "cpu_seconds_median": float(np.median(seconds)),
    }


def ellipse_in_pixels(alignment: Alignment, volume: Volume) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre (x, y), semi-axes (major, minor) and rotation of a frame's ellipse in pixels."""
    to_pixels = np.linalg.inv(alignment.ras_to_canonical @ volume.ijk_to_ras)
    middle = to_pixels[:2] @ np.append(alignment.centre, 1)
    axes = to_pixels[:2, :2] @ alignment.rotation[:2, :2] * alignment.semi_axes[:2]
    lengths = np.linalg.norm(axes, axis=0)
    order = np.argsort(-lengths)
    return middle, lengths[order], (axes / lengths)[:, order]


def inside_ellipse(centre: np.ndarray, semi_axes: np.ndarray, rotation: np.ndarray, volume: Volume) -> np.ndarray:
    _, rows, columns = volume.shape
    y, x = np.mgrid[-60 : rows + 60, -60 : columns + 60]  # heads reach out of some frames
    points = np.stack([x, y], axis=-1) - centre
    return (((points @ rotation) / semi_axes) ** 2).sum(-1) <= 1


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / max(1, a.sum() + b.sum()))


def _voxels(matrix: np.ndarray) -> np.ndarray:
    """(160, 160, 160, 3): where a matrix takes the canonical voxels' mm."""
    axis = canonical_axis_mm()
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    return np.stack([x, y, z], axis=-1) @ matrix[:3, :3].T + matrix[:3, 3]


def _displaced(path: Path) -> tuple[Volume, np.ndarray, np.ndarray]:
    """A simulated volume elsewhere in the world, its true head (k, j, i), and canonical-to-RAS of that place."""
    from scipy.spatial.transform import Rotation

    with np.load(path) as case:
        us, head = case["us"], case["skull"]
    rng = np.random.default_rng(zlib.crc32(path.stem.encode()))
    placed = np.eye(4)
    placed[:3, :3] = rng.uniform(0.7, 1.1) * Rotation.from_rotvec(np.deg2rad(rng.uniform(-15, 15, 3))).as_matrix()
    placed[:3, 3] = rng.uniform(-40, 40, 3)
    return Volume(us, placed @ canonical_ijk_to_ras()), head, placed


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=200, help="HC18 frames to measure (0: none)")
    parser.add_argument("--volumes", nargs="*", type=Path, default=[], help="simulated cases (.npz)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.frames:
        print(json.dumps(evaluate_frames(data_directory() / "hc18", arguments.frames, arguments.seed), indent=1))
    if arguments.volumes:
        print(json.dumps(evaluate_volumes(arguments.volumes), indent=1))


if __name__ == "__main__":
    main()
