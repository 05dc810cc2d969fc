"""Training samples: augmented slices of simulated cases and real frames, with unpaired MR slices beside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import Refused
from ..normalisation.canonical import SPACING_MM
from ..synthesis.generator import GeneratorConfig
from ..synthesis.slices import LOCATION_SCALE_MM
from .cases import Case, Frames
from .configuration import BatchConfig, InputConfig

HEADLESS_WEIGHT = 0.1  # a slice without head is drawn this often for one with: it must come out black


class Batch(NamedTuple):
    """x (N, C, H, W): the generator's input; us, truth, mr (N, 1, H, W), mr unpaired; has_truth (N,)."""

    x: Tensor
    us: Tensor
    mr: Tensor
    truth: Tensor
    has_truth: Tensor


def location_mm(k: int | np.ndarray, count: int) -> float | np.ndarray:
    """z of axial slice k in canonical mm; the grid is centred on the origin."""
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
        mr: Sequence[Case] = (),
        mr_weeks: Sequence[int] = (),
    ) -> None:
        self.cases = list(cases)
        self.frames = frames
        self.rng = rng
        self.batch = batch
        self.changes = changes
        self.generator = generator
        self.mr = [case for case in mr or cases if not mr_weeks or case.week in mr_weeks]
        if not self.mr:
            raise Refused("data", f"No case is of the weeks {tuple(mr_weeks)}.", "Change data.mr_weeks.")
        if batch.real and not frames:
            raise Refused("data", "There are no real frames.", "Set batch.real to 0 or add frames.")
        self._framed = [case for case in self.cases if len(case.frames)]
        if batch.framed and not self._framed:
            raise Refused("data", "The cases hold no simulated frames.",
                          "Set batch.framed to 0, or frames_a_head in the simulation's configuration.")  # fmt: skip
        weights = [np.where(case.head > 0, 1.0, HEADLESS_WEIGHT) for case in self.cases]
        self._slice_chances = [weight / weight.sum() for weight in weights]

    def draw(self) -> Batch:
        """One batch: `batch.simulated` slices, then `batch.framed` simulated and `batch.real` real frames."""
        count, height, width = self.cases[0].us.shape
        stacks, tables, truths, places, has_truth, mr = [], [], [], [], [], []
        for _ in range(self.batch.simulated):
            chosen = int(self.rng.integers(len(self.cases)))
            case = self.cases[chosen]
            k = int(self.rng.choice(count, p=self._slice_chances[chosen]))
            stacks.append(case.us[self._neighbours_of(k, count)])
            tables.append(self._table(case.low, case.high))
            truths.append(case.t2[k])
            places.append(location_mm(k, count) + self.rng.normal(0, self.changes.location_jitter_mm))
            has_truth.append(True)
            mr.append(self._other(case).t2[k])
        for n in range(self.batch.framed + self.batch.real):
            frames, truth = self._frame(real=n >= self.batch.framed)
            which = int(self.rng.integers(len(frames)))
            stacks.append(np.repeat(frames.us[which][None], 2 * self.generator.neighbours + 1, axis=0))
            tables.append(self._table(*frames.ranges[which]))
            truths.append(np.zeros((height, width), np.uint8) if truth is None else truth[which])
            place = float(self.rng.normal(0, self.changes.frame_location_jitter_mm))
            places.append(place)
            has_truth.append(truth is not None)
            k = round(place / SPACING_MM + (count - 1) / 2)
            mr.append(self._other(None).t2[min(max(k, 0), count - 1)])
        seen = np.stack([table[stack] for table, stack in zip(tables, stacks, strict=True)])
        wanted = np.stack(truths).astype(np.float32)[:, None] / 255
        turns = np.where(np.arange(len(seen)) < self.batch.simulated, 0.0, self.changes.turn)
        moved = self._move(torch.from_numpy(np.concatenate([seen, wanted], axis=1)), turns)
        us = moved[:, :-1]
        if self.changes.blur:
            us = self._blurred(us)
        if self.changes.noise:
            us = us + self._noise(us)
        unpaired = self._move(torch.from_numpy(np.stack(mr).astype(np.float32)[:, None] / 255), turns)
        x = us
        if self.generator.location:
            z = torch.tensor(np.array(places), dtype=torch.float32) / LOCATION_SCALE_MM
            x = torch.cat([us, z.view(-1, 1, 1, 1).expand(-1, 1, height, width)], dim=1)
        centre = self.generator.neighbours
        return Batch(x, us[:, centre : centre + 1], unpaired, moved[:, -1:], torch.tensor(has_truth))

    def _frame(self, real: bool) -> tuple[Frames, np.ndarray | None]:
        """Frames to draw one from: the real ones, or those of a simulated head with their truth."""
        if real:
            assert self.frames is not None
            return self.frames, None
        case = self._framed[int(self.rng.integers(len(self._framed)))]
        return case.frames, case.frames_t2

    def _neighbours_of(self, k: int, count: int) -> np.ndarray:
        reach = np.arange(-self.generator.neighbours, self.generator.neighbours + 1)
        if self.rng.random() < self.changes.centre_only:
            reach = np.zeros_like(reach)
        return np.clip(k + reach, 0, count - 1)

    def _other(self, own: Case | None) -> Case:
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

    def _move(self, images: Tensor, turns: np.ndarray) -> Tensor:
        """(N, C, H, W) in 0-1, 0 = background, through a random in-plane similarity each -> in [-1, 1].

        turns: (N,) probabilities of half a turn.
        """
        changes, count = self.changes, len(images)
        angle = np.deg2rad(self.rng.uniform(-changes.rotation_deg, changes.rotation_deg, count))
        angle += np.pi * (self.rng.random(count) < turns)
        scale = 1 + self.rng.uniform(-changes.scale, changes.scale, count)
        mirror = np.where(self.rng.random(count) < changes.flip, -1.0, 1.0)
        reach = changes.translation_mm / SPACING_MM * 2 / images.shape[-1]  # in grid_sample's half widths
        shift = self.rng.uniform(-reach, reach, (count, 2))
        cosine, sine = np.cos(angle) * scale, np.sin(angle) * scale
        rows = [[cosine * mirror, -sine, shift[:, 0]], [sine * mirror, cosine, shift[:, 1]]]
        theta = torch.from_numpy(np.array(rows, dtype=np.float32).transpose(2, 0, 1).copy())
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
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


