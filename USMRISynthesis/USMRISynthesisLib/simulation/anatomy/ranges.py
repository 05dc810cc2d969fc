"""What every simulated head is drawn from: physical mm of a normal fetus of the atlas's week unless stated
otherwise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ANOMALIES = ("ventriculomegaly", "absent-cavum", "mass")
_LARGE_ATRIUM_SHARE = 0.2
_WIDE_ATRIUM_SHARE = 0.06

# transverse cerebellar diameter by gestational week (about a mm a week at first, faster later)
_TCD_WEEKS, _TCD_MM = (18, 20, 22, 24, 26, 28, 30, 32, 34, 36), (18, 20, 22, 24.5, 27.5, 31, 34.5, 38, 41.5, 45)


@dataclass(frozen=True)
class CavumRanges:
    """Of a cavum septi pellucidi at week 20. back: of its middle from the callosum's front third, as a share
    of that one's length. width_mm, height_mm: half of its size; length: half, as a share of the callosum's.
    brightness, contrast: T2 of its fluid, and how much of that is mixed in. clear: the callosum of the averages, short
    as in spina bifida, gives way.
    """

    back: tuple[float, float] = (0.0, 0.12)
    width_mm: tuple[float, float] = (1.3, 2.2)
    length: tuple[float, float] = (0.15, 0.24)
    height_mm: tuple[float, float] = (3.0, 4.6)
    brightness: tuple[float, float] = (0.8, 0.95)
    contrast: float = 0.7
    clear: bool = False


@dataclass(frozen=True)
class AnatomyRanges:
    """Ranges (uniform) and probabilities; lengths in physical mm."""

    width_factor: tuple[float, float] = (0.93, 1.10)
    height_factor: tuple[float, float] = (0.94, 1.07)
    fine_warp_mm: tuple[float, float] = (0.3, 1.6)
    coarse_warp_mm: tuple[float, float] = (0.5, 3.0)
    atrium_mm: tuple[float, float] = (4.6, 9.4)  # mean 7: the normal atrium is as wide in every week
    large_atrium_mm: tuple[float, float] = (8.0, 12.0)  # a share of heads, up to the borderline
    wide_atrium_mm: tuple[float, float] = (10.0, 16.0)  # a few heads: what was never trained comes out lost
    enlarged_atrium_mm: tuple[float, float] = (12.0, 18.0)  # the anomaly
    atrium_asymmetry: float = 0.12  # of the width, standard deviation
    cerebellum_factor: tuple[float, float] = (0.85, 1.08)  # of the normal diameter at that week
    cerebellum_lift_mm: tuple[float, float] = (0.0, 4.0)  # spina bifida draws it down
    young_fluid_mm: tuple[float, float] = (1.5, 5.0)  # between brain and skull before week 28
    old_fluid_mm: tuple[float, float] = (1.0, 4.0)
    skull_factor: tuple[float, float] = (0.8, 1.25)
    scalp_mm: tuple[float, float] = (1.0, 3.0)
    cavum_probability: float = 0.9
    cavum: CavumRanges = CavumRanges()
    choroid_fill: tuple[float, float] = (0.4, 1.0)
    suture_mm: tuple[float, float] = (0.8, 3.0)
    fluid_mm: tuple[float, float] = (-27.0, 9.0)
    placenta_probability: float = 0.3
    limb_probability: float = 0.3
    mass_radius_mm: tuple[float, float] = (5.0, 13.0)
    pose_deg: float = 8.0
    pose_mm: float = 2.5
    pose_scale: tuple[float, float] = (0.96, 1.04)
    size_factor: tuple[float, float] = (1.0, 1.0)  # of the head, over the mean of its week


def draw_head(rng: np.random.Generator, week: int, ranges: AnatomyRanges, anomaly: str | None) -> dict[str, float]:
    """One head's numbers, which go into the manifest."""
    names = ("width_factor", "height_factor", "fine_warp_mm", "coarse_warp_mm", "cerebellum_lift_mm", "scalp_mm",
             "choroid_fill", "suture_mm", "fluid_mm", "pose_scale")  # fmt: skip
    draw = {name: float(rng.uniform(*getattr(ranges, name))) for name in names}
    # two uniforms: most heads in the middle of the range
    atrium = float(rng.uniform(*ranges.atrium_mm) + rng.uniform(*ranges.atrium_mm)) / 2
    large = float(rng.uniform(*ranges.large_atrium_mm))
    lot = float(rng.random())
    if lot < _WIDE_ATRIUM_SHARE:
        atrium = float(np.interp(lot / _WIDE_ATRIUM_SHARE, (0, 1), ranges.wide_atrium_mm))
    elif lot < _WIDE_ATRIUM_SHARE + _LARGE_ATRIUM_SHARE:
        atrium = large
    enlarged = float(rng.uniform(*ranges.enlarged_atrium_mm))
    if anomaly == "ventriculomegaly":
        atrium = enlarged
    asymmetry = float(np.clip(rng.normal(0, ranges.atrium_asymmetry), -0.3, 0.3))
    draw["atrium_left_mm"], draw["atrium_right_mm"] = atrium * (1 + asymmetry / 2), atrium * (1 - asymmetry / 2)
    draw["cerebellum_mm"] = float(np.interp(week, _TCD_WEEKS, _TCD_MM) * rng.uniform(*ranges.cerebellum_factor))
    draw["skull_mm"] = float(np.interp(week, (20, 34), (1.0, 1.6)) * rng.uniform(*ranges.skull_factor))
    fluid = ranges.young_fluid_mm if week < 28 else ranges.old_fluid_mm
    draw["outer_fluid_mm"] = float(rng.uniform(*fluid))
    fixed = ranges.size_factor[0] == ranges.size_factor[1]
    draw["size_factor"] = ranges.size_factor[0] if fixed else float(rng.uniform(*ranges.size_factor))
    return draw
