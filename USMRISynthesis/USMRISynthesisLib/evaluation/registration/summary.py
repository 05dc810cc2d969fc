"""From the rows of all heads to figures: errors, success, capture range, differences between methods over heads.

A rigid registration succeeds where its mean error at the landmarks is at most `SUCCESS_MM`: the bend of the MR, or the
other head's anatomy, leaves 1 to 3 mm to the best one. Intervals are 95 %, bootstrap over heads; a head's value is the
mean over its starts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from USMRISynthesisLib.evaluation.real.fitted_atlas import FITTED
from USMRISynthesisLib.evaluation.registration.methods import MADE, METHODS, US
from USMRISynthesisLib.evaluation.synthesis.evaluate import interval

START, POSE_ALONE, BEST = "start, not registered", "estimated poses alone", "best rigid motion"
SUCCESS_MM = 4.0
BINS_MM = (0.0, 5.0, 10.0, 15.0, 30.0)
Rows = Sequence[Mapping[str, Any]]
ORDER = (START, POSE_ALONE, *(method.name for method in METHODS))


def summarise(heads: Sequence[Mapping[str, Any]], measured_on: str) -> dict[str, Any]:
    """The record's figures: one table for each kind of MR and of start, the capture ranges, and who wins."""
    rows = [{**row, "head": head["head"], "real": head["real"]} for head in heads for row in head["rows"]]
    result: dict[str, Any] = {
        "measured_on": measured_on,
        "heads": sum(not head["real"] for head in heads),
        "heads_accepted": sum(bool(head["accepted"]) for head in heads if not head["real"]),
        "real_volumes": sum(bool(head["real"]) for head in heads),
        "starts_an_mr": len({row["start"] for row in rows if row["start"] != "pose"}),
    }
    known = [row for row in rows if not row["real"]]
    for kind in _in_order(row["target"] for row in known):
        part = [row for row in known if row["target"] == kind and row["start"] != "pose"]
        pose = [row for row in known if row["target"] == kind and row["method"] == POSE_ALONE]
        if part:
            result[f"{kind}: from starts within 20 deg and 15 mm"] = table_of([*part, *pose])
            result[f"{kind}: success by distance of the start"] = capture(part)
            result[f"{kind}: error minus that of the best with the MR-like image, mm"] = differences([*part, *pose])
        after = [row for row in known if row["target"] == kind and row["start"] == "pose"]
        if len({row["method"] for row in after}) > 1:
            result[f"{kind}: from the estimated poses"] = table_of(after)
    seen = [row for row in rows if row["real"]]
    if seen:
        result["real volumes and the normal average: no truth, distance to landmarks by eye"] = table_of(seen)
        result["real volumes: spread of the places that the starts lead to, mm"] = spread(seen)
    result["winner"] = winner(known)
    result["per_case"] = _per_case(rows)
    return result


def table_of(rows: Rows) -> dict[str, dict[str, Any]]:
    """Method -> its figures, in ORDER; a failure is counted with the error of its start."""
    made: dict[str, dict[str, Any]] = {}
    for name in _named(rows):
        own = [row for row in rows if row["method"] == name]
        figures: dict[str, Any] = {"tre_mm": _interval(own, "tre"), "runs": len(own)}
        figures["success_share"] = float(np.mean([succeeded(row) for row in own]))
        figures["failed_share"] = float(np.mean([bool(row["failed"]) for row in own]))
        for key, label in (
            ("surface", "surface_mm"),
            ("tre_deformable", "tre_deformable_mm"),
            ("surface_deformable", "surface_deformable_mm"),
        ):
            if any(row.get(key) is not None for row in own):
                figures[label] = _interval([row for row in own if row.get(key) is not None], key)
        if name not in (START, POSE_ALONE) and any(row.get("tre_deformable") is not None for row in own):
            both = [row for row in own if row.get("tre_deformable") is not None]
            figures["tre_before_deformable_mm"] = float(np.mean([row["tre"] for row in both]))
        for key in ("seconds", "seconds_deformable"):
            taken = [row[key] for row in own if row.get(key) is not None]
            if taken:
                figures[f"processor_{key}"] = float(np.median(taken))
        made[name] = figures
    floors = [{**row, "tre": row["best_rigid_mm"]} for row in rows if row["method"] == START]
    if floors:
        made[BEST] = {"tre_mm": _interval(floors, "tre"), "runs": len(floors)}
    return made


def succeeded(row: Mapping[str, Any]) -> bool:
    """Whether a registration did not fail and came near enough."""
    return not row["failed"] and row["tre"] <= SUCCESS_MM


def capture(rows: Rows) -> dict[str, dict[str, Any]]:
    """Method -> share of successes for starts that lie so far off."""
    made: dict[str, dict[str, Any]] = {}
    for name in _named(rows):
        own = [row for row in rows if row["method"] == name]
        made[name] = {}
        for low, high in pairwise(BINS_MM):
            within = [succeeded(row) for row in own if low <= row["start_mm"] < high]
            if within:
                made[name][f"{low:.0f}-{high:.0f} mm"] = f"{sum(within)} of {len(within)}"
    return made


