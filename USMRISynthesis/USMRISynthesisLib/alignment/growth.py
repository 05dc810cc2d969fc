"""Size of the fetal head by gestational age: the INTERGROWTH-21st fetal growth standards, 14 to 40 weeks.

Papageorghiou et al., Lancet 2014, 384:869-879: mean and standard deviation in mm at exact weeks, measured from outer to
outer border of the skull; at an age the sizes are normally distributed. The equations give the tables that the
University of Oxford publishes, to their last digit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from USMRISynthesisLib.alignment.volume.pose import head_length_mm

STANDARD = "INTERGROWTH-21st fetal growth standards (Papageorghiou et al., Lancet 2014, 384:869-879)"
WEEKS = (14.0, 40.0)
NORMAL_95 = 1.959964


def circumference(weeks: float) -> tuple[float, float]:
    """Mean and standard deviation of the head circumference, mm. Raises ValueError outside 14-40 weeks."""
    weeks = _checked(weeks)
    log = math.log(weeks)
    mean = -28.2849 + 1.69267 * weeks**2 - 0.397485 * weeks**2 * log
    spread = 1.98735 + weeks**3 * (0.0136772 - 0.00726264 * log + 0.000976253 * log**2)
    return mean, spread


def biparietal(weeks: float) -> tuple[float, float]:
    """Mean and standard deviation of the biparietal diameter, mm. Raises ValueError outside 14-40 weeks."""
    weeks = _checked(weeks)
    log = math.log(weeks)
    mean = 5.60878 + 0.158369 * weeks**2 - 0.00256379 * weeks**3
    spread = math.exp(0.101242 + weeks**3 * (0.00150557 - 0.000771535 * log + 0.0000999638 * log**2))
    return mean, spread


def occipitofrontal(weeks: float) -> tuple[float, float]:
    """Mean and standard deviation of the occipito-frontal diameter, mm. Raises ValueError outside 14-40 weeks."""
    return head_length_mm(_checked(weeks))


CURVES: dict[str, Callable[[float], tuple[float, float]]] = {
    "hc": circumference, "bpd": biparietal, "ofd": occipitofrontal,
}  # fmt: skip


def centile(name: str, mm: float, weeks: float) -> float:
    """Of a measure ("hc", "bpd", "ofd") at an age, 0-100. Raises ValueError outside 14-40 weeks."""
    mean, spread = CURVES[name](weeks)
    return 50 * (1 + math.erf((mm - mean) / (spread * math.sqrt(2))))


def age_of(mm: float, deviation_mm: float = 0.0) -> tuple[float, float, float] | None:
    """The age at which this circumference is the mean, and the ages between which it lies within 95 % of heads, weeks.

    deviation_mm: standard deviation of the measurement; it widens the interval. The ends stop at 14 and 40 weeks. None
    where no age from 14 to 40 weeks has this mean.
    """
    if not circumference(WEEKS[0])[0] <= mm <= circumference(WEEKS[1])[0]:
        return None

    def limit(sign: float, weeks: float) -> float:
        mean, spread = circumference(weeks)
        return mean + sign * NORMAL_95 * math.hypot(spread, deviation_mm)

    best, youngest, oldest = (_where(partial(limit, sign), mm) for sign in (0.0, 1.0, -1.0))
    return best, youngest, oldest


def _where(rising: Callable[[float], float], value: float) -> float:
    """The age in WEEKS at which a rising function has this value; an end where it lies beyond."""
    low, high = WEEKS
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < value else (low, middle)
    return (low + high) / 2


def _checked(weeks: float) -> float:
    if not WEEKS[0] <= weeks <= WEEKS[1]:
        raise ValueError(f"gestational age {weeks:g} weeks is outside {WEEKS[0]:g} to {WEEKS[1]:g}")
    return weeks
