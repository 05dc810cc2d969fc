"""What the sound does on the way: absorption, reflection, speckle, reverberation (torch, on the beams' own grid).

Arrays are (depth, lateral, sweep).  Lengths are physical mm.  After Kuklisova-Murgasova et al. 2013 (reflection and
absorption from a segmented MR) with speckle, membranes, reverberation and haze of ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

_LOBES_MM = 4.0
_LEAK_MM = 8.0
_HAZE_MM = 3.0
_STROKES_MM = {"specks": 1.0, "strokes": 2.4}  # standard deviations across the beam


@dataclass(frozen=True, eq=False)
class Fields:
    """Acoustic maps on the beams' grid.

    alpha: dB/cm/MHz.  scatter: amplitude of diffuse scattering.  impedance: MRayl.  skull: 0-1.  membrane: strength
    of thin reflecting sheets.  distance: mm to the outer skull, negative inside.
    """

    alpha: torch.Tensor
    scatter: torch.Tensor
    impedance: torch.Tensor
    skull: torch.Tensor
    membrane: torch.Tensor
    distance: torch.Tensor


@dataclass(frozen=True, eq=False)
class Sampling:
    """The beams' grid: depth step, and the distance of neighbours (depth,) laterally and in elevation, in mm."""

    step_mm: float
    lateral_mm: torch.Tensor
    sweep_mm: torch.Tensor


