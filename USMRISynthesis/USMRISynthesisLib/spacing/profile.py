"""The slice profile of a thick slice as one small matrix, and the linear estimate that inverts it.

A slice's profile is a Gaussian whose full width at half maximum is the slice's thickness, here the distance of the
slices: no gap, no overlap. With `n` thick and `m` fine slices over the same extent, every fractional factor m/n is
the same formula, and everything below is one product along the slice axis.

    thick = degradation(22, 66) @ fine            # (22, 66) times (66, pixels)
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

SIGMA_OF_FWHM = 1 / np.sqrt(8 * np.log(2))
MIN_FACTOR, MAX_FACTOR = 1.5, 6.0
_CORRELATION_SLICES = 6.0  # fine slices over which the prior's correlation falls to 1/e; 2 to 30 differ by 0.1 dB
CLEAN = 1e-3  # variance of the thick slices' noise, of the prior's: keeps the inverse tame


def positions(n: int, m: int) -> np.ndarray:
    """Centres (n,) of the thick slices in fine indices: both grids cover the same extent, edge to edge."""
    return (np.arange(n) + 0.5) * (m / n) - 0.5


def degradation(n: int, m: int, *, width: float = 1.0, moved: np.ndarray | float = 0.0) -> np.ndarray:
    """The matrix (n, m) that turns m fine slices into n thick ones; every row sums to 1.

    width: the profile's, in distances of the slices. moved: (n,) fine slices by which each thick one lies elsewhere.
    """
    sigma = SIGMA_OF_FWHM * m / n * width
    distance = np.arange(m)[None] - (positions(n, m) + moved)[:, None]
    weights = np.exp(-(distance**2) / (2 * sigma**2))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def prior(m: int) -> np.ndarray:
    """Covariance (m, m) of the fine slices along a line, stationary: exp(-distance / 6 fine slices)."""
    return np.asarray(np.exp(-np.abs(np.arange(m)[:, None] - np.arange(m)[None]) / _CORRELATION_SLICES))


def estimation(n: int, m: int, noise: float = CLEAN) -> np.ndarray:
    """The matrix (m, n) of the best linear estimate of the fine slices: Gauss-Markov, C W' (W C W' + noise)^-1.

    C is `prior`; rows sum to 1, so that a constant stays one. It undoes as much of the profile's blur as can be undone
    without an image prior, and the less the more noise there is: the network's input.
    """
    blur = degradation(n, m)
    seen = prior(m) @ blur.T
    matrix = np.linalg.solve((blur @ seen + noise * np.eye(n)).T, seen.T).T
    return np.asarray(matrix / matrix.sum(axis=1, keepdims=True))


def interpolation(n: int, m: int, order: int) -> np.ndarray:
    """The matrix (m, n) of nearest (0), linear (1) or cubic B-spline (3) interpolation; edges repeat."""
    where = (np.arange(m) + 0.5) * (n / m) - 0.5
    return np.stack([ndimage.map_coordinates(unit, [where], order=order, mode="nearest") for unit in np.eye(n)], axis=1)


def apply(matrix: np.ndarray, slices: np.ndarray) -> np.ndarray:
    """matrix (a, b) times slices (b, h, w) along the slice axis: (a, h, w) float32."""
    flat = np.ascontiguousarray(slices, dtype=np.float32).reshape(len(slices), -1)
    return (matrix.astype(np.float32) @ flat).reshape(len(matrix), *slices.shape[1:])


def project(fine: np.ndarray, thick: np.ndarray) -> np.ndarray:
    """The image nearest to `fine` (m, h, w) whose degradation is `thick` (n, h, w): x + W' (W W')^-1 (y - W x).

    Closed form for every line along the slice axis; what the profile cannot see is left as it was.
    """
    blur = degradation(len(thick), len(fine))
    back = np.linalg.solve(blur @ blur.T, blur).T
    return np.asarray(fine + apply(back, thick - apply(blur, fine)), dtype=np.float32)


def residual(fine: np.ndarray, thick: np.ndarray) -> float:
    """Consistency: rms of degraded `fine` (m, h, w) less `thick` (n, h, w), as a share of thick's robust range."""
    difference = apply(degradation(len(thick), len(fine)), fine) - thick
    low, high = np.percentile(thick, (0.5, 99.5))
    spread = float(high - low) or float(np.ptp(thick)) or 1.0
    return float(np.sqrt(np.mean(np.square(difference, dtype=np.float64)))) / spread
