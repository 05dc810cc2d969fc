"""Images that show no brain: which of them does the product take for a head?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

from USMRISynthesisLib.alignment.align import align
from USMRISynthesisLib.alignment.common.confidence import MIN_CONFIDENCE
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.evaluation.real.cases import Frame, Head3D
from USMRISynthesisLib.evaluation.real.volumes import surroundings
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.ultrasound.gate import admit


def is_accepted(volume: Volume) -> bool:
    """Whether a synthesis of this image is accepted by gate and alignment, without `allow_low_confidence`."""
    try:
        return align(volume, admit(volume)).score >= MIN_CONFIDENCE
    except Refused:
        return False


def random_sector(seed: int, shape: tuple[int, int] = (260, 340), pixel_mm: float = 0.5) -> Volume:
    """A frame of speckle of uneven brightness in a sector, with a bright arc now and then, and no head."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.standard_normal(shape), max(shape) / rng.uniform(6, 20))
    fine = ndimage.gaussian_filter(rng.standard_normal((2, *shape)), (0, 0.8, 1.6))
    speckle = np.hypot(*fine) / np.hypot(*fine).mean()
    y, x = np.mgrid[: shape[0], : shape[1]]
    apex = (-0.15 * shape[0], shape[1] / 2)
    radius, angle = np.hypot(y - apex[0], x - apex[1]), np.arctan2(x - apex[1], y - apex[0])
    level = 70 * np.exp(0.7 * smooth / smooth.std()) * speckle
    if rng.random() < 0.5:
        level[np.abs(radius - rng.uniform(0.4, 0.9) * shape[0]) < 4] *= 3
    inside = (np.abs(angle) < np.deg2rad(38)) & (radius < 1.12 * shape[0]) & (radius > 0.2 * shape[0])
    image = np.where(inside, np.clip(level, 1, 255), 0).astype(np.uint8)
    return Volume(image[None], np.diag([-pixel_mm, -pixel_mm, pixel_mm, 1.0]))


def evaluate(
    frames: Sequence[Frame],
    heads: Sequence[Head3D],
    *,
    sectors: int = 40,
    progress: Callable[[float, str], None] | None = None,
) -> dict[str, dict[str, float]]:
    """Kind of image -> how many there are, and the share that is taken for a head."""
    kinds: dict[str, list[bool]] = {}
    for number, frame in enumerate(frames):
        kinds.setdefault(frame.plane, []).append(is_accepted(frame.volume))
        if progress is not None:
            progress((number + 1) / len(frames), "images without a brain")
    kinds["random sector"] = [is_accepted(random_sector(seed)) for seed in range(sectors)]
    kinds["beside real 3D heads"] = [is_accepted(part) for head in heads for part in surroundings(head)]
    return {
        kind: {"images": float(len(taken)), "accepted_share": float(np.mean(taken))}
        for kind, taken in sorted(kinds.items())
        if taken
    }
