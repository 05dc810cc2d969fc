"""The super-resolution network over a stack: both through-plane views, averaged.

thick (n, h, w) -> noise -> linear estimate (m, h, w) -> network on every (m, h) and every (m, w) view -> their mean
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from USMRISynthesisLib.callbacks import Cancel, Share
from USMRISynthesisLib.errors import Cancelled
from USMRISynthesisLib.spacing.noise import LOUDEST, noise_of
from USMRISynthesisLib.spacing.profile import CLEAN, apply, estimation

# in a batch of views: batches that stay in the cache are fastest
PIXELS = {"cpu": 300_000, "cuda": 4_000_000, "mps": 1_000_000}


def conditions(n: int, m: int, noise: float = CLEAN) -> Tensor:
    """Conditions of the fine rows, (4, m): log2 of the factor, each row's position in its thick slice, and how far the
    slices disagree (`noise_of`; its logarithm, 0 clean to 1 loudest).

    The place is an angle, its cosine and sine: 0 at a slice's centre, half a turn between two of them. The noise
    separates
    slices that moved from slices that agree: their linear estimates are similar, what these lack is not.
    """
    turn = 2 * np.pi * ((np.arange(m) + 0.5) * (n / m) - 0.5)
    loud = np.log(noise / CLEAN) / np.log(LOUDEST / CLEAN)
    rows = np.stack([np.full(m, np.log2(m / n)), np.cos(turn), np.sin(turn), np.full(m, loud)])
    return torch.from_numpy(rows.astype(np.float32))


def super_resolve(
    network: nn.Module,
    thick: np.ndarray,
    m: int,
    *,
    noise: float | None = None,
    device: torch.device | str = "cpu",
    progress: Share | None = None,
    cancel: Cancel | None = None,
) -> np.ndarray:
    """Thick slices (n, h, w) around 0-1 -> m fine ones over the same extent, (m, h, w) float32.

    `noise`: by default what `noise_of` gives. `cancel` and `progress` (share 0-1) are called after every batch of
    views. Raises Cancelled.
    """
    device = torch.device(device)
    n, h, w = thick.shape
    noise = noise_of(thick, m) if noise is None else noise
    start = apply(estimation(n, m, noise), thick)
    condition = conditions(n, m, noise).to(device)
    total = np.zeros_like(start)
    done = 0
    with torch.inference_mode():
        for axis in (2, 1):  # views of one column each, then of one row each
            views = np.moveaxis(start, axis, 0)
            sums = np.moveaxis(total, axis, 0)
            batch = max(1, PIXELS.get(device.type, 300_000) // (m * views.shape[2]))
            for first in range(0, len(views), batch):
                if cancel is not None and cancel():
                    raise Cancelled
                part = np.ascontiguousarray(views[first : first + batch])
                x = torch.from_numpy(part)[:, None].to(device)
                sums[first : first + batch] += network(x, condition)[:, 0].float().cpu().numpy()
                done += len(part)
                if progress is not None:
                    progress(done / (h + w))
    total *= np.float32(0.5)
    return total
