"""How well ratings agree: weighted kappa for two lists of ratings, an intraclass correlation for several readers.

Cohen 1968 (Psychol Bull 70:213), quadratic weights; Shrout and Fleiss 1979 (Psychol Bull 86:420), ICC(2,1): two-way
random effects, absolute agreement, a single rater.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def weighted_kappa(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Quadratically weighted kappa of two lists of ratings of the same images; None where neither list varies."""
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if not len(a):
        return None
    expected = ((a[:, None] - b[None, :]) ** 2).mean()
    return None if expected == 0 else float(1 - ((a - b) ** 2).mean() / expected)


def intraclass_correlation(ratings: np.ndarray) -> float | None:
    """ICC(2,1) of ratings (images, readers) without gaps; None for fewer than two of either, or no variance."""
    n, k = ratings.shape
    if n < 2 or k < 2:
        return None
    grand = ratings.mean()
    images, readers = ratings.mean(axis=1), ratings.mean(axis=0)
    between = k * ((images - grand) ** 2).sum() / (n - 1)
    raters = n * ((readers - grand) ** 2).sum() / (k - 1)
    residual = ratings - images[:, None] - readers[None, :] + grand
    error = (residual**2).sum() / ((n - 1) * (k - 1))
    spread = between + (k - 1) * error + k * (raters - error) / n
    return None if spread <= 1e-12 else float((between - error) / spread)
