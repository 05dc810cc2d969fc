"""Biometry from the pose and the fitted skull: biparietal and occipito-frontal diameter, and head circumference.

The outline is the ellipse around the outer border of the skull, so all three are from outer to outer border. Of a
volume it is the section of the skull's ellipsoid by the head-circumference plane of canonical space. Offsets and errors
are measured by `usmri evaluate biometry`: frames on HC18's (offset on training frames, error on validation frames),
volumes on simulated heads of unseen weeks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from USMRISynthesisLib.alignment import growth
from USMRISynthesisLib.alignment.common.confidence import MIN_CONFIDENCE
from USMRISynthesisLib.alignment.volume.pose import circumference_mm
from USMRISynthesisLib.geometry.canonical import HC_PLANE_Z_MM
from USMRISynthesisLib.geometry.head import Alignment

NAMES = ("hc", "bpd", "ofd")
NOTICE = "Computed from the ultrasound, not for diagnosis."
DEFINITION = "outer to outer border of the skull, of the fitted ellipse"


@dataclass(frozen=True)
class Accuracy:
    """Of one measure, as shares of it. offset: how much too large it comes out; deviation: standard deviation."""

    offset: float
    deviation: float


# Frames: 120 training and 120 validation frames of HC18, 150 mm and more. Volumes: no offset is corrected, and the
# deviations are chosen wide: few simulated heads, no real one, stand behind them.
FRAMES = {"hc": Accuracy(0.0046, 0.0136), "bpd": Accuracy(0.0006, 0.0130), "ofd": Accuracy(-0.0023, 0.0213)}
VOLUMES = {"hc": Accuracy(0.0, 0.03), "bpd": Accuracy(0.0, 0.04), "ofd": Accuracy(0.0, 0.04)}


@dataclass(frozen=True)
class Measure:
    """mm, and the ends of its 95 % interval; centile: 0-100 at the given age, if there is one."""

    mm: float
    low: float
    high: float
    centile: float | None = None


@dataclass(frozen=True)
class Biometry:
    """The three measures of a head; age: by the circumference, (weeks, youngest, oldest), where no age is given."""

    hc: Measure
    bpd: Measure
    ofd: Measure
    given_weeks: float | None
    age: tuple[float, float, float] | None

    def to_json(self) -> dict[str, Any]:
        """Plain values for provenance and reports, in mm and weeks."""
        found: dict[str, Any] = {"notice": NOTICE, "definition": DEFINITION, "standard": growth.STANDARD}
        for name in NAMES:
            one: Measure = getattr(self, name)
            found[name] = {"mm": round(one.mm, 1), "interval_mm": [round(one.low, 1), round(one.high, 1)]}
            if one.centile is not None:
                found[name]["centile"] = round(one.centile, 1)
        found["gestational_age_weeks"] = self.given_weeks
        if self.age is not None:
            weeks, youngest, oldest = (round(value, 1) for value in self.age)
            found["age_by_hc"] = {"weeks": weeks, "interval_weeks": [youngest, oldest]}
        return found


def biometry(alignment: Alignment, *, is_frame: bool, weeks: float | None = None) -> Biometry | None:
    """Measures of a head that was found reliably, else None; None as well where no head has such a size.

    weeks: the gestational age, where it is given: the measures get centiles, else an age is estimated.
    """
    if not alignment.score >= MIN_CONFIDENCE:
        return None
    sizes = sizes_mm(alignment, is_frame=is_frame)
    if sizes is None:
        return None
    accuracy = FRAMES if is_frame else VOLUMES
    measures = {}
    for name in NAMES:
        mm = sizes[name] / (1 + accuracy[name].offset)
        half = growth.NORMAL_95 * accuracy[name].deviation * mm
        of_age = weeks is not None and growth.WEEKS[0] <= weeks <= growth.WEEKS[1]
        share = growth.centile(name, mm, float(weeks)) if weeks is not None and of_age else None
        measures[name] = Measure(mm, mm - half, mm + half, share)
    hc = measures["hc"]
    age = growth.age_of(hc.mm, accuracy["hc"].deviation * hc.mm) if weeks is None else None
    return Biometry(**measures, given_weeks=weeks, age=age)


def sizes_mm(alignment: Alignment, *, is_frame: bool) -> dict[str, float] | None:
    """ "hc", "bpd" and "ofd" of the fitted outline in the ultrasound's mm, nothing corrected; None without an outline.

    Of a volume: of its section by the head-circumference plane.
    """
    semi_axes = np.asarray(alignment.semi_axes, float)
    axes = np.zeros((3, 2))
    if is_frame:
        axes[:2] = alignment.rotation[:2, :2] * semi_axes[:2]
    else:
        section = _section(alignment)
        if section is None:
            return None
        axes[:2] = section
    in_world = np.linalg.inv(alignment.ras_to_canonical[:3, :3]) @ axes
    along, across = np.linalg.svd(in_world)[1]
    if not (np.isfinite(along) and across > 0):
        return None
    return {"hc": circumference_mm(np.array([along, across])), "bpd": 2 * float(across), "ofd": 2 * float(along)}


def _section(alignment: Alignment) -> np.ndarray | None:
    """(2, 2) axes of the ellipse in which the ellipsoid meets the head-circumference plane; None where it does not."""
    unit = (alignment.rotation / alignment.semi_axes).T  # canonical mm about the centre -> the unit sphere
    shape = unit.T @ unit
    height = HC_PLANE_Z_MM - float(alignment.centre[2])
    plane, mixed = shape[:2, :2], shape[:2, 2]
    middle = -np.linalg.solve(plane, mixed) * height
    left = 1 - shape[2, 2] * height**2 + float(middle @ plane @ middle)
    if not left > 0:
        return None
    values, directions = np.linalg.eigh(plane / left)
    return np.asarray(directions / np.sqrt(values))
