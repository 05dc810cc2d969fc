"""The appearance of a head-circumference frame in numbers: grey, skull, speckle; the same for real and simulated
frames.

A frame is (160, 160) on the canonical plane (0.6 mm): the head centred and upright, its outer skull an ellipse.
Grey levels are 0-255, lengths canonical mm.  `sides` are the skull's flanks, which a probe at the usual place meets
perpendicularly; `ends` are the forehead and the occiput, where its beams run along the bone.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from USMRISynthesisLib.geometry.canonical import SIZE, SPACING_MM, canonical_axis_mm

_QUANTILES = (5, 25, 50, 75, 95)
_BRAIN, _RING, _OUTSIDE = 0.85, (0.9, 1.06), 1.15  # of the ellipse
_RADII = np.arange(0.1, 1.31, 0.2)
_RAYS = 120
_RAY_STEP_MM = 0.3
_RAY_MM = 7.0  # each way of the ellipse
_BROAD_MM = 3.0  # anything broader is anatomy and not speckle
_LAGS = 12

_X, _Y = np.meshgrid(canonical_axis_mm(), canonical_axis_mm())


def frame_statistics(us: np.ndarray, fan: np.ndarray, half_axes_mm: tuple[float, float]) -> dict[str, float]:
    """Statistics of one frame; nan where the fan shows too little of a region.

    us: (160, 160) uint8.  fan: bool.  half_axes_mm: of the outer skull, across (x) and along (y, 44).
    """
    grey = us.astype(np.float32)
    radius = np.hypot(_X / half_axes_mm[0], _Y / half_axes_mm[1])
    brain = fan & (radius < _BRAIN)
    outside = fan & (radius > _OUTSIDE)
    ring = fan & (radius > _RING[0]) & (radius < _RING[1])
    values = {"fan_share": float(fan.mean())}
    for name, region in (("brain", brain), ("skull", ring), ("outside", outside)):
        values |= _quantiles(name, grey[region])
        values[f"{name}_black"] = float((grey[region] <= 2).mean()) if region.sum() > 200 else np.nan
    for low in _RADII[:-1]:
        shell = fan & (radius >= low) & (radius < low + 0.2)
        values[f"radius_{low:.1f}"] = float(grey[shell].mean()) if shell.sum() > 50 else np.nan
    values |= _sides(grey, brain)
    values |= _speckle(grey, fan & (radius < 0.8))
    values |= _skull(grey, fan, half_axes_mm)
    return values


def near_over_far(
    us: np.ndarray, fan: np.ndarray, half_axes_mm: tuple[float, float], probe: np.ndarray
) -> tuple[float, float]:
    """Mean grey, and contrast (deviation over mean), of the hemisphere by the probe over those of the other.

    probe: (2,) unit vector (x, y) from the head's centre.  nan where one of them is hardly in the fan.
    """
    grey = us.astype(np.float32)
    brain = fan & (np.hypot(_X / half_axes_mm[0], _Y / half_axes_mm[1]) < _BRAIN)
    along = _X * probe[0] + _Y * probe[1]
    near, far = grey[brain & (along > 4)], grey[brain & (along < -4)]
    if min(near.size, far.size) < 800:
        return np.nan, np.nan
    means = float(near.mean()) + 1, float(far.mean()) + 1
    return means[0] / means[1], float(near.std() / means[0]) / (float(far.std() / means[1]) + 1e-3)


def _quantiles(name: str, grey: np.ndarray) -> dict[str, float]:
    if grey.size <= 200:
        return {f"{name}_p{q:02d}": np.nan for q in _QUANTILES}
    return {f"{name}_p{q:02d}": float(v) for q, v in zip(_QUANTILES, np.percentile(grey, _QUANTILES), strict=True)}


def _sides(grey: np.ndarray, brain: np.ndarray) -> dict[str, float]:
    """Mean grey and contrast of the darker hemisphere over the other's: 1 where both are seen alike.

    Which side the probe is on is not known of a stored frame.
    """
    halves = [grey[brain & (np.abs(_X) > 4) & (_X * side > 0)] for side in (-1, 1)]
    if min(half.size for half in halves) <= 200:
        return {"side_mean_ratio": np.nan, "side_contrast_ratio": np.nan}
    means, spreads = [float(h.mean()) + 1 for h in halves], [float(h.std()) + 1 for h in halves]
    return {"side_mean_ratio": min(means) / max(means), "side_contrast_ratio": min(spreads) / max(spreads)}


def _speckle(grey: np.ndarray, region: np.ndarray) -> dict[str, float]:
    """Autocorrelation of the brain's fine texture where nothing broader changes.

    length: lag in mm at which it falls to one half (a tenth to a fifth short, for what is broad was taken away);
    grain: standard deviation over the mean grey.
    """
    names = ("speckle_across_mm", "speckle_along_mm", "speckle_1px_across", "speckle_1px_along", "grain")
    if region.sum() < 800:
        return dict.fromkeys(names, np.nan)
    weight = region.astype(np.float32)
    broad = _local_mean(grey, weight, _BROAD_MM)
    residual = (grey - broad) * weight
    power = _local_mean(residual**2, weight, _BROAD_MM)
    # edges of structures: where the fine texture is much stronger than it usually is
    even = region & (power < np.percentile(power[region], 75)) & (broad > 3)
    if even.sum() < 400:
        return dict.fromkeys(names, np.nan)
    kept = np.where(even, residual - residual[even].mean(), 0)
    curve = [_correlation(kept, even, axis) for axis in (1, 0)]
    return {
        "speckle_across_mm": _half_lag(curve[0]),
        "speckle_along_mm": _half_lag(curve[1]),
        "speckle_1px_across": float(curve[0][1]),
        "speckle_1px_along": float(curve[1][1]),
        "grain": float(kept[even].std() / (broad[even].mean() + 1)),
    }


def _local_mean(image: np.ndarray, weight: np.ndarray, sigma_mm: float) -> np.ndarray:
    sigma = sigma_mm / SPACING_MM
    total = ndimage.gaussian_filter(image * weight, sigma, truncate=2.5)
    share = ndimage.gaussian_filter(weight, sigma, truncate=2.5)
    return np.asarray(total / np.maximum(share, 1e-3))


def _correlation(image: np.ndarray, mask: np.ndarray, axis: int) -> np.ndarray:
    """Autocorrelation at lags of 0, 1, ... pixels, over the pairs of which both ends lie in the mask."""
    curve = np.ones(_LAGS)
    variance = float((image[mask] ** 2).mean()) + 1e-6
    for lag in range(1, _LAGS):
        first = image.take(range(SIZE - lag), axis)
        second = image.take(range(lag, SIZE), axis)
        pairs = mask.take(range(SIZE - lag), axis) & mask.take(range(lag, SIZE), axis)
        curve[lag] = float((first * second).sum()) / max(int(pairs.sum()), 1) / variance
    return curve


def _half_lag(curve: np.ndarray) -> float:
    below = int(np.argmax(curve < 0.5))
    if below == 0:
        return _LAGS * SPACING_MM
    drop = curve[below - 1] - curve[below]
    return float((below - 1 + (curve[below - 1] - 0.5) / drop) * SPACING_MM)


def _skull(grey: np.ndarray, fan: np.ndarray, half_axes_mm: tuple[float, float]) -> dict[str, float]:
    """Along rays across the bone: peak grey, how far it lies outside the ellipse, and full width at half maximum.

    Medians over the rays of the flanks (sides), of the forehead and occiput (ends); share: rays on which the peak
    stands clear of both flanks.
    """
    angle = (np.arange(_RAYS) + 0.5) / _RAYS * 2 * np.pi
    edge = np.stack((half_axes_mm[0] * np.cos(angle), half_axes_mm[1] * np.sin(angle)))
    normal = np.stack((np.cos(angle) / half_axes_mm[0], np.sin(angle) / half_axes_mm[1]))
    normal /= np.linalg.norm(normal, axis=0)
    offset = np.arange(-_RAY_MM, _RAY_MM + 1e-6, _RAY_STEP_MM)
    places = edge[:, :, None] + normal[:, :, None] * offset
    index = places[::-1] / SPACING_MM + (SIZE - 1) / 2  # (row, column)
    profile = ndimage.map_coordinates(grey, index, order=1, mode="constant")
    seen = ndimage.map_coordinates(fan.astype(np.float32), index, order=0, mode="constant").all(axis=1)
    peak, width, where, clear = _peaks(profile, offset)
    flank = np.abs(normal[0]) > np.cos(np.deg2rad(35))
    end = np.abs(normal[1]) > np.cos(np.deg2rad(35))
    values: dict[str, float] = {}
    for name, rays in (("sides", flank & seen), ("ends", end & seen)):
        enough = rays.sum() >= 6
        values[f"skull_{name}_peak"] = float(np.median(peak[rays])) if enough else np.nan
        values[f"skull_{name}_share"] = float(clear[rays].mean()) if enough else np.nan
        sharp = rays & clear
        some = sharp.sum() >= 4
        values[f"skull_{name}_width_mm"] = float(np.median(width[sharp])) if some else np.nan
        values[f"skull_{name}_offset_mm"] = float(np.median(where[sharp])) if some else np.nan
    values["skull_ends_over_sides"] = values["skull_ends_peak"] / (values["skull_sides_peak"] + 1)
    return values


def _peaks(profile: np.ndarray, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Per ray (n, m): peak height, full width at half of its height over the lower quarter, place, clear or not."""
    steps = profile.shape[1]
    top = profile.argmax(axis=1)
    peak = profile.max(axis=1)
    base = np.percentile(profile, 25, axis=1)
    half = (peak + base) / 2
    above = profile >= half[:, None]
    column = np.arange(steps)
    left = np.where(~above & (column < top[:, None]), column, -1).max(axis=1)
    right = np.where(~above & (column > top[:, None]), column, steps).min(axis=1)
    clear = (left >= 0) & (right < steps) & (peak > base + 10)
    rows = np.arange(len(profile))

    def crossing(low: np.ndarray, inner: np.ndarray) -> np.ndarray:
        outer, within = profile[rows, low.clip(0, steps - 1)], profile[rows, inner.clip(0, steps - 1)]
        return np.asarray(low + (inner - low) * (half - outer) / np.maximum(within - outer, 1e-3))

    width = (crossing(right, right - 1) - crossing(left, left + 1)) * (offset[1] - offset[0])
    return peak, width, offset[top], clear
