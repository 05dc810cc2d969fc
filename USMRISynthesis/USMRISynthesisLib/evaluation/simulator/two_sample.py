"""The two-sample test: can a classifier separate simulated from real frames of fetuses and weeks it was not trained on?

Two classifiers are trained: a small network on the pictures, and a logistic regression on `appearance`'s statistics,
which shows what distinguishes the simulation.  An AUC of 0.5 is chance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from USMRISynthesisLib.evaluation.metrics.image import auc_between
from USMRISynthesisLib.evaluation.metrics.logistic import fit
from USMRISynthesisLib.evaluation.simulator.appearance import frame_statistics
from USMRISynthesisLib.evaluation.simulator.frames import Frames

_BOOTSTRAPS = 1000
_BATCH = 32
_PATIENCE = 8


@dataclass(frozen=True, eq=False)
class Outcome:
    """auc of the held-out part with its 95 % interval over fetuses and heads; scores of its frames, real ones first."""

    auc: float
    interval: tuple[float, float]
    scores: tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Clue:
    """A statistic that distinguishes them: its own AUC (> 0.5: larger when simulated) and its two medians.

    covered: share of the real frames whose value lies between the simulated ones' 1st and 99th percentile.
    """

    name: str
    auc: float
    real: float
    simulated: float
    covered: float


def interval(
    real: np.ndarray, real_group: np.ndarray, simulated: np.ndarray, simulated_group: np.ndarray, seed: int = 0
) -> tuple[float, float]:
    """95 % bootstrap interval of the AUC, drawing whole fetuses and whole heads."""
    rng = np.random.default_rng(seed)
    members = [
        [score[group == name] for name in np.unique(group)]
        for score, group in ((real, real_group), (simulated, simulated_group))
    ]
    values = []
    for _ in range(_BOOTSTRAPS):
        drawn = [np.concatenate([side[n] for n in rng.integers(0, len(side), len(side))]) for side in members]
        values.append(auc_between(drawn[0], drawn[1]))
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _outcome(real: Frames, simulated: Frames, scores: tuple[np.ndarray, np.ndarray]) -> Outcome:
    return Outcome(auc_between(*scores), interval(scores[0], real.group, scores[1], simulated.group), scores)


class RealVsSimulatedClassifier(nn.Module):
    """About 85,000 weights; its receptive field grows from 5 x 5 pixels of 0.6 mm to the whole head."""

    def __init__(self) -> None:
        super().__init__()
        widths = (16, 32, 48, 64, 64)
        layers: list[nn.Module] = []
        before = 1
        for n, width in enumerate(widths):
            reach = 2 if n == 0 else 1
            layers.append(nn.Conv2d(before, width, 2 * reach + 1, stride=1 if n == 4 else 2, padding=reach))
            layers += [nn.GroupNorm(8, width), nn.ReLU(inplace=True)]
            before = width
        self.features = nn.Sequential(*layers)
        self.last = nn.Sequential(nn.Dropout(0.3), nn.Linear(2 * before, 1))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Logit (n,) of being simulated, of pictures (n, 1, h, w) in 0-1."""
        found = self.features(pictures)
        pooled = torch.cat((found.mean(dim=(2, 3)), found.amax(dim=(2, 3))), dim=1)
        return torch.Tensor(self.last(pooled))[:, 0]


