"""A single frame at the head-circumference plane from the same simulated machine, with its truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from USMRISynthesisLib.geometry.canonical import HC_PLANE_Z_MM, HEAD_LENGTH_MM, SIZE, SPACING_MM
from USMRISynthesisLib.simulation.anatomy.head import Anatomy
from USMRISynthesisLib.simulation.anatomy.warp import combine, rotation_matrix, sample
from USMRISynthesisLib.simulation.scanner.acoustics import tissue_maps
from USMRISynthesisLib.simulation.scanner.beam import Beam, place_in_plane
from USMRISynthesisLib.simulation.scanner.randomised import randomise
from USMRISynthesisLib.simulation.scanner.volume import CANONICAL_IJK_TO_RAS, USUAL, AcquisitionRanges, Machine, scan

_ANGLES = 340
_SAMPLE_MM = 0.2
_REACH_MM, _THICK_MM = 75.0, 5.0


@dataclass(frozen=True)
class FrameRanges:
    """How the plane lies around the head-circumference plane (normal deviations), and the picture's own pixels."""

    tilt_deg: float = 5.0
    offset_mm: float = 3.0  # canonical
    pixel_mm: tuple[float, float] = (0.25, 0.5)  # canonical
    length_error: float = 0.012  # of the outlined head, as a share
    length_bias: float = 0.02  # an outline is drawn around the skull's echo, which is wider than the bone
    place_error_mm: float = 0.6
    turn_deg: float = 2.0
    # the picture's window about the head, as HC18's training fetuses have it (median 100 canonical mm, 90 % 76-145)
    window_mm: float = 98.0
    window_spread: float = 0.17  # of its logarithm
    window_ratio: float = 1.48  # width over height
    window_place: float = 0.05  # of the window, the head's centre from the window's
    legend: float = 0.8  # how often the machine's legend is cut out of a lower corner
    caption: float = 0.25  # and a caption out of an upper one


@dataclass(frozen=True, eq=False)
class Frame:
    """us, t2, labels uint8 and fan bool, (160, 160) on the canonical plane; skull: outer skull's mask.

    plane: (4, 4), columns its axes (unit, times the frame's scale), normal and origin in the head's canonical mm: a
    frame's canonical place (x, y, 0, 1) lies at plane @ (x, y, 0, 1) in the head.
    """

    us: np.ndarray
    fan: np.ndarray
    t2: np.ndarray
    labels: np.ndarray
    skull: np.ndarray
    plane: np.ndarray
    parameters: dict[str, float]


def simulate_frame(
    anatomy: Anatomy,
    seed: int,
    ranges: AcquisitionRanges | None = None,
    planes: FrameRanges | None = None,
    machine: Machine = USUAL,
) -> Frame:
    """One frame, its head's outline upright, centred and 88 mm long as `normalise` would bring it.

    The same seed gives the same bytes on one machine.
    """
    rng = np.random.default_rng([seed, 4])
    generator = torch.Generator().manual_seed(seed)
    planes = planes or FrameRanges()
    draw = machine.draw(ranges or FRAME_RANGES, rng, seed)
    plane = _outlined(anatomy, _tilted(planes, rng), planes, rng)
    beam = place_in_plane(anatomy, plane, draw, rng)
    rows = _rows(plane)
    maps = tissue_maps(anatomy, draw, rng, rows)
    if machine.randomised:
        maps = randomise(maps, anatomy.labels[rows], seed)
    image = scan(maps, beam, (_SAMPLE_MM, _ANGLES, 1), anatomy.scale, draw, rng, generator, rows.start)
    us, fan = _picture(image[..., 0], beam, plane, planes, rng)
    grid = plane_points(plane)
    t2 = sample(anatomy.t2, CANONICAL_IJK_TO_RAS, grid).numpy()
    distance = sample(anatomy.skull_distance, CANONICAL_IJK_TO_RAS, grid, outside=50.0).numpy()
    index = ((grid + (SIZE - 1) / 2 * SPACING_MM) / SPACING_MM).round().long().clamp(0, SIZE - 1).numpy()
    labels = anatomy.labels[index[..., 2], index[..., 1], index[..., 0]]
    t2 = np.round(np.where(distance < 0, t2, 0) * 255).astype(np.uint8)
    return Frame(us, fan, t2, labels, distance < 0, plane, draw)


# finer in depth and width than a motor-swept volume, and thinner layers of everything
FRAME_RANGES = AcquisitionRanges(
    axial_mm=(0.24, 0.54),
    lateral_mm=(0.4, 1.15),
    distance_mm=(5.0, 28.0),
    radius_mm=(35.0, 60.0),
    lateral_deg=(32.0, 46.0),
    looks=(3.0, 16.0),
    smoothing=(0.05, 0.85),
    skull_width_mm=(0.12, 0.36),
)


def _rows(plane: np.ndarray) -> slice:
    """The canonical grid's rows k that the plane and its thickness reach, even at both ends: a quarter of them."""
    # the beams end beyond the grid, where its border goes on
    half = _REACH_MM * float(np.abs(plane[2, :2]).sum()) + _THICK_MM
    low, high = ((float(plane[2, 3]) + side * half) / SPACING_MM + (SIZE - 1) / 2 for side in (-1, 1))
    start = int(np.clip(np.floor(low / 2) * 2, 0, SIZE - 16))
    return slice(start, int(np.clip(np.ceil(high / 2) * 2 + 2, start + 16, SIZE)))


