"""Stage 1: fine slices out of thick ones by a VAE, with latents interpolated between neighbours (Xuan 2021).

The output resembles MR of fine slices but may be deformed against the input: it is no paired truth. Therefore the
super-resolution network is trained on pairs of this output and its own degradation, and no user is shown it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from USMRISynthesisLib.spacing.network import padded
from USMRISynthesisLib.spacing.profile import interpolation

BATCH = 8


def synthesise(vae: Any, thick: np.ndarray, m: int, device: torch.device | str = "cpu") -> np.ndarray:
    """Fine slices (m, h, w) float32 of thick ones (n, h, w), both around 0-1; `vae` is a SliceVAE, scripted or not.

    Between slices k and k+1 (1-t) mu_k + t mu_(k+1) is decoded, and every slice is decoded, those in the places of the
    originals too: decoded and original slices next to each other would show a comb.
    """
    n, h, w = thick.shape
    stack = padded(torch.from_numpy(np.ascontiguousarray(thick, dtype=np.float32))[:, None])
    with torch.inference_mode():
        means = torch.cat([vae.encode(part.to(device))[0].cpu() for part in stack.split(BATCH)])
        between = torch.from_numpy(interpolation(n, m, 1).astype(np.float32))
        latents = torch.einsum("mn,nchw->mchw", between, means)
        fine = torch.cat([vae.decode(part.to(device)).float().cpu()[:, 0, :h, :w] for part in latents.split(BATCH)])
    return np.asarray(fine.numpy())