def differences(rows: Rows) -> dict[str, dict[str, Any]]:
    """Method -> its error minus that of the best method with the MR-like image, mm; positive: the MR-like is better."""
    ours = best(rows, MADE)
    if ours is None:
        return {}
    return {
        name: {"difference_mm": value, "heads": count}
        for name in _named(rows)
        if name != ours
        for value, count in [_paired(rows, name, ours)]
        if count
    } | {f"(the best with the MR-like image: {ours})": {}}


def best(rows: Rows, moving: str) -> str | None:
    """The method with the smallest mean error among those that register this image."""
    names = {method.name for method in METHODS if method.moving == moving}
    found = {name: _by_head(rows, name) for name in _named(rows) if name in names}
    return min(found, key=lambda name: float(np.mean(list(found[name].values())))) if found else None


def winner(rows: Rows) -> str:
    """One plain sentence on rigid registration with an MR of the same head, from the starts."""
    part = [row for row in rows if row["start"] != "pose" or row["method"] == POSE_ALONE]
    kind = _in_order(row["target"] for row in part)[:1]
    part = [row for row in part if row["target"] in kind]
    named = {moving: best(part, moving) for moving in (US, MADE, FITTED)}
    errors = {name: float(np.mean(list(_by_head(part, name).values()))) for name in named.values() if name}
    pose = _by_head(part, POSE_ALONE)
    if pose:
        errors[POSE_ALONE] = float(np.mean(list(pose.values())))
    if len(errors) < 2:
        return "Not enough was measured to say who wins."
    first, second = sorted(errors, key=lambda name: errors[name])[:2]
    value, count = _paired(part, second, first)
    sure = "" if value[1] > 0 else "; the interval of the difference holds 0, so this decides nothing"
    made = named[MADE]
    ours = "" if made is None or first == made else f" The MR-like image's best is {errors[made]:.1f} mm ({made})."
    return (
        f"Over {count} simulated head{'s' if count != 1 else ''} the smallest mean landmark error has {first}: "
        f"{errors[first]:.1f} mm, then {second}: {errors[second]:.1f} mm (difference {value[0]:.1f} "
        f"[{value[1]:.1f}, {value[2]:.1f}] mm{sure}).{ours}"
    )


def spread(rows: Rows) -> dict[str, dict[str, Any]]:
    """Method -> mean distance of the landmarks' places from their middle over a head's starts, mm: repeatability."""
    made = {}
    for name in _named(rows):
        groups: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
        for row in rows:
            if row["method"] == name and row["start"] != "pose":
                groups[row["head"], row["target"]].append(np.array(row["places"]))
        found = [
            float(np.linalg.norm(np.array(places) - np.median(places, axis=0), axis=2).mean())
            for places in groups.values()
            if len(places) > 1
        ]
        if found:
            made[name] = {"spread_mm": float(np.mean(found)), "volumes": len(found)}
    return made


def table(result: Mapping[str, Any]) -> str:
    """The figures as text."""
    lines = [f"registration: {result['measured_on']}, {result['heads']} heads, {result['real_volumes']} real volumes"]
    for key, group in result.items():
        if key == "per_case" or not isinstance(group, Mapping):
            continue
        lines += ["", key]
        for name, row in group.items():
            cells = [f"{label} {_text(value)}" for label, value in row.items()]
            lines.append(f"  {name:48s} " + "  ".join(cells))
    return "\n".join([*lines, "", result["winner"]])


def _text(value: Any) -> str:
    if isinstance(value, list):
        return f"{value[0]:.2f} [{value[1]:.2f}, {value[2]:.2f}]"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _named(rows: Rows) -> list[str]:
    present = {row["method"] for row in rows}
    return [name for name in ORDER if name in present]


def _in_order(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _by_head(rows: Rows, name: str, key: str = "tre") -> dict[str, float]:
    """Head -> mean over its runs of one method."""
    values: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row["method"] == name and row.get(key) is not None:
            values[row["head"]].append(float(row[key]))
    return {head: float(np.mean(own)) for head, own in values.items()}


def _interval(rows: Rows, key: str) -> list[float]:
    by_head: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        by_head[row["head"]].append(float(row[key]))
    return interval(np.array([np.mean(own) for own in by_head.values()]), np.random.default_rng(0))


def _paired(rows: Rows, name: str, other: str) -> tuple[list[float], int]:
    """[mean, low, high] of one method's error minus another's over the heads that have both, and how many."""
    first, second = _by_head(rows, name), _by_head(rows, other)
    both = sorted(set(first) & set(second))
    if not both:
        return [0.0, 0.0, 0.0], 0
    return interval(np.array([first[head] - second[head] for head in both]), np.random.default_rng(0)), len(both)


def _per_case(rows: Rows) -> dict[str, dict[str, float]]:
    """Head and MR -> method -> mean rigid error from the starts, mm; kept in the record, not shown on the page."""
    made: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["start"] != "pose" or row["method"] == POSE_ALONE:
            case = f"{row['head']}, {row['target']}"
            same = [one for one in rows if one["target"] == row["target"] and one["head"] == row["head"]
                    and (one["start"] != "pose" or one["method"] == POSE_ALONE)]  # fmt: skip
            made.setdefault(case, {})[row["method"]] = round(_by_head(same, row["method"])[row["head"]], 3)
    return made
