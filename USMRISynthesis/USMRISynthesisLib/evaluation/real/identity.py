"""Identity: two frames of one fetus must give images more alike than frames of two fetuses of like size do.

An image that shows the average brain, whatever goes in, cannot pass: its AUC is 0.5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from USMRISynthesisLib.evaluation.metrics.image import auc_between, ncc
from USMRISynthesisLib.evaluation.real import fitted_atlas
from USMRISynthesisLib.evaluation.real.cases import Frame, canonical_mr, run

LIKE_SIZE = 0.05  # share of the head circumference by which two fetuses may differ and still be of like size


def frames_of_pairs(frames: Sequence[Frame], limit: int) -> list[Frame]:
    """Frames of fetuses of whom there are at least two, two of each, of at most `limit` fetuses, evenly chosen."""
    by_subject: dict[str, list[Frame]] = {}
    for frame in frames:
        by_subject.setdefault(frame.subject, []).append(frame)
    several = [own for own in by_subject.values() if len(own) > 1]
    chosen = np.unique(np.linspace(0, len(several) - 1, min(limit, len(several))).round().astype(int))
    return [frame for index in chosen for frame in several[index][:2]]


def identity_auc(frames: Sequence[Frame], images: Sequence[np.ndarray]) -> float:
    """AUC of the likeness of images (160, 160), 0 outside the head, for "the same fetus".

    Likeness: NCC of what differs from the mean of all images, where both show brain. Pairs of two fetuses count whose
    circumferences differ by at most `LIKE_SIZE`. nan without pairs of either kind.
    """
    stack = np.stack(images)
    shown = (stack > 0).sum(axis=0)
    mean = stack.sum(axis=0) / np.maximum(shown, 1)
    same: list[float] = []
    other: list[float] = []
    for a, b in combinations(range(len(frames)), 2):
        own = frames[a].subject == frames[b].subject
        if not own and abs(frames[a].size_mm / frames[b].size_mm - 1) > LIKE_SIZE:
            continue
        both = (stack[a] > 0) & (stack[b] > 0)
        if both.sum() < 100:
            continue
        alike = ncc(stack[a] - mean, stack[b] - mean, both)
        (same if own else other).append(alike if np.isfinite(alike) else 0.0)
    return auc_between(np.array(other), np.array(same)) if same and other else float("nan")


def evaluate(
    data: Path,
    frames: Sequence[Frame],
    *,
    model: str,
    device: str,
    progress: Callable[[float, str], None] | None = None,
) -> tuple[list[Frame], dict[str, list[np.ndarray]]]:
    """The frames that are accepted, and method -> their images in canonical space, (160, 160) each, 0-1."""
    kept: list[Frame] = []
    images: dict[str, list[np.ndarray]] = {}
    for number, frame in enumerate(frames):
        made, accepted = run(frame.volume, model=model, device=device)
        if made is not None and accepted:
            kept.append(frame)
            for method, image in fitted_atlas.images(data, made).items():
                images.setdefault(method, []).append(canonical_mr(fitted_atlas.with_image(made, image)))
        if progress is not None:
            progress((number + 1) / len(frames), "identity")
    return kept, images
