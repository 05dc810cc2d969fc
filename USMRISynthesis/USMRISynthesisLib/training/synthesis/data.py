"""Training samples: augmented slices of simulated cases, real volumes and real frames, with unpaired MR beside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from USMRISynthesisLib.datasets.cases import Case, Frames
from USMRISynthesisLib.datasets.covering import ABSENT, cover
from USMRISynthesisLib.datasets.marked_frames import CAVUM, PLEXUS_RING
from USMRISynthesisLib.datasets.scans import MRVolume, Scan
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.geometry import planes
from USMRISynthesisLib.geometry.canonical import SPACING_MM
from USMRISynthesisLib.synthesis.generator import GeneratorConfig
from USMRISynthesisLib.synthesis.slices import LOCATION_SCALE_MM
from USMRISynthesisLib.training.synthesis.config import BatchConfig, InputConfig
from USMRISynthesisLib.training.synthesis.disturbance import disturbed

_WARP_PIXELS = 32  # between a warp's nodes
HEADLESS_WEIGHT = 0.1  # a slice without head is drawn this often for one with: it must come out black


class Batch(NamedTuple):
    """x (N, C, H, W): the generator's input; plain: the same before it was disturbed; us, truth, mr (N, 1, H, W), mr
    unpaired; has_truth (N,); marks (N, 3, H, W) bool, where a cavum is marked, the surroundings of a plexus, and
    a cavum that was covered.
    """

    x: Tensor
    us: Tensor
    mr: Tensor
    truth: Tensor
    has_truth: Tensor
    plain: Tensor
    marks: Tensor


class _Sample(NamedTuple):
    """stack (n, H, W) uint8 and its table to 0-1; truth (H, W) uint8 or None; unpaired mr (H, W) at the same place."""

    stack: np.ndarray
    table: np.ndarray
    truth: np.ndarray | None
    place_mm: float
    mr: np.ndarray
    plane: str
    marks: np.ndarray | None = None


def location_mm(k: int | np.ndarray, count: int) -> float | np.ndarray:
    """Where slice k of any plane lies in canonical mm; the grid is centred on the origin."""
    return (k - (count - 1) / 2) * SPACING_MM


class Slices:
    """Draws training batches. Every random choice comes from `rng`, whose state a checkpoint keeps.

    MR slices are drawn from `mr`, or where that is empty from another of the cases, at the ultrasound's
    position: if the position histograms differed, the discriminators would reward changed anatomy.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        frames: Frames | None,
        rng: np.random.Generator,
        *,
        batch: BatchConfig,
        changes: InputConfig,
        generator: GeneratorConfig,
        mr: Sequence[Case | MRVolume] = (),
        mr_weeks: Sequence[int] = (),
        scans: Sequence[Scan] = (),
        marked: Frames | None = None,
        shrink: int = 1,
    ) -> None:
        self.shrink = shrink
        self.cases, self.scans = list(cases), list(scans)
        self.frames, self.marked = frames, marked
        self.rng = rng
        self.batch = batch
        self.changes = changes
        self.generator = generator
        self.mr = [case for case in mr or cases if not mr_weeks or case.week in mr_weeks]
        if not self.mr:
            raise Refused("data", f"No case is of the weeks {tuple(mr_weeks)}.", "Change data.mr_weeks.")
        if batch.real and not frames:
            raise Refused("data", "There are no real frames.", "Set batch.real to 0 or add frames.")
        if batch.marked and (not marked or marked.marks is None):
            raise Refused("data", "There are no real frames with marks.",
                          "Set batch.marked to 0 or make data.marked_frames.")  # fmt: skip
        self._framed = [case for case in self.cases if len(case.frames)]
        if batch.framed and not self._framed:
            raise Refused("data", "The cases hold no simulated frames.",
                          "Set batch.framed to 0, or frames_a_head in the simulation's configuration.")  # fmt: skip
        for wanted, having in ((batch.simulated, self.cases), (batch.scanned, self.scans)):
            if wanted and not having:
                raise Refused("data", "There are no volumes to take slices from.",
                              "Set batch.simulated or batch.scanned to 0, or give their data.")  # fmt: skip
        self._case_chances = [_slice_chances(case.heads) for case in self.cases]
        self._scan_chances = [_slice_chances(scan.heads) for scan in self.scans]

    def draw(self) -> Batch:
        """One batch: `batch.simulated` slices, `batch.scanned` of real volumes, then `batch.framed` simulated,
        `batch.real` real and `batch.marked` marked frames.
        """
        samples = [self._of_case() for _ in range(self.batch.simulated)]
        samples += [self._of_scan() for _ in range(self.batch.scanned)]
        volumes = len(samples)
        samples += [self._of_frame(real=n >= self.batch.framed) for n in range(self.batch.framed + self.batch.real)]
        samples += [self._of_marked() for _ in range(self.batch.marked)]
        seen = np.stack([sample.table[sample.stack] for sample in samples])
        blank = np.zeros(seen.shape[2:], np.uint8)
        wanted = _stacked([blank if sample.truth is None else sample.truth for sample in samples])
        signs = np.stack([_planes_of(blank if sample.marks is None else sample.marks) for sample in samples])
        turns = np.where(np.arange(len(seen)) < volumes, 0.0, self.changes.turn)
        # in a sagittal slice the columns are front and back
        flips = np.array([0.0 if sample.plane == "sagittal" else self.changes.flip for sample in samples])
        moved = self._move(torch.from_numpy(np.concatenate([seen, wanted, signs], axis=1)), turns, flips)
        us, drawn, marks = moved[:, :-4], moved[:, -4:-3], moved[:, -3:] > 0
        seen_in = [sample.plane for sample in samples]
        places_mm = np.array([sample.place_mm for sample in samples])
        plain = _with_constants(us, seen_in, places_mm, self.generator)
        clean = us
        us = disturbed(us, self.rng, self.changes.disturbance)
        if self.changes.blur:
            us = self._blurred(us)
        if self.changes.noise:
            us = us + self._noise(us)
        unpaired = self._move(torch.from_numpy(_stacked([sample.mr for sample in samples])), turns, flips)
        x = _with_constants(us, seen_in, places_mm, self.generator)
        centre = self.generator.neighbours
        has_truth = torch.tensor([sample.truth is not None for sample in samples])
        target = clean if self.changes.disturbance else us  # what was disturbed is to be seen through
        images = x, target[:, centre : centre + 1], unpaired, drawn, plain, marks.float()
        x, us, mr, truth, plain, marked = (shrunk(image, self.shrink) for image in images)
        return Batch(x, us, mr, truth, has_truth, plain, marked > 0.5)

    def _of_case(self) -> _Sample:
        """A slice of a simulated head, with its truth."""
        chosen = int(self.rng.integers(len(self.cases)))
        case = self.cases[chosen]
        return self._of_volume(case, self._case_chances[chosen], case.t2)

    def _of_scan(self) -> _Sample:
        """A slice of a real volume, which has no truth."""
        chosen = int(self.rng.integers(len(self.scans)))
        return self._of_volume(self.scans[chosen], self._scan_chances[chosen], None)

    def _of_volume(self, volume: Case | Scan, chances: np.ndarray, truth: np.ndarray | None) -> _Sample:
        """A slice of a head in one of the generator's planes. chances: (3, K), of each slice of each plane."""
        plane, count = self._plane(), len(volume.us)
        k = int(self.rng.choice(count, p=chances[planes.PLANES.index(plane)]))
        us, other = (planes.to_plane(stack, plane) for stack in (volume.us, self._other(volume).t2))
        t2 = None if truth is None else planes.to_plane(truth, plane)
        if plane == "sagittal" and self.rng.random() < self.changes.flip:  # left and right lie along the stack
            us, other, t2, k = us[::-1], other[::-1], None if t2 is None else t2[::-1], count - 1 - k
        stack, table = us[self._neighbours_of(k, count)], self._table(volume.low, volume.high)
        place_mm = location_mm(k, count) + self.rng.normal(0, self.changes.location_jitter_mm)
        return _Sample(stack, table, None if t2 is None else t2[k], float(place_mm), other[k], plane)

    def _of_frame(self, *, real: bool) -> _Sample:
        """A real frame, or a simulated one with its truth; it stands in for its own neighbours."""
        frames, truth = self._frame(real=real)
        which = int(self.rng.integers(len(frames)))
        stack = np.repeat(frames.us[which][None], 2 * self.generator.neighbours + 1, axis=0)
        table = self._table(*frames.ranges[which])
        place_mm = float(self.rng.normal(0, self.changes.frame_location_jitter_mm))
        other = self._other(None).t2
        k = min(max(round(place_mm / SPACING_MM + (len(other) - 1) / 2), 0), len(other) - 1)
        return _Sample(stack, table, None if truth is None else truth[which], place_mm, other[k], "axial")

    def _of_marked(self) -> _Sample:
        """A real frame on which fluid is marked, its face in front as `turn` has it at inference."""
        frames = self.marked
        assert frames is not None and frames.marks is not None
        which = int(self.rng.integers(len(frames)))
        us, marks = cover(frames.us[which], frames.marks[which], self.rng)
        stack = np.repeat(us[None], 2 * self.generator.neighbours + 1, axis=0)
        place_mm = float(self.rng.normal(0, self.changes.frame_location_jitter_mm))
        other = self._other(None).t2
        k = min(max(round(place_mm / SPACING_MM + (len(other) - 1) / 2), 0), len(other) - 1)
        table = self._table(*frames.ranges[which])
        return _Sample(stack, table, None, place_mm, other[k], "axial", marks)

    def _frame(self, real: bool) -> tuple[Frames, np.ndarray | None]:
        """Frames to draw one from: the real ones, or those of a simulated head with their truth."""
        if real:
            assert self.frames is not None
            return self.frames, None
        case = self._framed[int(self.rng.integers(len(self._framed)))]
        return case.frames, case.frames_t2

    def _plane(self) -> str:
        """The plane of the next slice; nothing is drawn where the generator takes one only."""
        known = self.generator.planes
        if len(known) == 1:
            return known[0]
        others = [plane for plane in known if plane != "axial"]
        if "axial" in known and self.rng.random() < self.batch.axial:
            return "axial"
        return others[int(self.rng.integers(len(others)))]

    def _neighbours_of(self, k: int, count: int) -> np.ndarray:
        reach = np.arange(-self.generator.neighbours, self.generator.neighbours + 1)
        if self.rng.random() < self.changes.centre_only:
            reach = np.zeros_like(reach)
        return np.clip(k + reach, 0, count - 1)

    def _other(self, own: Case | Scan | None) -> Case | MRVolume:
        """A case to take MR from: not the ultrasound's own, unless there is no other."""
        others = [case for case in self.mr if case is not own] or self.mr
        return others[int(self.rng.integers(len(others)))]

    def _table(self, low: float, high: float) -> np.ndarray:
        """(256,) from 8-bit intensity to 0-1 by the robust range, after a random gain, offset and gamma.

        They are monotonic, so the changed image's percentiles are the changed percentiles.
        """
        changes = self.changes
        gain = 1 + self.rng.uniform(-changes.gain, changes.gain)
        offset = self.rng.uniform(-changes.offset, changes.offset)
        gamma = np.exp(self.rng.uniform(-changes.gamma, changes.gamma))

        def changed(value: np.ndarray) -> np.ndarray:
            return np.clip(gain * value / 255 + offset, 0, 1) ** gamma

        first, last = changed(np.array([low, high]))
        return _table(changed(np.arange(256.0)), first, last, self.generator.exponent)

    def _move(self, images: Tensor, turns: np.ndarray, flips: np.ndarray) -> Tensor:
        """(N, C, H, W) in 0-1, 0 = background, through a random in-plane similarity and warp each -> in [-1, 1].

        turns, flips: (N,) probabilities of half a turn and of a reflection of the columns.
        """
        changes, count = self.changes, len(images)
        angle = np.deg2rad(self.rng.uniform(-changes.rotation_deg, changes.rotation_deg, count))
        angle += np.pi * (self.rng.random(count) < turns)
        scale = 1 + self.rng.uniform(-changes.scale, changes.scale, count)
        mirror = np.where(self.rng.random(count) < flips, -1.0, 1.0)
        reach = changes.translation_mm / SPACING_MM * 2 / images.shape[-1]  # in grid_sample's half widths
        shift = self.rng.uniform(-reach, reach, (count, 2))
        cosine, sine = np.cos(angle) * scale, np.sin(angle) * scale
        rows = [[cosine * mirror, -sine, shift[:, 0]], [sine * mirror, cosine, shift[:, 1]]]
        theta = torch.from_numpy(np.array(rows, dtype=np.float32).transpose(2, 0, 1).copy())
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        if changes.warp_mm:
            reach = changes.warp_mm / SPACING_MM * 2 / images.shape[-1]
            nodes = (count, 2, images.shape[-2] // _WARP_PIXELS + 1, images.shape[-1] // _WARP_PIXELS + 1)
            coarse = torch.from_numpy(self.rng.standard_normal(nodes, dtype=np.float32) * np.float32(reach))
            fine = F.interpolate(coarse, size=images.shape[-2:], mode="bicubic", align_corners=True)
            grid = grid + fine.permute(0, 2, 3, 1)
        return F.grid_sample(images, grid, align_corners=False) * 2 - 1

    def _blurred(self, us: Tensor) -> Tensor:
        """Half of the samples through an in-plane Gaussian of random width."""
        result = us.clone()
        offsets = torch.arange(-3.0, 4.0)
        for n in np.flatnonzero(self.rng.random(len(us)) < 0.5):
            kernel = torch.exp(-0.5 * (offsets / max(float(self.rng.uniform(0, self.changes.blur)), 0.1)) ** 2)
            kernel /= kernel.sum()
            image = F.pad(us[n][:, None], (3, 3, 3, 3), mode="replicate")
            result[n] = F.conv2d(F.conv2d(image, kernel.view(1, 1, 7, 1)), kernel.view(1, 1, 1, 7))[:, 0]
        return result

    def _noise(self, us: Tensor) -> Tensor:
        """Noise of a random strength on each sample, inside the fan only."""
        strength = self.rng.uniform(0, self.changes.noise, (len(us), 1, 1, 1)).astype(np.float32)
        noise = self.rng.standard_normal(us.shape, dtype=np.float32) * strength
        return torch.where(us > -1, torch.from_numpy(noise), 0.0).clamp(-1 - us, 1 - us)


def _slice_chances(heads: np.ndarray) -> np.ndarray:
    """(3, K) head pixels -> (3, K) probabilities of the slices."""
    weights = np.where(heads > 0, 1.0, HEADLESS_WEIGHT)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def centred_input(case: Case, k: int, config: GeneratorConfig, plane: str = "axial") -> tuple[Tensor, Tensor]:
    """The generator's input (1, C, H, W) at the plane's slice k and its truth (1, 1, H, W), without augmentation."""
    truth = torch.from_numpy(planes.to_plane(case.t2, plane)[k].astype(np.float32))[None, None] / 127.5 - 1
    return slice_input(case, k, config, plane), truth


def slice_input(volume: Case | Scan, k: int, config: GeneratorConfig, plane: str = "axial") -> Tensor:
    """The generator's input (1, C, H, W) at the plane's slice k, without augmentation."""
    us = planes.to_plane(volume.us, plane)
    index = np.clip(k + np.arange(-config.neighbours, config.neighbours + 1), 0, len(us) - 1)
    seen = _table(np.arange(256.0), volume.low, volume.high, config.exponent)[us[index]]
    return _with_constants(torch.from_numpy(seen)[None] * 2 - 1, [plane], np.array([location_mm(k, len(us))]), config)


def frame_input(frames: Frames, n: int, config: GeneratorConfig) -> Tensor:
    """The generator's input (1, C, H, W) of real frame n, at the head-circumference plane z = 0."""
    low, high = frames.ranges[n]
    us = _table(np.arange(256.0), low, high, config.exponent)[frames.us[n]]
    us = np.repeat(us[None], 2 * config.neighbours + 1, axis=0)
    return _with_constants(torch.from_numpy(us)[None] * 2 - 1, ["axial"], np.zeros(1), config)


def shrunk(images: Tensor, factor: int) -> Tensor:
    """(N, C, H, W) -> (N, C, H / factor, W / factor), means of pixels; channels that are constant stay as they are."""
    return images if factor == 1 else F.avg_pool2d(images, factor)


def _with_constants(us: Tensor, seen_in: Sequence[str], places_mm: np.ndarray, config: GeneratorConfig) -> Tensor:
    """Slices (N, n, H, W) with the constant channels that name plane and location, as `assemble_input` puts them."""
    height, width = us.shape[2:]
    constants = [[planes.plane_code(plane, config.planes) for plane in seen_in]] if len(config.planes) > 1 else []
    if config.location:
        constants.append((places_mm / LOCATION_SCALE_MM).tolist())
    channels = [
        torch.tensor(row, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 1, height, width) for row in constants
    ]
    return torch.cat([us, *channels], dim=1) if channels else us


def _planes_of(marks: np.ndarray) -> np.ndarray:
    """Codes (H, W) -> (2, H, W) float32 in 0-1: cavum, and the surroundings of a plexus."""
    return np.stack([marks == CAVUM, marks == PLEXUS_RING, marks == ABSENT]).astype(np.float32)


def _stacked(images: Sequence[np.ndarray]) -> np.ndarray:
    """uint8 images (H, W) -> (N, 1, H, W) float32 in 0-1."""
    return np.stack(images).astype(np.float32)[:, None] / 255


def _table(values: np.ndarray, low: float, high: float, exponent: float) -> np.ndarray:
    """(256,) float32 in 0-1: values between low and high, stretched, to the exponent; entry 0, no fan, is 0."""
    table = np.clip((values - low) / max(high - low, 1e-3), 0, 1).astype(np.float32) ** np.float32(exponent)
    table[0] = 0
    return table
