"""From received amplitude to the 8-bit picture: time-gain, noise, log compression, speckle reduction, grey map.

The grey map is calibrated on real frames: ``appearance.json`` holds grey quantiles inside the brain and on the
skull of HC18 frames (training fetuses only; van den Heuvel et al. 2018, CC BY 4.0; made by ``calibration.py``).  As a
sonographer adjusts gain and dynamic range by eye, a map is drawn that gives the simulated
brain and skull the grey levels of one real frame, or of a mixture of two.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import gaussian_filter1d

from USMRISynthesisLib.simulation.scanner.physics import blur, gaussian, smooth_noise

APPEARANCE = Path(__file__).with_name("appearance.json")
BRAIN_PERCENTILES = (1.0, 5.0, 15.0, 30.0, 50.0, 70.0, 85.0, 93.0, 97.0, 99.3)
SKULL_PERCENTILES = (50.0, 80.0)  # of the ring's peaks by direction; of all the skull's samples that is about:
_SKULL_SAMPLE_PERCENTILES = (64.0, 88.0)
_KINK_DB = 3.0
_FLOOR, _FLOOR_DB = 0.25, (2.0, 18.0)
_REJECT = 0.5  # share of pictures whose machine shows nothing at all below its threshold
BRAIN_LIMIT_MM = -9.0  # canonical mm inside the outer skull: there the skull's own blur has ended


@lru_cache(maxsize=1)
def appearances() -> np.ndarray:
    """(n, 12) grey levels of n real frames: BRAIN_PERCENTILES inside the brain, SKULL_PERCENTILES of the peaks."""
    return np.asarray(json.loads(APPEARANCE.read_text())["grey_levels"], dtype=np.float64)


def decibels(
    amplitude: torch.Tensor,
    transmitted: torch.Tensor,
    brain: torch.Tensor,
    draw: dict[str, float],
    rng: np.random.Generator,
    generator: torch.Generator,
) -> torch.Tensor:
    """Time-gain compensation with its error, uneven contact of the probe, electronic noise; dB, any offset.

    brain: bool, where the level of the noise is set.
    """
    depth = torch.linspace(0, 1, amplitude.shape[0])
    level = torch.log10(transmitted.reshape(len(depth), -1)[:, ::7].mean(dim=1).clamp_min(1e-5))
    fitted = _parabola(level)
    wobble = draw["tgc_error_db"] * torch.sin(depth * float(rng.uniform(2, 5)) + float(rng.uniform(0, 6)))
    gain_db = -20 * fitted + wobble + draw["tgc_tilt_db"] * (0.5 - depth)
    contact = draw["contact_db"] * smooth_noise(amplitude.shape, (2, 9, 5), generator)
    ends = ((torch.linspace(-1, 1, amplitude.shape[1]).abs() - 0.6) / 0.4).clamp_min(0) ** 2
    contact = contact - draw["edge_db"] * ends[:, None]
    result = amplitude * torch.pow(10.0, (gain_db[:, None, None] + contact) / 20)
    seen = result[brain]
    typical = torch.median(seen[:: 1 + len(seen) // 50_000])
    noise = float(typical) * 10 ** (draw["noise_db"] / 20) * (0.4 + 0.6 * depth[:, None, None])
    result = torch.sqrt(result**2 + (noise * torch.randn(result.shape, generator=generator)) ** 2)
    level_db = 20 * torch.log10(result.clamp_min(1e-7))
    return _reduce_speckle(level_db, draw["smoothing"])


def _parabola(values: torch.Tensor) -> torch.Tensor:
    """The least-squares parabola through equally spaced values (n,).

    Not by a linear-algebra library: theirs differ in the last bit from call to call, and the same seed must give
    the same bytes.
    """
    x = torch.linspace(-1, 1, len(values), dtype=torch.float64)
    fitted = torch.zeros_like(x)
    for basis in (torch.ones_like(x), x, x**2 - (x**2).mean()):
        fitted += basis * (basis * values).sum() / (basis**2).sum()
    return fitted.float()


def _reduce_speckle(level_db: torch.Tensor, share: float) -> torch.Tensor:
    """Compounding and speckle reduction of today's machines: the log image mixed with its blur."""
    soft = level_db[None]
    for axis in (1, 2, 3):
        if soft.shape[axis] > 1:
            soft = blur(soft, gaussian(1.0), axis)
    return torch.lerp(level_db, soft[0], share)


def to_grey(level_db: torch.Tensor, brain: torch.Tensor, skull: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """0-255: the grey map that gives brain and skull the levels of drawn real frames.  brain, skull: bool."""
    rows = appearances()
    first, second = rows[rng.integers(len(rows))], rows[rng.integers(len(rows))]
    share = float(rng.random()) ** 2 / 2
    wanted = ((1 - share) * first + share * second) * float(np.exp(rng.normal(0, 0.06)))
    seen = level_db[brain]
    anchors = np.percentile(seen[:: 1 + len(seen) // 100_000].numpy(), BRAIN_PERCENTILES)
    ring = level_db[skull]
    above = np.zeros(len(SKULL_PERCENTILES), bool)
    if len(ring) > 50:
        ring_db = np.percentile(ring[:: 1 + len(ring) // 50_000].numpy(), _SKULL_SAMPLE_PERCENTILES)
        above = ring_db > anchors[-1] + 1
        anchors = np.concatenate((anchors, ring_db[above]))
    wanted = np.concatenate((wanted[: len(BRAIN_PERCENTILES)], wanted[len(BRAIN_PERCENTILES) :][above]))
    anchors = np.maximum.accumulate(anchors + 1e-3 * np.arange(len(anchors)))
    wanted = np.maximum.accumulate(wanted).clip(0, 255)
    slope = max((wanted[-1] - wanted[4]) / (anchors[-1] - anchors[4]), 0.5)
    # what is darker than anything in the brain keeps a trace of grey, as in machines' pictures, or soon none
    floor = _FLOOR * float(rng.random()) ** 2 * float(rng.random() > _REJECT)
    anchors = np.concatenate(([anchors[0] - rng.uniform(*_FLOOR_DB)], anchors, [anchors[-1] + 60]))
    wanted = np.concatenate(([floor * wanted[0]], wanted, [wanted[-1] + 60 * slope]))
    table_db = np.linspace(anchors[0], anchors[-1], 2048)
    curve = PchipInterpolator(anchors, wanted)(table_db)
    # machines' maps have no kinks
    curve = gaussian_filter1d(curve, _KINK_DB / (table_db[1] - table_db[0]), mode="nearest")
    table = torch.from_numpy(curve.clip(0, 255).astype(np.float32))
    position = ((level_db - anchors[0]) * (2047 / (anchors[-1] - anchors[0]))).clamp(0, 2047)
    return table[position.round_().long()]
