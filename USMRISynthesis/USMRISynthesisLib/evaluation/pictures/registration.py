"""The picture of `usmri evaluate registration`: landmark error by method, and success by the start's distance."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.evaluation.registration.methods import MADE, METHODS, US
from USMRISynthesisLib.evaluation.registration.summary import BINS_MM, ORDER, succeeded

_COLOURS = {US: "#4c78a8", MADE: "#f58518", "fitted atlas": "#54a24b", "true MR": "#8c8c8c"}
_MARKS = ("o", "s", "^", "D", "v")


def draw(heads: Sequence[Mapping[str, Any]], target: Path) -> None:
    """Write a PNG: a row for each kind of MR, one dot a head and method. Raises Failed: no matplotlib."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        logging.getLogger("matplotlib").setLevel(logging.WARNING)
        from matplotlib import pyplot
    except ImportError as error:
        raise Failed(
            "package", "The package matplotlib is not installed.", 'Install it: pip install ".[registration]".'
        ) from error
    rows = [{**row, "head": head["head"]} for head in heads if not head["real"] for row in head["rows"]]
    kinds = list(dict.fromkeys(row["target"] for row in rows)) or ["no head"]
    figure, axes = pyplot.subplots(len(kinds), 2, figsize=(15, 4.2 * len(kinds)), squeeze=False, width_ratios=(3, 2))
    for (left, right), kind in zip(axes, kinds, strict=True):
        part = [row for row in rows if row["target"] == kind and (row["start"] != "pose" or "alone" in row["method"])]
        names = [name for name in ORDER if any(row["method"] == name for row in part)]
        for place, name in enumerate(reversed(names)):
            per_head: dict[str, list[float]] = {}
            for row in part:
                if row["method"] == name:
                    per_head.setdefault(row["head"], []).append(row["tre"])
            values = [float(np.mean(own)) for own in per_head.values()]
            left.scatter(values, np.full(len(values), place), s=22, color=_colour(name), alpha=0.7)
            left.plot([np.mean(values)] * 2, [place - 0.35, place + 0.35], color="black", linewidth=2)
        left.set_yticks(range(len(names)), list(reversed(names)))
        left.set_xlabel("mean landmark error after rigid registration, mm (dots: heads; bar: mean)")
        left.set_title(
            f"Rigid registration with MR of the {kind}".replace("the another", "another") if "head" in kind else kind
        )
        left.set_xlim(left=0)
        left.grid(axis="x", alpha=0.3)
        middles = [(a + b) / 2 for a, b in pairwise(BINS_MM)]
        for number, method in enumerate(METHODS):
            own = [row for row in part if row["method"] == method.name]
            points = []
            for middle, low, high in zip(middles, BINS_MM[:-1], BINS_MM[1:], strict=True):
                within = [succeeded(row) for row in own if low <= row["start_mm"] < high]
                if within:
                    points.append((middle, float(np.mean(within))))
            if points:
                x, y = zip(*points, strict=True)
                right.plot(x, y, marker=_MARKS[number % 5], color=_colour(method.name), label=method.name, alpha=0.8)
        right.set_xlabel("landmark error of the start, mm")
        right.set_ylabel("share of successes")
        right.set_ylim(-0.05, 1.05)
        right.grid(alpha=0.3)
        right.legend(fontsize=6)
    figure.suptitle(f"SIMULATED ultrasound, {len({row['head'] for row in rows})} heads")
    figure.tight_layout()
    figure.savefig(target, format="png", dpi=90)
    pyplot.close(figure)


def _colour(name: str) -> str:
    return next((colour for moving, colour in _COLOURS.items() if name.startswith(f"{moving},")), "#222222")
