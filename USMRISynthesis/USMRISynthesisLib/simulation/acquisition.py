"""A motor-swept 3D ultrasound acquisition of a simulated head (METHOD: Kuklisova-Murgasova 2013 and ours).

Tissue maps are sampled on (depth, lateral angle, sweep angle); attenuation, impedance reflections, skull
shadows, speckle, haze and log compression are computed there; the log image is scan-converted to any grid.
Lengths are canonical mm; physical settings are multiplied by `anatomy.scale`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

from ..normalisation.canonical import SPACING_MM, canonical_ijk_to_ras
from . import anatomy as tissue
from .anatomy import Anatomy
from .warp import canonical_points, sample, sample_channels

# label: attenuation dB/cm/MHz, impedance MRayl, scatter amplitude
TISSUE = {
    0: (0.01, 1.50, 0.01), 1: (0.50, 1.555, 0.16), 2: (0.01, 1.51, 0.02), 3: (0.55, 1.57, 0.30),
    4: (0.02, 1.515, 0.05), 5: (0.60, 1.565, 0.22), 6: (0.55, 1.565, 0.15), 7: (0.55, 1.565, 0.24),
    8: (0.50, 1.57, 0.20), tissue.SKULL: (5.0, 4.0, 1.6), tissue.SCALP: (0.6, 1.63, 0.40),
    tissue.FALX: (0.7, 1.66, 0.55), tissue.CAVUM: (0.01, 1.51, 0.02), tissue.CHOROID: (0.6, 1.58, 0.85),
    tissue.EYE: (0.05, 1.52, 0.03), tissue.AMNIOTIC: (0.005, 1.50, 0.015), tissue.MATERNAL: (0.6, 1.62, 0.60),
    tissue.FACE: (0.7, 1.63, 0.50), tissue.SUTURE: (0.8, 1.66, 0.35),
}  # fmt: skip

_ANGLES = 128
_SWEEPS = 112
_SAMPLE_MM = 0.36
_SMOOTH_MM = 0.5


@dataclass(frozen=True)
class AcquisitionRanges:
    """Ranges that each acquisition is drawn from (uniform)."""

    distance_mm: tuple[float, float] = (10.0, 45.0)  # transducer surface to the skull's nearest point
    radius_mm: tuple[float, float] = (25.0, 50.0)  # radius of curvature of the transducer
    lateral_deg: tuple[float, float] = (28.0, 40.0)  # half opening
    sweep_deg: tuple[float, float] = (26.0, 38.0)
    frequency_mhz: tuple[float, float] = (2.5, 5.0)
    skull_loss: tuple[float, float] = (5.0, 16.0)  # dB per mm of skull where the beam is tangential
    skull_bright: tuple[float, float] = (5.0, 22.0)
    interface: tuple[float, float] = (15.0, 75.0)  # strength of tissue interfaces
    brain_scatter: tuple[float, float] = (0.5, 1.7)
    fluid_scatter: tuple[float, float] = (0.5, 2.5)
    axial_mm: tuple[float, float] = (0.35, 0.7)
    lateral_beam: tuple[float, float] = (0.5, 1.3)  # point spread in beam samples
    haze: tuple[float, float] = (0.0, 0.5)
    noise_db: tuple[float, float] = (-68.0, -44.0)  # below the brightest echoes
    dynamic_range_db: tuple[float, float] = (42.0, 62.0)
    gain_db: tuple[float, float] = (-8.0, 6.0)
    contrast: tuple[float, float] = (1.0, 1.6)  # gamma of the display curve
    tgc_error_db: tuple[float, float] = (-8.0, 8.0)


# probe directions from the head's centre with their share: mostly the side (trans-thalamic), then oblique and top
VIEWS = {"left": 0.34, "right": 0.34, "top": 0.1, "front-side": 0.12, "back-side": 0.1}
_VIEW_AXES = {
    "left": (-1, 0, 0), "right": (1, 0, 0), "top": (0, 0.1, 1), "front-side": (0.75, 0.65, 0.1),
    "back-side": (0.75, -0.65, 0.15),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Beam:
    """Geometry of the sweep in canonical mm: apex, axes (rows: lateral, elevational, depth), ranges."""

    apex: np.ndarray
    axes: np.ndarray
    near_mm: float
    far_mm: float
    lateral: float
    sweep: float

    def points(self, depths: torch.Tensor, lateral: torch.Tensor, sweep: torch.Tensor) -> torch.Tensor:
        """World positions (len(depths), len(lateral), len(sweep), 3)."""
        direction = self.directions(lateral, sweep)
        return torch.from_numpy(self.apex).float() + depths[:, None, None, None] * direction[None]

    def directions(self, lateral: torch.Tensor, sweep: torch.Tensor) -> torch.Tensor:
        """Unit vectors (len(lateral), len(sweep), 3)."""
        a, b = torch.meshgrid(lateral, sweep, indexing="ij")
        local = torch.stack((torch.sin(a), torch.cos(a) * torch.sin(b), torch.cos(a) * torch.cos(b)), dim=-1)
        return local @ torch.from_numpy(self.axes).float()

    def coordinates(self, points: torch.Tensor) -> torch.Tensor:
        """Grid-sample coordinates (..., 3) in [-1, 1] as (sweep, lateral, depth) of world points."""
        local = (points - torch.from_numpy(self.apex).float()) @ torch.from_numpy(self.axes).float().T
        depth = local.norm(dim=-1).clamp_min(1e-3)
        lateral = torch.asin((local[..., 0] / depth).clamp(-1, 1))
        sweep = torch.atan2(local[..., 1], local[..., 2])
        span = (depth - self.near_mm) / (self.far_mm - self.near_mm) * 2 - 1
        return torch.stack((sweep / self.sweep, lateral / self.lateral, span), dim=-1)


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
    anatomy: Anatomy, seed: int, ranges: AcquisitionRanges | None = None, view: str | None = None
) -> Acquisition:
    """One sweep over the head.  The same seed gives the same bytes on one machine."""
    ranges = ranges or AcquisitionRanges()
    rng = np.random.default_rng([seed, 2])
    torch_rng = torch.Generator().manual_seed(seed)
    draw = {name: float(rng.uniform(*limits)) for name, limits in asdict(ranges).items()}
    chosen = view or str(rng.choice(list(VIEWS), p=list(VIEWS.values())))
    beam = _place(anatomy, chosen, draw, rng)

    step = _SAMPLE_MM * anatomy.scale
    depths = torch.arange(beam.near_mm, beam.far_mm, step)
    lateral = torch.linspace(-beam.lateral, beam.lateral, _ANGLES)
    sweep = torch.linspace(-beam.sweep, beam.sweep, _SWEEPS)
    points = beam.points(depths, lateral, sweep)
    directions = beam.directions(lateral, sweep)

    sampled = sample_channels(_tissue_maps(anatomy, draw, rng), CANONICAL_IJK_TO_RAS, points)
    alpha, scatter, impedance, skull = sampled[:4]
    cosine = torch.einsum("cdls,lsc->dls", sampled[4:], directions).abs().clamp(0, 1)
    transmitted = _transmission(alpha, skull, cosine, impedance, step / anatomy.scale, draw)
    echo = _echo(scatter, impedance, skull, cosine, step / anatomy.scale, draw, torch_rng)
    amplitude = echo * transmitted
    amplitude = amplitude + _haze(skull, transmitted, step / anatomy.scale, draw, torch_rng)
    image = _display(amplitude, depths, beam, draw, rng, torch_rng)
    return Acquisition(image=image, beam=beam, view=chosen, parameters=draw)


CANONICAL_IJK_TO_RAS = canonical_ijk_to_ras()


def _place(anatomy: Anatomy, view: str, draw: dict[str, float], rng: np.random.Generator) -> Beam:
    axis = np.asarray(_VIEW_AXES[view], float)
    if view.endswith("side") and rng.random() < 0.5:
        axis[0] *= -1
    axis = axis / np.linalg.norm(axis) + rng.normal(0, 0.13, 3)
    axis /= np.linalg.norm(axis)
    steps = np.arange(0, 70, 0.6)
    ray = torch.from_numpy((anatomy.centre + steps[:, None] * axis).astype(np.float32))
    distance = sample(anatomy.skull_distance, CANONICAL_IJK_TO_RAS, ray, outside=50.0).numpy()
    surface = float(steps[int(np.argmax(distance > 0))])
    depth_axis = -axis + rng.normal(0, 0.05, 3)
    depth_axis /= np.linalg.norm(depth_axis)
    radius = draw["radius_mm"] * anatomy.scale
    apex = anatomy.centre + axis * (surface + draw["distance_mm"] * anatomy.scale + radius)
    apex = apex + rng.normal(0, 4, 3)
    lateral_axis = np.cross(depth_axis, (0, 0, 1) if abs(axis[2]) < 0.8 else (1, 0, 0))
    lateral_axis /= np.linalg.norm(lateral_axis)
    elevation = np.cross(depth_axis, lateral_axis)
    roll = float(rng.normal(0, 0.25))
    lateral_axis, elevation = (
        np.cos(roll) * lateral_axis + np.sin(roll) * elevation,
        -np.sin(roll) * lateral_axis + np.cos(roll) * elevation,
    )
    far = radius + draw["distance_mm"] * anatomy.scale + surface * 2 + float(rng.uniform(4, 30))
    return Beam(
        apex=apex,
        axes=np.stack((lateral_axis, elevation, depth_axis)),
        near_mm=radius,
        far_mm=far,
        lateral=float(np.deg2rad(draw["lateral_deg"])),
        sweep=float(np.deg2rad(draw["sweep_deg"])),
    )


def _tissue_maps(anatomy: Anatomy, draw: dict[str, float], rng: np.random.Generator) -> np.ndarray:
    """Maps (7, k, j, i): attenuation, scatter, impedance, skull 0-1, skull normal x, y, z.

    The normal comes from the smoothed signed distance: voxelised normals streak.
    """
    table = np.zeros((3, 32), np.float32)
    for label, values in TISSUE.items():
        table[:, label] = values
        table[:, label] *= [rng.uniform(0.75, 1.3), 1 + rng.normal(0, 0.004), rng.uniform(0.75, 1.3)]
    brain = [1, 3, 5, 6, 7, 8]
    table[2, brain] *= draw["brain_scatter"]
    table[2, [2, 4, tissue.CAVUM]] *= draw["fluid_scatter"]
    table[1, tissue.SKULL] = 1.66  # the skull has its own, oriented echo and loss
    alpha, impedance, scatter = table[0][anatomy.labels], table[1][anatomy.labels], table[2][anatomy.labels]
    texture = ndimage.gaussian_filter(rng.standard_normal((80, 80, 80)).astype(np.float32), 1.4)
    texture = (0.35 / texture.std() * texture).repeat(2, 0).repeat(2, 1).repeat(2, 2)
    scatter = scatter * np.exp(texture)
    sigma = _SMOOTH_MM / SPACING_MM
    bone = (anatomy.labels == tissue.SKULL).astype(np.float32)
    gradient = np.stack(np.gradient(ndimage.gaussian_filter(anatomy.skull_distance, 3.0)))[::-1]
    normal = gradient / (np.linalg.norm(gradient, axis=0) + 1e-6)
    smooth = [ndimage.gaussian_filter(field, sigma) for field in (scatter, impedance, bone)]
    return np.stack([alpha, *smooth, *normal])


def _transmission(
    alpha: torch.Tensor,
    skull: torch.Tensor,
    cosine: torch.Tensor,
    impedance: torch.Tensor,
    step_mm: float,
    draw: dict[str, float],
) -> torch.Tensor:
    """Amplitude left at each sample: absorption, reflection, and refraction where the skull is tangential."""
    loss_db = 2 * draw["frequency_mhz"] * alpha * step_mm / 10
    loss_db = loss_db + skull * draw["skull_loss"] * (1 - cosine) * step_mm
    reflection = torch.zeros_like(impedance)
    reflection[1:] = (impedance[1:] - impedance[:-1]).abs() / (impedance[1:] + impedance[:-1])
    loss_db = loss_db - 40 * torch.log10(1 - reflection.clamp(0, 0.5) ** 2)
    # a beam is as wide as its aperture: a suture or a shadow edge is a soft window, not a line
    passed = functional.avg_pool3d(
        torch.cumsum(loss_db, dim=0)[None], (1, 5, 5), stride=1, padding=(0, 2, 2), count_include_pad=False
    )[0]
    return 10 ** (-passed / 20)


def _echo(
    scatter: torch.Tensor,
    impedance: torch.Tensor,
    skull: torch.Tensor,
    cosine: torch.Tensor,
    step_mm: float,
    draw: dict[str, float],
    generator: torch.Generator,
) -> torch.Tensor:
    """Envelope of speckle plus specular echoes, with a point spread that widens with depth."""
    noise = torch.randn((2, *scatter.shape), generator=generator)
    speckle = _point_spread(noise * (scatter / 2**0.5), step_mm, draw)
    envelope = (speckle**2).sum(0).sqrt()

    derivative = torch.zeros_like(impedance)
    derivative[1:] = impedance[1:] - impedance[:-1]
    lateral = torch.zeros_like(impedance)
    lateral[:, 1:] += (impedance[:, 1:] - impedance[:, :-1]) ** 2
    lateral[:, :, 1:] += (impedance[:, :, 1:] - impedance[:, :, :-1]) ** 2
    oriented = derivative.abs() / (derivative**2 + lateral + 1e-8).sqrt()
    specular = draw["interface"] * derivative.abs() * oriented
    specular = specular + draw["skull_bright"] * skull * (0.04 + cosine**3) * 0.25
    ripple = 1 + 0.35 * _smooth_noise(specular.shape, generator)
    return envelope + _point_spread((specular * ripple)[None], step_mm, draw)[0]


def _point_spread(field: torch.Tensor, step_mm: float, draw: dict[str, float]) -> torch.Tensor:
    """Separable Gaussian along (depth, lateral, sweep) of a field (c, depth, lateral, sweep).

    c = 2 is complex noise: its power is kept, so that the scatter map alone sets the level of the speckle.
    """
    sigmas = (draw["axial_mm"] / step_mm, draw["lateral_beam"], 1.15 * draw["lateral_beam"])
    power = 1.0
    for axis, sigma in enumerate(sigmas, start=1):
        kernel = _gaussian(sigma)
        field = _blur(field, kernel, axis)
        power *= sum(weight**2 for weight in kernel)
    return field / power**0.5 if field.shape[0] == 2 else field


def _blur(field: torch.Tensor, kernel: list[float], axis: int) -> torch.Tensor:
    """Correlation with a symmetric kernel by shifted sums: 25 times faster here than a convolution of one channel."""
    radius, size = len(kernel) // 2, field.shape[axis]
    out = field * kernel[radius]
    for offset in range(1, radius + 1):
        weight = kernel[radius + offset]
        out.narrow(axis, offset, size - offset).add_(field.narrow(axis, 0, size - offset), alpha=weight)
        out.narrow(axis, 0, size - offset).add_(field.narrow(axis, offset, size - offset), alpha=weight)
    return out


def _gaussian(sigma: float) -> list[float]:
    radius = max(1, int(np.ceil(2.5 * sigma)))
    kernel = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * max(sigma, 0.3) ** 2))
    return [float(weight) for weight in kernel / kernel.sum()]


def _haze(
    skull: torch.Tensor,
    transmitted: torch.Tensor,
    step_mm: float,
    draw: dict[str, float],
    generator: torch.Generator,
) -> torch.Tensor:
    """Reverberation behind the near skull: bright, smeared, dying over about 20 mm; it obscures the near hemisphere."""
    passed = torch.cumsum(skull, dim=0)
    behind = (passed > 0.5 * passed.amax(0, keepdim=True).clamp_min(1)).float() * (skull < 0.3)
    first = (passed > 0.5).float()
    travelled = torch.cumsum(first, dim=0) * step_mm
    level = draw["haze"] * 0.25 * first * torch.exp(-travelled / 22.0) * (1 - 0.3 * behind)
    texture = 0.6 + 0.5 * _smooth_noise(skull.shape, generator)
    grain = torch.randn(skull.shape, generator=generator).abs()
    return level * texture.clamp_min(0) * (0.5 + 0.6 * grain) * transmitted.clamp_min(0.1)


def _display(
    amplitude: torch.Tensor,
    depths: torch.Tensor,
    beam: Beam,
    draw: dict[str, float],
    rng: np.random.Generator,
    generator: torch.Generator,
) -> torch.Tensor:
    """Time-gain compensation with its error, electronic noise, log compression, 0-255."""
    fraction = (depths - beam.near_mm) / (beam.far_mm - beam.near_mm)
    median = amplitude.reshape(len(depths), -1)[:, ::37].mean(dim=1)
    log_profile = torch.log10(median.clamp_min(1e-5))
    design = torch.stack((torch.ones_like(fraction), fraction), dim=1)
    slope = torch.linalg.lstsq(design, log_profile[:, None]).solution[1, 0].clamp(-2.5, 0.0)
    wobble = 10 ** (
        draw["tgc_error_db"] * torch.sin(fraction * float(rng.uniform(2, 5)) + float(rng.uniform(0, 6))) / 20
    )
    compensation = 10 ** (-slope * fraction) * wobble
    amplified = amplitude * compensation[:, None, None]
    reference = torch.quantile(amplified.reshape(-1)[:: max(1, amplified.numel() // 200_000)], 0.997)
    floor = reference * 10 ** (draw["noise_db"] / 20) * (0.3 + 0.7 * fraction[:, None, None])
    amplified = amplified + floor * torch.randn(amplitude.shape, generator=generator).abs()
    decibel = 20 * torch.log10((amplified / reference).clamp_min(1e-6)) + draw["gain_db"] + 3
    return (1 + decibel / draw["dynamic_range_db"]).clamp(0, 1) ** draw["contrast"] * 255


def _smooth_noise(shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    control = torch.randn((1, 1, 9, 9, 9), generator=generator).clamp(-2, 2) / 2
    return functional.interpolate(control, size=tuple(shape), mode="trilinear", align_corners=True)[0, 0]


def simulate_canonical(
    anatomy: Anatomy, seed: int, view: str | None = None
) -> tuple[np.ndarray, np.ndarray, Acquisition]:
    """Ultrasound uint8 and fan mask on the canonical grid, with the acquisition behind them."""
    acquisition = acquire(anatomy, seed, view=view)
    us, fan = acquisition.scan_convert(canonical_points())
    return us, fan, acquisition
