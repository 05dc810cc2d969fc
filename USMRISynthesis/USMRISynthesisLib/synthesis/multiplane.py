"""Synthesis of a canonical stack in one plane, or in all three, which together fail less than each of them.

Agreement of the three planes does not prove a voxel right; where they disagree, at least one of them is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from USMRISynthesisLib.callbacks import Cancel, Log, Progress
from USMRISynthesisLib.geometry.planes import from_plane, plane_code, resolve_planes, to_plane
from USMRISynthesisLib.synthesis.engine import LoadedGenerator, run_slices
from USMRISynthesisLib.synthesis.fusion import fused


def run_planes(
    generator: LoadedGenerator, us: np.ndarray, z_mm: np.ndarray, *, planes: str = "axial",
    inside: np.ndarray | None = None, batch: int | None = None, progress: Progress | None = None,
    cancel: Cancel | None = None, log: Log | None = None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Plane -> MR (K, H, W) float32 in [-1, 1], all of them oriented as `us`, -1 in slices that were not requested.

    us (K, H, W) in [-1, 1] on the canonical grid, z_mm (K,); inside (K, H, W) bool: where the result is needed, by
    default in all slices that hold anything. A 2D frame, K = 1, lies in one plane, whatever is chosen.
    Raises what `run_slices` raises, and Refused if the model was not trained on the plane.
    """
    form = generator.manifest.input
    chosen = resolve_planes("axial" if len(us) == 1 else planes, form.planes, generator.manifest.name)
    made = {}
    for n, plane in enumerate(chosen):
        # float32 copies, because the engine reads slices that lie side by side
        stack = np.ascontiguousarray(to_plane(us, plane), np.float32)
        wanted = None if inside is None else wanted_slices(to_plane(inside, plane))
        out = run_slices(
            generator.module, stack, z_mm, neighbours=form.neighbours, location=form.location,
            plane=plane_code(plane, form.planes), device=generator.device, dtype=generator.dtype,
            batch=batch, progress=_part(progress, n, len(chosen)), cancel=cancel, wanted=wanted,
            on_cpu=generator.on_cpu, log=log,
        )  # fmt: skip
        made[plane] = from_plane(out, plane)
    return made


def combined(
    made: Mapping[str, np.ndarray],
    us: np.ndarray,
    fusion: Callable[[Tensor], Tensor] | None = None,
    *,
    device: torch.device | str = "cpu",
    cancel: Cancel | None = None,
) -> np.ndarray:
    """One plane as it is; three in one border, as `fusion.fused` says.

    Not the mean: where one plane fails with a whole head, the mean follows it a third of the way, and steps between one
    plane's slices come through as stripes (eight heads of weeks 24 and 31: stripe peak 2307; the median alone 130, with
    the smoothing 84, which true MR has, too).

    made: plane -> MR (K, H, W) in [-1, 1]. us: (K, H, W) in [-1, 1]. fusion: the generator's. Raises Cancelled.
    """
    if len(made) == 1:
        return next(iter(made.values()))
    return fused(made, us, fusion, device=device, cancel=cancel)


def wanted_slices(inside: np.ndarray) -> np.ndarray:
    """(K,) bool: slices that hold some of it, and one more on each side for the interpolation back."""
    some = np.asarray(inside.any(axis=(1, 2)))
    wider = some.copy()
    wider[1:] |= some[:-1]
    wider[:-1] |= some[1:]
    return wider


def _part(progress: Progress | None, n: int, count: int) -> Progress | None:
    if progress is None:
        return None
    return lambda value, stage: progress((n + value) / count, stage)
