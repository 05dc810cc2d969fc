"""How far MR-like real frames are from true MR: a kernel distance (KID, Binkowski 2018) on fixed features.

Features are a scattering transform's (`metrics/scattering.py`) of the head's inside in canonical space, where every
head has the same size. True MR is that of the averages of normal fetuses, of which nothing was trained, or without
them of the others: averages are smoother than one fetus's MR, and the fitted atlas is one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from USMRISynthesisLib.evaluation.metrics.image import kernel_distance_of
from USMRISynthesisLib.evaluation.metrics.scattering import scattering
from USMRISynthesisLib.evaluation.real.cases import Frame
from USMRISynthesisLib.evaluation.real.fitted_atlas import canonical_average
from USMRISynthesisLib.simulation.anatomy import atlas

PLANE = range(72, 89, 4)  # a frame's own plane is known to within half a centimetre at best
SCALES = 4
_RIM_MM = 6.0  # of the brain, left out: fluid and skull end there in one image and not in another


def true_slices(data: Path) -> list[np.ndarray]:
    """(n, 160, 160), 0-1, of each average: slices about the frames' plane."""
    normal = (data / atlas.NORMAL_FOLDER).is_dir()
    names = atlas.available(data, atlas.NORMAL_FOLDER if normal else atlas.FOLDER)
    return [canonical_average(data, name)[list(PLANE)].astype(np.float32) for name in names]


def features(images: np.ndarray) -> np.ndarray:
    """(n, d) of canonical images (n, 160, 160), 0-1, 0 outside the head. The brightest fluid (99th percentile) is 1."""
    made = []
    for image in images:
        head = ndimage.binary_fill_holes(image > 0)
        inside = ndimage.distance_transform_edt(np.pad(head, 1))[1:-1, 1:-1] * 0.6 > _RIM_MM
        bright = float(np.percentile(image[inside], 99)) if inside.any() else 1.0
        made.append(scattering(image[None] / max(bright, 1e-3), inside[None], SCALES)[0])
    return np.stack(made)


def distances(
    data: Path, frames: Sequence[Frame], images: Mapping[str, Sequence[np.ndarray]]
) -> dict[str, list[float]]:
    """Method -> [distance, low, high] of its images of the frames (95 % over fetuses) to true MR."""
    real = np.concatenate([features(slices) for slices in true_slices(data)])
    subjects = np.array([frame.subject for frame in frames])
    found = {}
    for method, shown in images.items():
        rows = features(np.stack(shown))
        found[method] = kernel_distance_of([rows[subjects == one] for one in np.unique(subjects)], real)
    return found
