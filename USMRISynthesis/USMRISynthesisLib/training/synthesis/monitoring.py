"""What a run of the synthesis shows of itself: measures on held-out cases, and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from USMRISynthesisLib.datasets.cases import Case
from USMRISynthesisLib.datasets.scans import MRVolume, Scan
from USMRISynthesisLib.synthesis.generator import GeneratorConfig
from USMRISynthesisLib.training.synthesis.data import centred_input, frame_input, shrunk, slice_input
from USMRISynthesisLib.training.synthesis.sources import Sources

PICTURE_COLUMNS = 8
TRAINING_CASES_IN_MEAN = 60
MR_SLICES = 6  # of each volume that is held back


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Fixed slices of the validation cases, and real frames; never augmented.

    x (n, C, H, W), truth (n, 1, H, W); mean (n, 1, H, W): the training cases' mean MR at each slice's
    position; frames (m, C, H, W) or None; centre: the channel that is the slice itself. mr (l, 1, H, W): real MR that
    is not trained on, to measure the discriminators on.
    """

    x: Tensor
    truth: Tensor
    mean: Tensor
    frames: Tensor | None
    centre: int
    mr: Tensor


def hold_out(sources: Sources, count: int, config: GeneratorConfig, shrink: int = 1) -> HeldOut:
    """Choose about `count` slices, spread over the validation cases and, within each, over the head. Slices of real
    volumes without truth stand beside the real frames.
    """
    blank = torch.zeros(0, 1, 1, 1)
    x, truth, mean = blank, blank, blank
    if sources.validation:
        x, truth, mean = _with_truth(sources.validation, sources.training, count, config)
    shown = [frame_input(sources.shown, n, config) for n in _spread(len(sources.shown or ()))] if sources.shown else []
    shown += _without_truth(sources.held_scans or sources.scans, config)
    frames = shrunk(torch.cat(shown), shrink) if shown else None
    x, truth, mean = (shrunk(part, shrink) if len(part) else part for part in (x, truth, mean))
    mr = truth
    if sources.held_mr:
        slices = [volume.t2[k] for volume in sources.held_mr for k in _within_head(_area(volume), MR_SLICES)]
        mr = shrunk(torch.from_numpy(np.stack(slices).astype(np.float32))[:, None] / 127.5 - 1, shrink)
    return HeldOut(x, truth, mean, frames, config.neighbours, mr)


def _with_truth(
    validation: Sequence[Case], training: Sequence[Case], count: int, config: GeneratorConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """x, truth and mean of a `HeldOut`."""
    slices_of_a_case = max(1, round(count / len(validation)))
    cases = [validation[n] for n in np.unique(np.linspace(0, len(validation) - 1, count).round().astype(int))]
    xs, truths, means = [], [], []
    for case in cases:
        for k in _within_head(case.heads[0], slices_of_a_case):
            x, truth = centred_input(case, k, config)
            mean = np.mean([c.t2[k].astype(np.float32) for c in training[:TRAINING_CASES_IN_MEAN]], axis=0)
            xs.append(x)
            truths.append(truth)
            means.append(torch.from_numpy(mean)[None, None] / 127.5 - 1)
    return torch.cat(xs), torch.cat(truths), torch.cat(means)


def _without_truth(scans: Sequence[Scan], config: GeneratorConfig) -> list[Tensor]:
    """A slice of each of some real volumes, from further down to further up."""
    chosen = _spread(len(scans))
    places = [_within_head(scans[n].heads[0], len(chosen))[place] for place, n in enumerate(chosen)]
    return [slice_input(scans[n], k, config) for n, k in zip(chosen, places, strict=True)]


def _spread(count: int) -> list[int]:
    """PICTURE_COLUMNS of so many, or all."""
    return [int(n) for n in np.unique(np.linspace(0, count - 1, PICTURE_COLUMNS).round())] if count else []


def _area(volume: MRVolume) -> np.ndarray:
    """(K,) pixels of the head in each axial slice."""
    return np.count_nonzero(volume.t2, axis=(1, 2))


def _within_head(head: np.ndarray, count: int) -> list[int]:
    """So many slices, spread over those where the head is at least a quarter as large as at its largest."""
    inside = np.flatnonzero(head > head.max() / 4)
    return [int(k) for k in inside[np.linspace(0, len(inside) - 1, count + 2).round().astype(int)[1:-1]]]


def synthesised(generator: nn.Module, x: Tensor, device: torch.device, batch: int = 4) -> Tensor:
    """The generator's output in inference mode, float32 on the CPU."""
    if not len(x):
        return torch.zeros(0, 1, *x.shape[2:])
    with torch.inference_mode():
        return torch.cat([generator(part.to(device)).float().cpu() for part in x.split(batch)])


def measure(predicted: Tensor, held: HeldOut) -> dict[str, float]:
    """Mean over the held-out slices: L1 in [-1, 1] units; inside the head NCC and residual NCC.

    Residual NCC subtracts the mean MR at the position first: a memorised average scores 0. Empty where nothing has a
    truth.
    """
    from USMRISynthesisLib.evaluation.metrics.image import ncc, residual_ncc

    if not len(held.x):
        return {}
    rows = []
    images = (stack[:, 0].numpy() for stack in (predicted, held.truth, held.mean))
    for made, truth, mean in zip(*images, strict=True):
        head = truth > -1
        l1 = np.abs(made - truth).mean()
        rows.append((l1, ncc(made, truth, head), residual_ncc(made, truth, mean, head)))
    means = np.nanmean(np.array(rows, dtype=np.float64), axis=0)
    return dict(zip(("l1", "ncc", "residual_ncc"), means.tolist(), strict=True))


def draw_pictures(path: Path, predicted: Tensor, shown: Tensor, held: HeldOut) -> None:
    """A PNG with rows ultrasound, MR-like, truth; then real frames and volumes, and what became of them (shown)."""
    from PIL import Image

    rows = []
    if len(held.x):
        columns = _spread(len(held.x))
        rows = [held.x[columns, held.centre], predicted[columns, 0], held.truth[columns, 0]]
    if held.frames is not None:
        rows += [held.frames[:, held.centre], shown[:, 0]]
    if not rows:
        return
    height, width = rows[0].shape[1:]
    sheet = np.zeros((len(rows) * height, max(len(row) for row in rows) * width), np.uint8)
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            # Row j of the array runs to anterior, so it is drawn upwards.
            values = ((image.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).flip(0).numpy()
            sheet[r * height : (r + 1) * height, c * width : (c + 1) * width] = values
    Image.fromarray(sheet).save(path)
