"""Made-up volumes whose true displacement is known, on a grid that is oblique, anisotropic and left-handed."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation
from USMRISynthesisLib.evaluation.registration.targets import Labelled
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.simulation.anatomy import labels as names

SHAPE = (44, 52, 48)


def grid() -> np.ndarray:
    """(4, 4) voxels to RAS mm, its determinant negative."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", [20, 30, -15], degrees=True).as_matrix() @ np.diag([-1.5, 1.2, 1.8])
    matrix[:3, 3] = (10, -20, 30)
    return matrix


def head() -> tuple[np.ndarray, np.ndarray]:
    """Blobs inside an ellipsoid, 0-1, and the ellipsoid (k, j, i)."""
    rng = np.random.default_rng(0)
    blobs = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 2.5)
    k, j, i = np.indices(SHAPE)
    inside = ((k - 22) / 17) ** 2 + ((j - 26) / 21) ** 2 + ((i - 24) / 19) ** 2 < 1
    return np.where(inside, np.clip(0.5 + 0.2 * blobs / blobs.std(), 0.05, 1), 0), inside


def displacement(middle: np.ndarray) -> np.ndarray:
    """(4, 4) rigid, 6 degrees or so about a point and 4 mm."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", [4, -4, 3], degrees=True).as_matrix()
    matrix[:3, 3] = middle - matrix[:3, :3] @ middle + (2.5, -1.5, 3)
    return matrix


def labelled() -> Labelled:
    """A brain with two ventricles, two deep grey nuclei, a cerebellum of two halves and a brainstem."""
    _, inside = head()
    k, j, i = np.indices(SHAPE)
    found = np.where(inside, names.WHITE_MATTER, 0)
    for label, z, y, x in (
        (names.VENTRICLES, 26, 30, 7),
        (names.DEEP_GREY, 20, 24, 5),
        (names.CEREBELLUM, 14, 14, 6),
    ):
        for side in (-1, 1):
            found[((k - z) ** 2 + (j - y) ** 2 + (i - 24 - side * x) ** 2 < 14) & inside] = label
    found[((k - 14) ** 2 + (j - 24) ** 2 + (i - 24) ** 2 < 12) & inside] = names.BRAINSTEM
    # The head's right is towards lower i: the grid is left-handed.
    to_head = np.diag([-1.5, 1.2, 1.8, 1.0])
    to_head[:3, 3] = (1.5 * 24, -1.2 * 26, -1.8 * 22)
    return Labelled(found.astype(np.uint8), grid(), to_head)


def volume(array: np.ndarray) -> Volume:
    """An array on the grid."""
    return Volume(array, grid())
