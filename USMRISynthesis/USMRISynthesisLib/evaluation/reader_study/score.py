"""What the readers of a study say together: mean opinion scores, comparisons of methods, agreement, marks.

Intervals and p-values are from a bootstrap that draws readers and cases at the same time, as both are samples: with few
readers the intervals are wide. Two methods that show the same cases are compared on the same draw, so in pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from USMRISynthesisLib.evaluation.reader_study.agreement import intraclass_correlation, weighted_kappa
from USMRISynthesisLib.evaluation.reader_study.form import GROUP_OF, GROUPS, KINDS, TEST
from USMRISynthesisLib.evaluation.reader_study.readings import Key, Reading

DRAWS = 4000
ALL = "All readers"
_FEWEST_SHARED = 2


def score_study(readings: Sequence[Reading], key: Key, *, draws: int = DRAWS, seed: int = 0) -> dict[str, Any]:
    """The figures of a study.

    Args:
        readings: a reader each, all of this study. key: of the study. draws: of the bootstrap. seed: of its numbers.

    Returns:
        study, test (whether nobody read it but those who tested the page), readers (kind -> number), incomplete (names
        of readers who did not rate everything), cases (method -> number), mos (group -> method -> [mean, low, high]),
        mos_by_kind (the same by profession), comparisons (group -> list of method, other, difference [mean, low, high],
        p, p_holm, paired), intra (within readers), inter (between readers), marks and seconds (by method).
    """
    methods = sorted({method for method, _ in key.items.values()})
    cases = {method: sorted({case for other, case in key.items.values() if other == method}) for method in methods}
    rng = np.random.default_rng(seed)
    groups = [group for group in GROUPS if any(GROUP_OF[one.kind] == group for one in readings)]
    members = {group: [one for one in readings if GROUP_OF[one.kind] == group] for group in groups}
    if len(groups) > 1:
        members[ALL] = list(readings)
    kinds = {label: own for kind, label, _ in KINDS if (own := [one for one in readings if one.kind == kind])}
    drawn = {group: _Draws(_scores(own, key, cases), draws, rng) for group, own in members.items()}
    return {
        "study": key.study,
        "title": key.title,
        "test": all(one.kind == TEST for one in readings),
        "readers": {label: len(own) for label, own in kinds.items()},
        "incomplete": sorted(one.reader for one in readings if not one.complete),
        "cases": {method: len(own) for method, own in cases.items()},
        "mos": {group: one.means(methods) for group, one in drawn.items()},
        "mos_by_kind": {
            label: _Draws(_scores(own, key, cases), draws, rng).means(methods) for label, own in kinds.items()
        },
        "comparisons": {group: one.comparisons(methods, cases) for group, one in drawn.items()},
        "intra": _within(readings, key),
        "inter": {group: _between(own, key) for group, own in members.items()},
        "marks": _marks(readings, key, methods),
        "seconds": _seconds(readings, key, methods),
    }


def first_ratings(reading: Reading, key: Key) -> dict[tuple[str, str], int]:
    """(method, case) -> the score that a reader gave when the image came first."""
    found: dict[tuple[str, str], int] = {}
    for one in reading.ratings:  # in the order in which they came
        found.setdefault(key.items[one.item], one.score)
    return found


def repeated_ratings(reading: Reading, key: Key) -> list[tuple[int, int]]:
    """The first and second score of every image that came twice."""
    seen: dict[tuple[str, str], int] = {}
    pairs = []
    for one in reading.ratings:
        image = key.items[one.item]
        if image in seen:
            pairs.append((seen[image], one.score))
        seen.setdefault(image, one.score)
    return pairs


def _scores(readings: Sequence[Reading], key: Key, cases: Mapping[str, Sequence[str]]) -> np.ndarray:
    """(readers, cases, methods) with NaN where there is no rating; a case of one name is one case in all methods."""
    names = sorted({case for own in cases.values() for case in own})
    values = np.full((len(readings), len(names), len(cases)), np.nan)
    place = {name: number for number, name in enumerate(names)}
    for number, reading in enumerate(readings):
        for (method, case), score in first_ratings(reading, key).items():
            values[number, place[case], list(cases).index(method)] = score
    return values


class _Draws:
    """Mean scores by method of the readers as they are, and of draws of readers and cases."""

    def __init__(self, scores: np.ndarray, draws: int, rng: np.random.Generator) -> None:
        readers, cases, _ = scores.shape
        known = np.isfinite(scores)
        self._mean = _ratio(np.nansum(scores, axis=(0, 1)), known.sum(axis=(0, 1)))
        by_reader = rng.multinomial(readers, np.full(readers, 1 / readers), size=draws).astype(float)
        by_case = rng.multinomial(cases, np.full(cases, 1 / cases), size=draws).astype(float)
        total = np.einsum("dr,dc,rcm->dm", by_reader, by_case, np.nan_to_num(scores), optimize=True)
        count = np.einsum("dr,dc,rcm->dm", by_reader, by_case, known.astype(float), optimize=True)
        self._drawn = _ratio(total, count)

    def means(self, methods: Sequence[str]) -> dict[str, list[float] | None]:
        """Method -> mean and 95 % interval; None where nobody rated it."""
        return {method: _interval(self._mean[number], self._drawn[:, number]) for number, method in enumerate(methods)}

    def comparisons(self, methods: Sequence[str], cases: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
        """All pairs of methods: the difference of their means, its interval, its p-value, corrected after Holm."""
        found: list[dict[str, Any]] = []
        for a, b in combinations(range(len(methods)), 2):
            drawn = self._drawn[:, a] - self._drawn[:, b]
            drawn = drawn[np.isfinite(drawn)]
            interval = _interval(self._mean[a] - self._mean[b], drawn)
            if interval is None:
                continue
            tail = min((drawn <= 0).sum(), (drawn >= 0).sum())
            found.append(
                {
                    "method": methods[a],
                    "other": methods[b],
                    "difference": interval,
                    "p": min(1.0, 2 * (int(tail) + 1) / (len(drawn) + 1)),
                    "paired": set(cases[methods[a]]) == set(cases[methods[b]]),
                }
            )
        worst = 0.0
        for rank, one in enumerate(sorted(found, key=lambda one: one["p"])):
            worst = max(worst, min(1.0, one["p"] * (len(found) - rank)))
            one["p_holm"] = worst
        return found


def _ratio(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def _interval(middle: float, drawn: np.ndarray) -> list[float] | None:
    drawn = drawn[np.isfinite(drawn)]
    if not np.isfinite(middle) or not len(drawn):
        return None
    low, high = np.percentile(drawn, (2.5, 97.5))
    return [float(middle), float(low), float(high)]


def _within(readings: Sequence[Reading], key: Key) -> dict[str, Any]:
    """Agreement of readers with themselves, on the images that came twice."""
    pairs = {one.reader: repeated_ratings(one, key) for one in readings}
    everyone = [pair for own in pairs.values() for pair in own]
    return {
        **_agreement(everyone),
        "readers": {name: _agreement(own) for name, own in pairs.items() if own},
    }


def _agreement(pairs: Sequence[tuple[int, int]]) -> dict[str, Any]:
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    return {
        "pairs": len(pairs),
        "weighted_kappa": weighted_kappa(first, second),
        "same_share": float(np.mean(np.equal(first, second))) if pairs else None,
    }


def _between(readings: Sequence[Reading], key: Key) -> dict[str, Any]:
    """Agreement between readers: mean weighted kappa of all pairs, and ICC(2,1) on the images that all rated."""
    rated = [first_ratings(one, key) for one in readings]
    kappas = []
    for one, other in combinations(rated, 2):
        shared = sorted(set(one) & set(other))
        if len(shared) >= _FEWEST_SHARED:
            kappas.append(weighted_kappa([one[image] for image in shared], [other[image] for image in shared]))
    known = [kappa for kappa in kappas if kappa is not None]
    common = sorted(set.intersection(*(set(one) for one in rated)))
    table = np.array([[float(one[image]) for one in rated] for image in common]).reshape(len(common), len(rated))
    return {
        "readers": len(readings),
        "images": len(common),
        "weighted_kappa": float(np.mean(known)) if known else None,
        "icc": intraclass_correlation(table),
    }


def _marks(readings: Sequence[Reading], key: Key, methods: Sequence[str]) -> dict[str, dict[str, float]]:
    """Method -> share of images with a mark, marks an image."""
    counts: dict[str, list[int]] = {method: [] for method in methods}
    for reading in readings:
        for one in reading.ratings:
            counts[key.items[one.item][0]].append(len(one.marks))
    return {
        method: {"marked_share": float(np.mean(np.greater(own, 0))), "marks_mean": float(np.mean(own))}
        for method, own in counts.items()
        if own
    }


def _seconds(readings: Sequence[Reading], key: Key, methods: Sequence[str]) -> dict[str, float]:
    """Method -> median seconds an image."""
    times: dict[str, list[float]] = {method: [] for method in methods}
    for reading in readings:
        for one in reading.ratings:
            times[key.items[one.item][0]].append(one.seconds)
    return {method: float(np.median(own)) for method, own in times.items() if own}
