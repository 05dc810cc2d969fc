"""How far neighbouring slices disagree beyond what anatomy explains: noise, motion and slice-wise gain, as one number.

The linear estimate assumes y = W x + e with x of covariance C and e uncorrelated from slice to slice (`profile`). The
ratio of the variances of e and x, `noise`, is what the image itself makes most likely: nothing is tuned, no background
is needed. On averages over many fetuses it is at its lower bound, on real stacks of a moving one it is 0.05 to 0.25.
"""

from __future__ import annotations

import numpy as np

from USMRISynthesisLib.spacing.profile import CLEAN, degradation, prior

LOUDEST = 1.0
_STEPS_A_DECADE = 8
_ENOUGH_LINES = 50_000


def noise_of(thick: np.ndarray, m: int) -> float:
    """The most likely noise of thick slices (n, h, w) that are to become m, from `CLEAN` to `LOUDEST`.

    Every line along the slice axis, less its mean, is a sample of N(0, s (W C W' + noise)): restricted maximum
    likelihood, s profiled out. Lines of background have little weight. One eigendecomposition makes the matrices
    diagonal.
    """
    n = len(thick)
    lines = np.ascontiguousarray(thick, dtype=np.float64).reshape(n, -1)
    lines = lines[:, :: 1 + lines.shape[1] // _ENOUGH_LINES]
    contrasts = np.linalg.qr(np.c_[np.ones(n), np.eye(n)[:, 1:]])[0][:, 1:]  # all that a line's mean is not
    blur = contrasts.T @ degradation(n, m)
    variances, directions = np.linalg.eigh(blur @ prior(m) @ blur.T)
    energies = np.square((contrasts @ directions).T @ lines).mean(axis=1)
    if not energies.max() > 1e-12 * float(np.square(lines).max()):
        return CLEAN
    steps = np.logspace(np.log10(CLEAN), np.log10(LOUDEST), 1 + round(_STEPS_A_DECADE * np.log10(LOUDEST / CLEAN)))
    expected = variances[None] + steps[:, None]
    surprise = (n - 1) * np.log((energies / expected).sum(axis=1)) + np.log(expected).sum(axis=1)
    return float(steps[np.argmin(surprise)])