def amplitude(
    fields: Fields, sampling: Sampling, draw: dict[str, float], generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Envelope of the received echo, linear, and the share of sound that reached each place (both arrays)."""
    step = sampling.step_mm
    cosine = torch.zeros_like(fields.distance)
    cosine[1:-1] = ((fields.distance[2:] - fields.distance[:-2]) / (2 * step)).abs().clamp(0, 1)
    transmitted = _transmission(fields, cosine, sampling, draw)
    haze = _haze(fields.skull, sampling, draw, generator)
    scatter = fields.scatter * _layers(fields, sampling, draw, generator) + _halo(fields, draw, generator)
    clutter = torch.full((), float(np.log(draw["brain_level"] * draw["haze_level"])))
    scatter = torch.exp(torch.lerp(torch.log(scatter + 1e-4), clutter, haze))
    envelope = speckle(scatter, sampling, draw, generator)
    looks = int(draw["looks"])
    if looks > 1:  # compounding: independent views of the same scatterers, averaged as power
        powers = envelope**2
        for _ in range(looks - 1):
            powers += speckle(scatter, sampling, draw, generator) ** 2
        envelope = (powers / looks).sqrt()
    specular = _specular(fields, cosine, haze, sampling, draw, generator)
    return (envelope + specular) * transmitted, transmitted


def speckle(
    scatter: torch.Tensor, sampling: Sampling, draw: dict[str, float], generator: torch.Generator
) -> torch.Tensor:
    """Envelope of fully developed speckle whose mean square is 2 scatter^2 / 2: Rayleigh before any compounding."""
    noise = torch.randn((2, *scatter.shape), generator=generator)
    share = draw.get("point_share", 1.0)
    if share < 1:  # few scatterers to a cell: the envelope is K-distributed
        noise.mul_((torch.rand(scatter.shape, generator=generator) < share) / share**0.5)
    field = point_spread(noise.mul_(scatter / 2**0.5), sampling, draw, power=True)
    return (field**2).sum(0).sqrt()


def point_spread(field: torch.Tensor, sampling: Sampling, draw: dict[str, float], power: bool = False) -> torch.Tensor:
    """The pulse's blur of a field (c, depth, lateral, sweep): widths grow away from the focus.

    power: keep the power of white noise instead of the mean.
    """
    kernel = gaussian(draw["axial_mm"] / sampling.step_mm)
    field = blur(field, kernel, 1)
    if power:
        field = field / sum(weight**2 for weight in kernel) ** 0.5
    lobes = draw.get("side_lobes", 0.0)
    depth = torch.arange(field.shape[1]) * sampling.step_mm
    focus = draw["focus"] * float(depth[-1])
    slabs = torch.tensor_split(torch.arange(field.shape[1]), 8)
    done = []
    for slab in slabs:
        middle = slab[len(slab) // 2]
        width = draw["lateral_mm"] * (1 + ((depth[middle] - focus) / draw["focal_mm"]) ** 2) ** 0.5
        part = field[:, slab[0] : slab[-1] + 1]
        for axis, spacing, factor in ((2, sampling.lateral_mm, 1.0), (3, sampling.sweep_mm, draw["elevation"])):
            if part.shape[axis] > 1:
                kernel = gaussian(float(width * factor / spacing[middle]))
                if lobes:
                    kernel = with_side_lobes(kernel, lobes)
                part = blur(part, kernel, axis)
                if power:
                    part = part / sum(weight**2 for weight in kernel) ** 0.5
        done.append(part)
    return torch.cat(done, dim=1)


def blur(field: torch.Tensor, kernel: list[float], axis: int) -> torch.Tensor:
    """Correlation with a symmetric kernel by shifted sums: 25 times faster here than a convolution of one channel."""
    radius, size = len(kernel) // 2, field.shape[axis]
    out = field * kernel[radius]
    for offset in range(1, min(radius, size - 1) + 1):
        weight = kernel[radius + offset]
        out.narrow(axis, offset, size - offset).add_(field.narrow(axis, 0, size - offset), alpha=weight)
        out.narrow(axis, 0, size - offset).add_(field.narrow(axis, offset, size - offset), alpha=weight)
    return out


def gaussian(sigma: float) -> list[float]:
    """Weights of a Gaussian of sigma samples, summing to 1."""
    sigma = max(sigma, 0.3)
    radius = max(1, int(np.ceil(2.5 * sigma)))
    kernel = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    return [float(weight) for weight in kernel / kernel.sum()]


def with_side_lobes(kernel: list[float], level: float) -> list[float]:
    """A beam's main lobe (odd, symmetric) with a negative and a positive lobe on either side; the sum stays 1."""
    radius = len(kernel) // 2
    wide = np.zeros(4 * radius + 1)
    place = np.arange(-2 * radius, 2 * radius + 1)
    wide[radius : 3 * radius + 1] = kernel
    shape = np.sinc(place / max(radius / 1.25, 1.0)) * (np.abs(place) > radius / 2)
    wide += level * max(kernel) * shape
    return [float(weight) for weight in wide / wide.sum()]


def smooth_noise(shape: torch.Size, nodes: tuple[int, int, int], generator: torch.Generator) -> torch.Tensor:
    """Noise in about [-1, 1] that varies over the given number of nodes along each axis."""
    control = torch.randn((1, 1, *(min(n, max(s, 1)) for n, s in zip(nodes, shape, strict=True))), generator=generator)
    size = tuple(shape)
    return functional.interpolate(control.clamp(-2, 2) / 2, size=size, mode="trilinear", align_corners=True)[0, 0]


def _transmission(fields: Fields, cosine: torch.Tensor, sampling: Sampling, draw: dict[str, float]) -> torch.Tensor:
    """Amplitude left at each sample: absorption, reflection, and refraction where the skull is tangential."""
    loss_db = fields.alpha * (2 * draw["frequency_mhz"] * sampling.step_mm / 10)
    loss_db += fields.skull * (1 - cosine).square() * (draw["skull_loss"] * sampling.step_mm)
    passed = torch.cumsum(loss_db, dim=0)[None, None]
    # a beam is as wide as its aperture: a suture or a shadow's edge is a soft window, not a line
    for axis, spacing in ((1, sampling.lateral_mm), (2, sampling.sweep_mm)):
        if passed.shape[axis + 2] > 1:
            half = min(max(1, round(draw["aperture_mm"] / 2 / float(spacing.mean()))), passed.shape[axis + 2] // 2)
            width, padding = [1, 1, 1], [0, 0, 0]
            width[axis], padding[axis] = 2 * half + 1, half
            for _ in range(2):  # twice: a triangle, without the box's corners
                passed = functional.avg_pool3d(passed, width, stride=1, padding=padding, count_include_pad=False)
    reached = torch.exp(passed[0, 0].clamp_max(70.0) * (-np.log(10) / 20))
    # side lobes and scattering light up a shadow from beside it
    beside = blur(reached[None], gaussian(_LEAK_MM / float(sampling.lateral_mm.mean())), 2)[0]
    return torch.maximum(reached, beside * 10 ** (draw["leak_db"] / 20))


def _haze(skull: torch.Tensor, sampling: Sampling, draw: dict[str, float], generator: torch.Generator) -> torch.Tensor:
    """0-1: how much of the contrast drowns in clutter behind the near skull, where the beam is not yet formed again.

    It decays with depth: the near hemisphere is uniformly grey and rather bright, the far one is clear.
    """
    passed = torch.cumsum(skull, dim=0) * sampling.step_mm
    # clutter comes from beside the beam too: a suture leaves no straight line without it
    for axis, spacing in ((2, sampling.lateral_mm), (3, sampling.sweep_mm)):
        if skull.shape[axis - 1] > 1:
            passed = blur(passed[None], gaussian(_HAZE_MM / float(spacing.mean())), axis)[0]
    behind = ((passed - 0.4) / 0.5).clamp(0, 1)
    travelled = torch.cumsum(behind, dim=0) * sampling.step_mm
    patches = 1 + 0.4 * smooth_noise(skull.shape, (5, 8, 6), generator)
    level = draw["haze"] * behind * torch.exp(-((travelled / draw["haze_mm"]) ** 2)) * patches
    return level.clamp(0, 0.97) * (1 - skull)


def _halo(fields: Fields, draw: dict[str, float], generator: torch.Generator) -> torch.Tensor:
    """Scatter that models clutter beside the skull: fluid there is grey in real pictures, on both sides of it."""
    fall = torch.exp(-fields.distance.abs() / draw["halo_mm"])
    uneven = torch.exp(0.6 * smooth_noise(fields.distance.shape, (7, 11, 9), generator))
    return fall * uneven * (draw["halo"] * draw["brain_level"])


def _layers(fields: Fields, sampling: Sampling, draw: dict[str, float], generator: torch.Generator) -> torch.Tensor:
    """A factor on scatter: outside the head tissue lies in layers roughly parallel to the probe's surface."""
    shape = fields.distance.shape
    nodes = max(8, int(shape[0] * sampling.step_mm / 1.6))
    fine = smooth_noise(shape, (nodes, 7, 5), generator)
    coarse = smooth_noise(shape, (7, 9, 7), generator)
    outside = ((fields.distance - 2.0) / 2.0).clamp(0, 1)
    return torch.exp(outside * (draw["layers"] * fine + draw["patches"] * coarse))


def _specular(
    fields: Fields,
    cosine: torch.Tensor,
    haze: torch.Tensor,
    sampling: Sampling,
    draw: dict[str, float],
    generator: torch.Generator,
) -> torch.Tensor:
    """Mirror-like echoes: skull, membranes, tissue interfaces and small reflectors, brightest across the beam."""
    shape = fields.skull.shape
    ripple = torch.exp(draw["skull_ripple"] * smooth_noise(shape, (9, 23, 15), generator))
    bumps = draw["skull_bumps_mm"] * smooth_noise(shape, (9, 19, 13), generator)
    # a sheet is rough: it shines where a piece of it happens to face the probe, over some mm along the picture
    depth_mm = shape[0] * sampling.step_mm
    glints = smooth_noise(shape, (max(4, int(depth_mm / 5)), 48, 32), generator)
    glints = torch.exp(draw["glints"] * glints - 0.1 * draw["glints"] ** 2)
    near = torch.cumsum(fields.skull, dim=0) * sampling.step_mm < 4.0
    # pulses have long tails: an exponential profile, which the log display shows as a ridge and not as a plateau
    width = draw["skull_width_mm"] * (1 + draw["skull_spread"] * (1 - cosine))
    profile = torch.exp(-(fields.distance + draw["skull_depth_mm"] + bumps).abs() / width)
    reach = 2 * max(1, round(1.2 / sampling.step_mm)) + 1
    bone = functional.max_pool3d(fields.skull[None], (reach, 1, 1), stride=1, padding=(reach // 2, 0, 0))[0]
    skull = profile * bone * (draw["skull_floor"] + cosine ** draw["skull_exponent"]) * draw["skull_bright"]
    skull = torch.where(near, skull, skull * draw["skull_far"])
    derivative = torch.zeros_like(fields.impedance)
    derivative[1:] = fields.impedance[1:] - fields.impedance[:-1]
    echo = draw["interface"] * derivative.abs() * (1 - fields.skull)
    orientation = _across(fields.membrane, sampling)
    echo = echo + draw["membrane"] * fields.membrane * (draw["membrane_floor"] + orientation**2) * glints
    echo = echo + draw["brain_level"] * _specks(fields, sampling, draw, generator)
    sharp = point_spread(torch.stack((skull * ripple, echo * ripple * (1 - haze))), sampling, draw)
    ringing = _tail(sharp[0], sampling.step_mm, draw)
    lobes = blur(sharp[:1], gaussian(_LOBES_MM / float(sampling.lateral_mm.mean())), 2)[0]
    return sharp.sum(0) + ringing + draw["lobes"] * lobes


def _across(sheet: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """How far a sheet lies across the beam, 0-1, from its structure tensor over about 1.5 mm."""
    along = torch.zeros_like(sheet)
    along[1:-1] = ((sheet[2:] - sheet[:-2]) / (2 * sampling.step_mm)) ** 2
    total = along.clone()
    for axis, spacing in ((1, sampling.lateral_mm), (2, sampling.sweep_mm)):
        if sheet.shape[axis] > 2:
            middle = sheet.shape[axis] - 2
            slope = (sheet.narrow(axis, 2, middle) - sheet.narrow(axis, 0, middle)) / (2 * spacing[:, None, None])
            total.narrow(axis, 1, middle).add_(slope**2)
    reach = 2 * max(1, round(0.8 / sampling.step_mm)) + 1
    side = [3 if size > 2 else 1 for size in sheet.shape[1:]]
    pooled = functional.avg_pool3d(
        torch.stack((along, total))[:, None], (reach, *side), stride=1,
        padding=(reach // 2, side[0] // 2, side[1] // 2), count_include_pad=False,
    )[:, 0]  # fmt: skip
    return pooled[0] / (pooled[1] + 1e-8)


def _specks(fields: Fields, sampling: Sampling, draw: dict[str, float], generator: torch.Generator) -> torch.Tensor:
    """Short bright strokes across the beam (vessels, fibres): lines that mean no fluid."""
    shape = fields.scatter.shape
    cell = sampling.step_mm * float(sampling.lateral_mm.mean())
    thickness = float(sampling.sweep_mm.mean()) if shape[2] > 1 else 3.0
    total = torch.zeros_like(fields.scatter)
    # what the pulse's blur will take from a line one sample thin
    gain = draw["stroke_level"] * max(1.0, 2.5 * draw["axial_mm"] / sampling.step_mm)
    for name, length_mm in _STROKES_MM.items():
        count = int(draw[name] * total.numel() * cell * thickness / 1000)  # strokes a cm^3
        where = torch.randint(total.numel(), (count,), generator=generator)
        field = torch.zeros_like(total)
        field.view(-1)[where] = torch.randn(count, generator=generator).mul_(0.6).exp_() * gain
        for axis, spacing in ((2, sampling.lateral_mm), (3, sampling.sweep_mm)):
            if shape[axis - 1] > 1:
                kernel = gaussian(length_mm / float(spacing.mean()))
                field = blur(field[None], [weight / max(kernel) for weight in kernel], axis)[0]
        total += field
    # in groups, as vessels and fissures are, and fewer towards the skull
    depth_mm = shape[0] * sampling.step_mm
    groups = smooth_noise(shape, (max(4, int(depth_mm / 9)), 11, 8), generator)
    groups = (groups * draw["speck_groups"] + 1 - 0.5 * draw["speck_groups"]).clamp_min(0)
    inwards = ((-4.0 - fields.distance) / 18.0).clamp(0, 1)
    return total * groups * inwards * (fields.scatter > 0.4 * draw["brain_level"])


def _tail(echo: torch.Tensor, step_mm: float, draw: dict[str, float]) -> torch.Tensor:
    """What a strong echo leaves behind it: a decaying tail and a repeated echo, the skull's reverberation."""
    decay = float(np.exp(-2 * step_mm / draw["tail_mm"]))
    stride = 2
    result = torch.zeros_like(echo)
    gain = draw["tail"]
    for n in range(1, int(3 * draw["tail_mm"] / (stride * step_mm)) + 1):
        shift = stride * n
        if shift >= echo.shape[0]:
            break
        gain *= decay
        result[shift:].add_(echo[:-shift], alpha=gain)
    delay = max(1, round(draw["reverberation_mm"] / step_mm))
    for n in (1, 2):
        if n * delay < echo.shape[0]:
            result[n * delay :].add_(echo[: -n * delay], alpha=draw["reverberation"] ** n)
    return result
