"""Logistic regression with a penalty on its weights, between two sets of rows."""

from __future__ import annotations

import numpy as np
from scipy import optimize
from scipy.special import expit


def fit(real: np.ndarray, simulated: np.ndarray, penalty: float) -> np.ndarray:
    """Weights (d + 1,), the offset last, of rows (n, d) and (m, d); both sides weigh the same."""

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        total, gradient = penalty * float(weights[:-1] @ weights[:-1]), np.append(2 * penalty * weights[:-1], 0.0)
        for sign, table in ((1.0, real), (-1.0, simulated)):
            score = sign * (table @ weights[:-1] + weights[-1])
            total += float(np.logaddexp(0, score).mean()) / 2
            slope = sign * expit(score) / len(table) / 2
            gradient += np.append(slope @ table, slope.sum())
        return total, gradient

    start = np.zeros(real.shape[1] + 1)
    return np.asarray(optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x)