def plane_points(plane: np.ndarray, size: int = SIZE, spacing_mm: float = SPACING_MM) -> torch.Tensor:
    """Places (size, size, 3) in the head's canonical mm of a frame's canonical grid."""
    axis = (torch.arange(size, dtype=torch.float32) - (size - 1) / 2) * spacing_mm
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    matrix = torch.from_numpy(plane).float()
    return x[..., None] * matrix[:3, 0] + y[..., None] * matrix[:3, 1] + matrix[:3, 3]


def _tilted(planes: FrameRanges, rng: np.random.Generator) -> np.ndarray:
    plane = np.eye(4)
    plane[:3, :3] = rotation_matrix(np.append(rng.normal(0, planes.tilt_deg, 2), 0.0))
    plane[:3, 3] = plane[:3, 2] * (HC_PLANE_Z_MM + rng.normal(0, planes.offset_mm))
    return plane


def _outlined(anatomy: Anatomy, plane: np.ndarray, planes: FrameRanges, rng: np.random.Generator) -> np.ndarray:
    """Moved and scaled so that the section's outline lies upright at the origin with the canonical length.

    The axes come from the outline's second moments, as an ellipse fitted by hand; small errors are added to them.
    """
    points = plane_points(plane)
    inside = sample(anatomy.skull_distance, CANONICAL_IJK_TO_RAS, points, outside=50.0).numpy() < 0
    axis = (np.arange(SIZE) - (SIZE - 1) / 2) * SPACING_MM
    y, x = np.meshgrid(axis, axis, indexing="ij")
    places = np.stack((x[inside], y[inside]))
    centre = places.mean(axis=1)
    moments, directions = np.linalg.eigh(np.cov(places))
    long = directions[:, 1] * np.sign(directions[1, 1])
    scale = 4 * np.sqrt(moments[1]) / HEAD_LENGTH_MM * (1 + rng.normal(planes.length_bias, planes.length_error))
    turn = np.deg2rad(rng.normal(0, planes.turn_deg))
    front = np.array([np.cos(turn) * long[0] - np.sin(turn) * long[1], np.sin(turn) * long[0] + np.cos(turn) * long[1]])
    right = np.array([front[1], -front[0]])
    centre = centre + rng.normal(0, planes.place_error_mm, 2)
    result = plane.copy()
    result[:3, 0] = scale * (plane[:3, 0] * right[0] + plane[:3, 1] * right[1])
    result[:3, 1] = scale * (plane[:3, 0] * front[0] + plane[:3, 1] * front[1])
    result[:3, 3] = plane[:3, 3] + plane[:3, 0] * centre[0] + plane[:3, 1] * centre[1]
    return result


def _window(across: torch.Tensor, down: torch.Tensor, planes: FrameRanges, rng: np.random.Generator) -> torch.Tensor:
    """Where the machine's window shows ultrasound: a rectangle around the head without the boxes of its texts.

    across, down: mm from the head's centre along the picture's rows and columns.
    """
    height = planes.window_mm * float(np.exp(rng.normal(0, planes.window_spread)))
    place = rng.normal((0.5, 0.49), planes.window_place)
    u = across / (height * planes.window_ratio) + float(place[0])
    v = down / height + float(place[1])
    if rng.random() < 0.5:
        u = 1 - u  # a picture may be stored mirrored
    seen = (u > 0) & (u < 1) & (v > 0) & (v < 1)
    corners = rng.uniform([0.7, 0.77, 0.84, 0.08], [0.8, 0.83, 0.93, 0.2])
    if rng.random() < planes.legend:
        seen &= ~((u > float(corners[0])) & (v > float(corners[1])))
    if rng.random() < planes.caption:
        seen &= ~((u > float(corners[2])) & (v < float(corners[3])))
    return seen


def _picture(
    image: torch.Tensor, beam: Beam, plane: np.ndarray, planes: FrameRanges, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Scan-converted to the machine's pixels, cut to its window, then sampled on the canonical grid as a file is."""
    pixel = float(rng.uniform(*planes.pixel_mm))
    size = int(np.ceil(SIZE * SPACING_MM / pixel))
    points = plane_points(plane, size, pixel)
    coordinates = beam.coordinates(points)
    grid = coordinates[..., 1:].reshape(1, size, size, 2)
    values = functional.grid_sample(image[None, None], grid, padding_mode="border", align_corners=True)[0, 0]
    seen = (coordinates[..., 1:].abs() <= 1).all(dim=-1)
    local = combine(points - torch.from_numpy(plane[:3, 3]).float(), torch.from_numpy(beam.axes).float())[..., ::2]
    seen &= _window(local[..., 0], local[..., 1], planes, rng)
    stored = torch.where(seen, values.round().clamp(0, 255), torch.zeros(()))
    centres = (torch.arange(SIZE) - (SIZE - 1) / 2) * SPACING_MM / (pixel * (size - 1) / 2)
    grid = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), dim=-1)[None]
    both = functional.grid_sample(torch.stack((stored, seen.float()))[None], grid, align_corners=True)[0]
    fan = both[1] > 0.5
    us = torch.where(fan, both[0].round(), torch.zeros(()))
    return us.numpy().astype(np.uint8), fan.numpy()
