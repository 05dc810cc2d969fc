"""Finding the outer skull: an ellipse in a frame, an ellipsoid in a volume, by the same method.

The skull is a thick bright ring with a dark inside, broken by shadows and where it runs along the beam; maternal
tissue outside can be as bright. So an ellipse is judged by what lies on 16 copies of it, shrunk and grown about
its centre: the mean over all directions of the image, in two channels, times a template learnt from annotated
frames. Both channels saturate, so that no single echo decides, and directions without signal only count as
zero. The best ellipses of a coarse exhaustive correlation (in the Fourier domain) are refined by Nelder-Mead.

Everything here is in the cells of one isotropic working grid; axes are ordered x, y(, z), and the head's
semi-axes R, A(, S): in a frame (minor, major).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from USMRISynthesisLib.normalisation import skull_search
from USMRISynthesisLib.normalisation.skull_template import (
    contrast_and_brightness,
    prominence,
    rotation_of,
    template,
)


@dataclass(frozen=True)
class Skull:
    """An ellipse or ellipsoid in cells.

    Attributes:
        centre: (n,).
        semi_axes: (n,), ordered R, A(, S).
        rotation: (n, n), whose columns are those axes.
        prominence: local contrast of the ring above what lies inside and outside it; 0.8 is a clear skull, 0.4 is
            what noise offers in a frame, 0.1 in a volume.
    """

    centre: np.ndarray
    semi_axes: np.ndarray
    rotation: np.ndarray
    prominence: float = 0.0


def fit_skull(image: np.ndarray, fan: np.ndarray, cell_mm: float, *, start: Skull | None = None) -> Skull | None:
    """Find the skull.

    Args:
        image: (j, i) or (k, j, i) on an isotropic grid, smoothed to its cells. In 3D the grid's axes are R, A, S
            of the fetus to within 25 degrees.
        fan: same shape, bool.
        cell_mm: size of a cell.
        start: search only near this one.

    Returns:
        The best ellipse or ellipsoid, or None where no candidate has a possible size.
    """
    channels = contrast_and_brightness(image.astype(np.float32), fan)
    n = image.ndim
    parameters = skull_search.best(channels, cell_mm, template(n), None if start is None else _parameters(start))
    if parameters is None:
        return None
    centre, semi_axes, rotation = parameters[:n], np.exp(parameters[n:2 * n]), rotation_of(parameters)
    if n == 2 and semi_axes[0] > semi_axes[1]:
        semi_axes, rotation = semi_axes[::-1], rotation[:, ::-1] * [1, -1]
    return Skull(centre, semi_axes, rotation, prominence(channels, parameters))


def _parameters(skull: Skull) -> np.ndarray:
    """(5,) or (8,): centre, logarithms of the semi-axes, angles."""
    n = len(skull.centre)
    if n == 2:
        angles = np.array([np.arctan2(skull.rotation[1, 0], skull.rotation[0, 0])])
    else:
        angles = Rotation.from_matrix(skull.rotation).as_rotvec()[[0, 2]]
    return np.concatenate([skull.centre, np.log(skull.semi_axes), angles])
