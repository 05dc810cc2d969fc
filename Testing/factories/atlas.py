"""A made-up atlas of two gestational weeks, in the file layout of the real one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.simulation.anatomy import atlas


def make_atlas(root: Path) -> Path:
    """Two 'weeks' of an ellipsoidal brain with two ventricles, 1.2 mm, in the atlas's file layout."""
    shape, spacing = (72, 92, 76), 1.2
    ijk_to_ras = np.diag([spacing, spacing, spacing, 1.0])
    ijk_to_ras[:3, 3] = -spacing * (np.array(shape[::-1]) - 1) / 2
    k, j, i = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    x, y, z = ((n - (size - 1) / 2) * spacing for n, size in zip((i, j, k), shape[::-1], strict=True))
    for name, length in (("GA24-made", 36.0), ("GA29-made", 42.0)):
        labels = np.zeros(shape, np.uint8)
        brain = (x / (0.78 * length)) ** 2 + (y / length) ** 2 + (z / (0.75 * length)) ** 2
        labels[brain < 1] = atlas.CORTEX
        labels[brain < 0.8] = atlas.WHITE_MATTER
        labels[(np.abs(x) < 10) & (np.abs(y) < 12) & (np.abs(z) < 9)] = atlas.DEEP_GREY
        for side in (-1, 1):
            ventricle = ((x - side * 11) / 6) ** 2 + ((y + 6) / 19) ** 2 + ((z - 5) / 9) ** 2
            labels[ventricle < 1] = atlas.VENTRICLES
        labels[(np.abs(x) < 5) & (np.abs(y) < 14) & (np.abs(z - 14) < 2)] = atlas.CORPUS_CALLOSUM
        labels[(np.abs(x) < 6) & (np.abs(y + 10) < 6) & (z < -8) & (brain < 1)] = atlas.BRAINSTEM
        t2 = np.select([labels == atlas.VENTRICLES, labels == atlas.CORTEX, labels > 0], [2700.0, 1500.0, 1900.0])
        folder = root / "fetal-mr-atlas" / name
        folder.mkdir(parents=True)
        Volume(t2.astype(np.float32), ijk_to_ras).write(folder / "t2.nii.gz")
        Volume(labels, ijk_to_ras).write(folder / "labels.nii.gz")
    return root