def centred_input(case: Case, k: int, config: GeneratorConfig) -> tuple[Tensor, Tensor]:
    """The generator's input (1, C, H, W) at slice k and its truth (1, 1, H, W), without any augmentation."""
    count = len(case.us)
    index = np.clip(k + np.arange(-config.neighbours, config.neighbours + 1), 0, count - 1)
    us = _table(np.arange(256.0), case.low, case.high, config.exponent)[case.us[index]]
    truth = torch.from_numpy(case.t2[k].astype(np.float32))[None, None] / 127.5 - 1
    return _with_location(us, float(location_mm(k, count)), config), truth


def frame_input(frames: Frames, n: int, config: GeneratorConfig) -> Tensor:
    """The generator's input (1, C, H, W) of real frame n, at the head-circumference plane z = 0."""
    low, high = frames.ranges[n]
    us = _table(np.arange(256.0), low, high, config.exponent)[frames.us[n]]
    return _with_location(np.repeat(us[None], 2 * config.neighbours + 1, axis=0), 0.0, config)


def _with_location(us: np.ndarray, z_mm: float, config: GeneratorConfig) -> Tensor:
    x = torch.from_numpy(us)[None] * 2 - 1
    if not config.location:
        return x
    return torch.cat([x, torch.full_like(x[:, :1], z_mm / LOCATION_SCALE_MM)], dim=1)


def _table(values: np.ndarray, low: float, high: float, exponent: float) -> np.ndarray:
    """(256,) float32 in 0-1: values between low and high, stretched, to the exponent; entry 0, no fan, is 0."""
    table = np.clip((values - low) / max(high - low, 1e-3), 0, 1).astype(np.float32) ** np.float32(exponent)
    table[0] = 0
    return table
