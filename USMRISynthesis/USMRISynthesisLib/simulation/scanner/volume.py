"""A motor-swept 3D ultrasound acquisition of a simulated head: settings, sweep, scan conversion.

Tissue maps (``tissue.py``) are sampled on (depth, lateral angle, sweep angle) of a ``Beam``; ``physics.py`` makes the
received amplitude there, ``display.py`` the picture, which is scan-converted to any grid.  Lengths are canonical mm;
physical settings are multiplied by `anatomy.scale`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch.nn import functional

from USMRISynthesisLib.geometry.canonical import SPACING_MM, canonical_ijk_to_ras
from USMRISynthesisLib.simulation.anatomy.head import Anatomy
from USMRISynthesisLib.simulation.anatomy.warp import canonical_points, sample_channels
from USMRISynthesisLib.simulation.scanner import display, physics
from USMRISynthesisLib.simulation.scanner.acoustics import tissue_maps
from USMRISynthesisLib.simulation.scanner.beam import VIEWS, Beam, choose_view, place
from USMRISynthesisLib.simulation.scanner.physics import Fields, Sampling
from USMRISynthesisLib.simulation.scanner.randomised import broadened, randomise

__all__ = ["VIEWS", "Acquisition", "AcquisitionRanges", "Beam", "acquire", "simulate_canonical", "speckle_phantom"]

CANONICAL_IJK_TO_RAS = canonical_ijk_to_ras()
_ANGLES = 176
_SWEEPS = 120
_SAMPLE_MM = 0.34
_HC_SLAB_MM = 14.0  # the grey map is set around the head-circumference plane, where the real frames lie


@dataclass(frozen=True)
class AcquisitionRanges:
    """Ranges that each acquisition is drawn from (uniform); lengths in physical mm.

    Several ranges in a row, (low, high, low, high), are one setting with gaps.
    """

    distance_mm: tuple[float, float] = (10.0, 45.0)  # transducer surface to the skull's nearest point
    radius_mm: tuple[float, float] = (25.0, 50.0)  # radius of curvature of the transducer
    lateral_deg: tuple[float, float] = (28.0, 40.0)  # half opening
    sweep_deg: tuple[float, float] = (26.0, 38.0)
    frequency_mhz: tuple[float, float] = (2.5, 5.0)
    aperture_mm: tuple[float, float] = (4.0, 14.0)
    skull_loss: tuple[float, float] = (0.4, 7.0)  # dB per mm of skull where the beam is tangential
    skull_bright: tuple[float, float] = (3.0, 10.0)
    skull_ripple: tuple[float, float] = (0.3, 1.5)  # of the logarithm of its echo
    skull_bumps_mm: tuple[float, float] = (0.1, 1.0)
    skull_depth_mm: tuple[float, float] = (0.4, 1.0)  # where in the bone the echo is strongest
    skull_width_mm: tuple[float, float] = (0.25, 0.55)
    skull_spread: tuple[float, float] = (0.3, 3.5)  # how much thicker its echo is where it is tangential
    skull_floor: tuple[float, float] = (0.03, 0.32)  # echo of a tangential skull
    skull_exponent: tuple[float, float] = (1.2, 4.0)
    skull_far: tuple[float, float] = (0.8, 2.2)  # far side over near side, before attenuation
    interface: tuple[float, float] = (2.0, 12.0)  # strength of tissue interfaces
    membrane: tuple[float, float] = (0.4, 2.6)
    membrane_floor: tuple[float, float] = (0.03, 0.25)  # diffuse part
    glints: tuple[float, float] = (0.5, 2.2)  # how unevenly sheets shine: of the logarithm of their echo
    brain_level: tuple[float, float] = (0.06, 0.17)  # scatter amplitude of brain
    fluid_scatter: tuple[float, float] = (0.4, 1.8)
    deep_scatter: tuple[float, float] = (0.9, 2.2)  # deep grey, brainstem and cerebellum over white matter
    maternal_scatter: tuple[float, float] = (1.6, 4.6)  # over white matter
    amniotic_scatter: tuple[float, float] = (0.6, 3.5)  # clutter and flakes beside the head
    choroid_scatter: tuple[float, float] = (0.5, 1.3)
    coarse_texture: tuple[float, float] = (0.05, 0.35)
    fine_texture: tuple[float, float] = (0.0, 0.35)
    specks: tuple[float, float] = (1.0, 24.0)  # short bright strokes a cm^3
    strokes: tuple[float, float] = (0.3, 9.0)  # longer ones
    stroke_level: tuple[float, float] = (1.5, 9.0)  # over white matter
    speck_groups: tuple[float, float] = (0.5, 2.0)  # how much they gather
    halo: tuple[float, float] = (0.5, 3.5)  # clutter beside the skull, over white matter
    halo_mm: tuple[float, float] = (1.5, 6.0)
    layers: tuple[float, float] = (0.2, 1.0)
    patches: tuple[float, float] = (0.2, 0.8)
    axial_mm: tuple[float, float] = (0.22, 0.42)
    lateral_mm: tuple[float, float] = (0.35, 0.8)  # point spread at the focus
    focus: tuple[float, float] = (0.35, 0.8)  # of the depth
    focal_mm: tuple[float, float] = (30.0, 70.0)  # depth over which the focus widens
    elevation: tuple[float, float] = (1.1, 1.6)  # point spread in elevation over the lateral one
    haze: tuple[float, float] = (0.4, 1.2)  # share of contrast lost behind the near skull
    haze_level: tuple[float, float] = (2.0, 6.0)  # of what it drowns in, over white matter
    haze_mm: tuple[float, float] = (10.0, 36.0)
    tail: tuple[float, float] = (0.0005, 0.006)
    tail_mm: tuple[float, float] = (1.2, 5.0)
    leak_db: tuple[float, float] = (-46.0, -18.0)  # what reaches a shadow from beside it
    lobes: tuple[float, float] = (0.003, 0.035)  # side lobes of the skull's echo
    reverberation: tuple[float, float] = (0.0, 0.006)
    reverberation_mm: tuple[float, float] = (4.0, 14.0)
    noise_db: tuple[float, float] = (-40.0, -4.0)  # below the brain's typical echo
    contact_db: tuple[float, float] = (1.0, 6.0)
    edge_db: tuple[float, float] = (0.0, 22.0)  # lost at both ends of the probe, which hardly touch the skin
    tgc_error_db: tuple[float, float] = (-5.0, 5.0)
    tgc_tilt_db: tuple[float, float] = (-4.0, 7.0)  # the near end over the far one
    looks: tuple[float, float] = (1.0, 3.0)  # compounded views
    smoothing: tuple[float, float] = (0.1, 0.8)  # compounding and speckle reduction
    t2_exponent: tuple[float, float] = (0.5, 1.4)
    t2_share: tuple[float, float] = (0.2, 1.0)
    t2_probability: float = 0.35  # heads whose scatter follows the T2 image, by t2_share, and not the labels alone

    def draw(self, rng: np.random.Generator) -> dict[str, float]:
        """One setting of everything."""
        limits = asdict(self)
        probability = limits.pop("t2_probability")
        draw = {name: drawn(values, rng) for name, values in limits.items()}
        draw["t2_scatter"] = draw.pop("t2_share") * float(rng.random() < probability)
        return draw


@dataclass(frozen=True)
class Machine:
    """How echoes come about: whether echogenicities and boundaries are drawn anew (`randomised.py`), and the scatter
    model, "speckle" (dense scatterers, Gaussian pulse, echogenicity by label) or "points" (few scatterers, as in
    K-distributed echoes, side lobes, echogenicity from the T2 image). No training uses "points"."""

    randomised: bool = False
    scatter: str = "speckle"

    def draw(self, ranges: AcquisitionRanges, rng: np.random.Generator, seed: int) -> dict[str, float]:
        """One setting of everything for this machine."""
        if self.randomised:
            ranges = replace(ranges, **broadened(ranges.skull_width_mm[0]), t2_probability=0.0)
        draw = ranges.draw(rng)
        if self.scatter == "points":
            own = np.random.default_rng([seed, 10])
            draw |= {"t2_scatter": 1.0, "point_share": float(own.uniform(0.02, 0.3))}
            draw["side_lobes"] = float(own.uniform(0.1, 0.3))
        return draw


USUAL = Machine()


def drawn(limits: Sequence[float], rng: np.random.Generator) -> float:
    """One value, uniform over one range or several; takes one number from `rng` whatever the ranges, so that all
    other settings stay as they would be."""
    lows, highs = np.array(limits[0::2]), np.array(limits[1::2])
    if len(lows) == 1:
        return float(rng.uniform(limits[0], limits[1]))
    ends = np.cumsum(highs - lows)
    along = float(rng.uniform(0, ends[-1]))
    which = min(int(np.searchsorted(ends, along, side="right")), len(ends) - 1)
    return float(highs[which] - (ends[which] - along))


@dataclass(frozen=True, eq=False)
class Acquisition:
    """The log image on (depth, lateral, sweep) in 0-255 and the geometry that places it."""

    image: torch.Tensor
    beam: Beam
    view: str
    parameters: dict[str, float]

    def scan_convert(self, points: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """8-bit ultrasound and fan mask at world points (k, j, i, 3); 0 outside the pyramid."""
        coordinates = self.beam.coordinates(points)
        fan = (coordinates.abs() <= 1).all(dim=-1)
        grid = coordinates.reshape(1, 1, 1, -1, 3)
        values = functional.grid_sample(
            self.image[None, None], grid, mode="bilinear", padding_mode="border", align_corners=True
        ).reshape(points.shape[:-1])
        image = torch.where(fan, values.round().clamp(0, 255), torch.zeros(()))
        return image.numpy().astype(np.uint8), fan.numpy()


def acquire(
    anatomy: Anatomy,
    seed: int,
    ranges: AcquisitionRanges | None = None,
    view: str | None = None,
    machine: Machine = USUAL,
) -> Acquisition:
    """One sweep over the head.  The same seed gives the same bytes on one machine."""
    rng = np.random.default_rng([seed, 2])
    generator = torch.Generator().manual_seed(seed)
    draw = machine.draw(ranges or AcquisitionRanges(), rng, seed)
    chosen = view or choose_view(rng)
    beam = place(anatomy, chosen, draw, rng)
    maps = tissue_maps(anatomy, draw, rng)
    if machine.randomised:
        maps = randomise(maps, anatomy.labels, seed)
    image = scan(maps, beam, (_SAMPLE_MM, _ANGLES, _SWEEPS), anatomy.scale, draw, rng, generator)
    return Acquisition(image=image, beam=beam, view=chosen, parameters=draw)


def scan(
    maps: np.ndarray,
    beam: Beam,
    grid: tuple[float, int, int],
    scale: float,
    draw: dict[str, float],
    rng: np.random.Generator,
    generator: torch.Generator,
    first_row: int = 0,
) -> torch.Tensor:
    """The picture (depth, lateral, sweep), 0-255, of tissue maps on the canonical grid, from its first_row on.

    grid: depth step in physical mm, beams laterally, beams in elevation (1: a frame, the mean over its thickness).
    scale: canonical mm per physical mm.
    """
    step = grid[0] * scale
    depths = torch.arange(beam.near_mm, beam.far_mm, step)
    lateral = torch.linspace(-beam.lateral, beam.lateral, grid[1])
    thin = grid[2] == 1
    sweep = torch.linspace(-beam.sweep, beam.sweep, 3 if thin else grid[2])
    points = beam.points(depths, lateral, sweep)
    ijk_to_ras = CANONICAL_IJK_TO_RAS.copy()
    ijk_to_ras[2, 3] += first_row * SPACING_MM
    sampled = sample_channels(maps, ijk_to_ras, points)
    height = points[..., 2]
    if thin:
        sampled, height = sampled.mean(dim=-1, keepdim=True), height[..., 1:2]
    fields = Fields(*sampled)
    distance = fields.distance / scale
    fields = Fields(fields.alpha, fields.scatter, fields.impedance, fields.skull, fields.membrane, distance)
    neighbours = depths / scale * (2 * beam.lateral / (grid[1] - 1))
    sweeps = depths / scale * (2 * beam.sweep / max(grid[2] - 1, 1))
    sampling = Sampling(grid[0], neighbours, sweeps)
    received, transmitted = physics.amplitude(fields, sampling, draw, generator)
    slab = height.abs() < _HC_SLAB_MM
    brain = slab & (fields.distance * scale < display.BRAIN_LIMIT_MM)
    level = display.decibels(received, transmitted, brain, draw, rng, generator)
    return display.to_grey(level, brain, slab & (fields.skull > 0.6), rng)


def speckle_phantom(seed: int, ranges: AcquisitionRanges | None = None) -> torch.Tensor:
    """Linear envelope (depth, lateral, sweep) of a uniform scatterer, before display: its mean over its standard
    deviation is 1.91 where speckle is fully developed (Rayleigh)."""
    draw = (ranges or AcquisitionRanges()).draw(np.random.default_rng([seed, 3]))
    shape = (160, 96, 48)
    depths = 30.0 + torch.arange(shape[0]) * _SAMPLE_MM
    sampling = Sampling(_SAMPLE_MM, depths * 0.007, depths * 0.009)
    return physics.speckle(torch.ones(shape), sampling, draw, torch.Generator().manual_seed(seed))


def simulate_canonical(
    anatomy: Anatomy,
    seed: int,
    ranges: AcquisitionRanges | None = None,
    view: str | None = None,
    machine: Machine = USUAL,
) -> tuple[np.ndarray, np.ndarray, Acquisition]:
    """Ultrasound uint8 and fan mask on the canonical grid, with the acquisition behind them."""
    acquisition = acquire(anatomy, seed, ranges, view, machine)
    us, fan = acquisition.scan_convert(canonical_points())
    return us, fan, acquisition
