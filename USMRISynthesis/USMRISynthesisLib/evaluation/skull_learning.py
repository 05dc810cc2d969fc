"""How the skull template's weights were learnt: candidates ranked so that the best overlap scores highest.

For each case the annotated skull, random neighbours, random places and everything the search itself finds are
candidates. A softmax over their evidence is fitted to a target that falls off with the loss of Dice (0.02 by e),
with neighbouring radii kept alike. The search with the new weights then adds its own mistakes, twice.
Frames: half of the HC18 fetuses (even numbers). Volumes: simulated heads of the training weeks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import optimize

from USMRISynthesisLib.normalisation import skull_search, skull_template

SHARPNESS = 0.02


@dataclass(frozen=True, eq=False)
class Case:
    """channels (2, ...) as the skull search sees them; cell_mm; the true skull's parameters (5,) or (8,); and the
    Dice of any parameters with the truth."""

    channels: np.ndarray
    cell_mm: float
    truth: np.ndarray
    dice: Callable[[np.ndarray], float]


def learn_template(cases: list[Case], rounds: int = 2, seed: int = 0) -> np.ndarray:
    """Weights (34,): 16 contrasts, 16 brightnesses, ratio, size. Cases are all frames or all volumes.

    The search of each round uses the weights of the one before.
    """
    rng = np.random.default_rng(seed)
    n = cases[0].channels.ndim - 1
    tables: list[tuple[np.ndarray, np.ndarray]] = []
    for case in cases:
        found = skull_search.search(case.channels, case.cell_mm, skull_template.template(n))
        tables.append(_table(case, np.vstack([case.truth[None], _neighbours(case.truth, n, 60, rng), found])))
    weights = fit_ranking(tables)
    for _ in range(rounds):
        for index, case in enumerate(cases):
            found = skull_search.search(case.channels, case.cell_mm, weights)
            best = [skull_search.refine(case.channels, weights, found[k], 1.0, 200, None)[0]
                    for k in skull_search.distinct(found, skull_template.evidence(case.channels, found, weights), n, 5)]
            mistakes = np.vstack([found, *best, *[_neighbours(b, n, 3, rng) for b in best]])
            features, dice = _table(case, mistakes)
            tables[index] = np.vstack([tables[index][0], features]), np.append(tables[index][1], dice)
        weights = fit_ranking(tables)
    return weights


def fit_ranking(tables: list[tuple[np.ndarray, np.ndarray]], smoothness: float = 0.02) -> np.ndarray:
    """Weights (34,) from tables of features (candidates, 34) and Dice (candidates,), one a case."""
    spread = np.mean([features.std(axis=0) for features, _ in tables], axis=0)
    spread[:16], spread[16:32] = spread[:16].mean(), spread[16:32].mean()
    targets = [np.exp((dice - dice.max()) / SHARPNESS) for _, dice in tables]

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        total, gradient = 0.0, np.zeros_like(weights)
        for (features, _), target in zip(tables, targets, strict=True):
            scaled, wanted = features / spread, target / target.sum()
            evidence = scaled @ weights
            top = evidence.max()
            share = np.exp(evidence - top)
            total += top + np.log(share.sum()) - float(wanted @ evidence)
            gradient += scaled.T @ (share / share.sum() - wanted)
        total, gradient = total / len(tables), gradient / len(tables)
        total += 0.05 * smoothness * float(weights @ weights)
        gradient += 0.1 * smoothness * weights
        for part in (slice(0, 16), slice(16, 32)):
            steps = np.diff(weights[part])
            total += smoothness * float(steps @ steps)
            gradient[part] += 2 * smoothness * (np.append(0, steps) - np.append(steps, 0))
        return total, gradient

    found = optimize.minimize(loss, np.zeros(len(spread)), jac=True, method="L-BFGS-B", options={"maxiter": 300})
    return found.x / spread


def _neighbours(parameters: np.ndarray, n: int, count: int, rng: np.random.Generator) -> np.ndarray:
    near = parameters + rng.normal(size=(count, len(parameters))) * skull_search.steps(parameters, n) * rng.choice(
        [0.4, 1.0, 2.0], (count, 1))
    if n == 3:
        near[:, 6:] = np.clip(near[:, 6:], -skull_template.MAX_TILT, skull_template.MAX_TILT)
    return near


def _table(case: Case, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return skull_template.features(case.channels, candidates), np.array([case.dice(p) for p in candidates])