def classify_frames(
    real: Frames,
    simulated: Frames,
    *,
    seed: int = 0,
    epochs: int = 30,
    progress: Callable[[float, str], None] | None = None,
) -> Outcome:
    """Train a `RealVsSimulatedClassifier` on the train parts, stop by the val parts, and score the test parts."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    sides = (real, simulated)
    train = [side.us[side.part == "train"] for side in sides]
    val = [side.us[side.part == "val"] for side in sides]
    classifier = RealVsSimulatedClassifier()
    optimiser = torch.optim.AdamW(classifier.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    best, patience, kept = np.inf, _PATIENCE, classifier.state_dict()
    for epoch in range(epochs):
        classifier.train()
        for pictures, target in _batches(train, rng):
            loss = functional.binary_cross_entropy_with_logits(classifier(pictures), target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        schedule.step()
        # the balanced mean of both sides' losses
        losses = [np.logaddexp(0, sign * _scores(classifier, us)).mean() for sign, us in zip((1, -1), val, strict=True)]
        if progress:
            progress((epoch + 1) / epochs, f"epoch {epoch + 1}, validation loss {np.mean(losses):.3f}")
        if np.mean(losses) < best - 1e-4:
            best, patience = float(np.mean(losses)), _PATIENCE
            kept = {name: value.clone() for name, value in classifier.state_dict().items()}
        else:
            patience -= 1
            if patience == 0:
                break
    classifier.load_state_dict(kept)
    tests = [side.take(side.part == "test") for side in sides]
    return _outcome(tests[0], tests[1], (_scores(classifier, tests[0].us), _scores(classifier, tests[1].us)))


def _batches(train: list[np.ndarray], rng: np.random.Generator) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """An epoch: as many real as simulated frames in each batch, flipped, shifted, gain and contrast varied a little."""
    half = _BATCH // 2
    count = max(1, min(200, max(len(side) for side in train)) // half)
    batches = []
    for _ in range(count):
        chosen = [side[rng.choice(len(side), half, replace=len(side) < half)] for side in train]
        pictures = torch.from_numpy(np.concatenate(chosen)).float()[:, None] / 255
        size = (len(pictures), 1, 1, 1)
        gain = torch.from_numpy(rng.uniform(0.85, 1.15, size)).float()
        bend = torch.from_numpy(rng.uniform(0.87, 1.15, size)).float()
        pictures = (pictures**bend * gain).clamp(0, 1)
        for axis in (2, 3):
            flip = torch.from_numpy(rng.random(len(pictures)) < 0.5)
            pictures[flip] = pictures[flip].flip(axis)
        pictures = pictures.roll(tuple(int(n) for n in rng.integers(-3, 4, 2)), dims=(2, 3))
        target = torch.cat((torch.zeros(half), torch.ones(half)))
        batches.append((pictures, target))
    return batches


@torch.no_grad()
def _scores(classifier: RealVsSimulatedClassifier, us: np.ndarray) -> np.ndarray:
    """Logits (n,), means over the four flips."""
    classifier.eval()
    pictures = torch.from_numpy(us).float()[:, None] / 255
    total = sum(classifier(torch.flip(pictures, axes)) for axes in ((), (2,), (3,), (2, 3)))
    return np.asarray(total) / 4


def within_head(frames: Frames, limit: float = 1.1) -> Frames:
    """The same frames with nothing left beyond `limit` of the skull's ellipse."""
    from USMRISynthesisLib.geometry.canonical import canonical_axis_mm

    axis = canonical_axis_mm()
    across, along = frames.half_axes_mm.T[:, :, None, None] * limit
    inside = (axis[None, None, :] / across) ** 2 + (axis[None, :, None] / along) ** 2 < 1
    us = np.where(inside, frames.us, 0).astype(np.uint8)
    return replace(frames, us=us, fan=frames.fan & inside)


def classify_statistics(real: Frames, simulated: Frames, penalty: float = 0.02) -> tuple[Outcome, list[Clue]]:
    """Logistic regression on the statistics; the clues are each statistic alone, the most distinctive first."""
    rows = [[frame_statistics(u, f, (a[0], a[1])) for u, f, a in zip(s.us, s.fan, s.half_axes_mm, strict=True)]
            for s in (real, simulated)]  # fmt: skip
    names = list(rows[0][0])
    tables = [np.array([[row[name] for name in names] for row in side]) for side in rows]
    clues = []
    for n, name in enumerate(names):
        values = [table[np.isfinite(table[:, n]), n] for table in tables]
        if min(len(v) for v in values) > 10:
            low, high = np.percentile(values[1], [1, 99])
            covered = float(((values[0] >= low) & (values[0] <= high)).mean())
            middle_real, middle_simulated = (float(np.median(value)) for value in values)
            clues.append(Clue(name, auc_between(*values), middle_real, middle_simulated, covered))
    clues.sort(key=lambda clue: -abs(clue.auc - 0.5))
    train = [table[side.part == "train"] for table, side in zip(tables, (real, simulated), strict=True)]
    test = [table[side.part == "test"] for table, side in zip(tables, (real, simulated), strict=True)]
    middle = np.nan_to_num(np.nanmedian(np.concatenate(train), axis=0))
    spread = np.nan_to_num(np.nanstd(np.concatenate(train), axis=0)) + 1e-6

    def scaled(table: np.ndarray) -> np.ndarray:
        return np.clip(np.nan_to_num((table - middle) / spread), -5, 5)

    weights = fit(scaled(train[0]), scaled(train[1]), penalty)
    scores = (scaled(test[0]) @ weights[:-1], scaled(test[1]) @ weights[:-1])
    tests = [side.take(side.part == "test") for side in (real, simulated)]
    return _outcome(tests[0], tests[1], scores), clues
