"""Thick-slice MR in, thin slices out, on a grid of the same extent.

    result = respace(Volume.read("stack.nrrd"), spacing=1.1, consistency=True)
    result.mr.write("stack-thin.nrrd")
    result.consistency          # rms of the result, degraded again, less the input, as a share of the input's range

Slices that moved in their plane are put back first (`motion`), unless `consistency` is asked for.

The slices that went in are not copied: a thick slice is a mean over its thickness, a thin one is not. They are
reproduced in the sense that the result, seen through the slice profile, is the input: to `PROJECTED_TOLERANCE` with
`consistency`, and without it to `TOLERANCE`, unless the slices disagree with each other - through motion or noise - so
far that the result follows what they share; then the provenance has a warning.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from USMRISynthesisLib.callbacks import Cancel, Consent, Progress
from USMRISynthesisLib.errors import Cancelled, Failed, memory_shortage, torch_missing
from USMRISynthesisLib.io.synthetic import PROVENANCE_KEY, SYNTHETIC, SYNTHETIC_KEY
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.spacing import profile
from USMRISynthesisLib.spacing.admission import admit
from USMRISynthesisLib.spacing.grid import Plan, plan, stacked, unstacked
from USMRISynthesisLib.spacing.intensity import Scale
from USMRISynthesisLib.spacing.motion import prepared

TOLERANCE = 0.03
PROJECTED_TOLERANCE = 0.005
_DISAGREE = (
    "The slices disagree with each other, through motion or noise: the result follows what they share and "
    "differs from them by {:.1%} of their range."
)
_CLIPPINGS = 4  # rounds of clipping to what the input's type can hold and projecting again


@dataclass(eq=False)
class Respaced:
    """Thin slices.

    Attributes:
        mr: in the input's units and type; in-plane grid, extent and orientation of the input.
        consistency: rms difference between the degraded result and the input, as a share of the input's robust range.
        provenance: what went in, what was done and with which model; no names, no paths.
    """

    mr: Volume
    consistency: float
    provenance: dict[str, Any] = field(default_factory=dict)


def respace(
    volume: Volume,
    *,
    spacing: float | None = None,
    axis: str | None = None,
    model: str = "spacing",
    device: str = "auto",
    consistency: bool = False,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
    consent: Consent | None = None,
) -> Respaced:
    """Reduce the slice spacing of an MR volume by 1.5 to 6, whole or not (after Xuan et al. 2021).

    Args:
        volume: thick slices, stacked along any axis of any affine grid; an MR-like output may be one.
        spacing: mm between slices afterwards, adjusted so that whole slices fill the same extent; by default the
            pixel's side.
        axis: "i", "j" or "k", the axis of the stack; by default the one with the largest voxel side.
        model: name of an installed slice-spacing model, or the path of a model folder.
        device: "auto", "cpu", "cuda" or "mps".
        consistency: project the result so that degrading it gives back the input; slices that moved stay where
            they are.
        progress: called with a share of the whole, 0-1, and the stage.
        cancel: called after every batch of views; True ends the run.
        consent: called with (sha256, name) before a model from outside the bundled folders is run.

    Raises: Refused (not MR, 2D, isotropic, wrong axis or factor), Failed (model, device, memory), Cancelled.
    """
    seconds: dict[str, float] = {}

    def stage(name: str, value: float, since: float) -> float:
        now = time.perf_counter()
        if since:
            seconds[name] = round(now - since, 4)
        elif progress is not None:
            progress(value, name)
        if cancel is not None and cancel():
            raise Cancelled
        return now

    start = stage("Checking the image", 0.0, 0)
    grid = plan(volume, spacing, axis)
    admit(volume)
    scale = Scale.of(volume.array)
    start = stage("Checking the image", 0.0, start)
    try:
        from USMRISynthesisLib.spacing.inference import super_resolve
        from USMRISynthesisLib.spacing.model import load_model
    except (ImportError, OSError) as error:  # OSError: an installation that broke half-way
        raise memory_shortage(error) or torch_missing() from error
    loaded = load_model(model, device, consent=consent)
    start = stage("Loading the model", 0.03, start)
    thick = np.ascontiguousarray(scale.shares(stacked(volume.array, grid.axis)))
    pixel_mm = min(side for number, side in enumerate(volume.spacing) if number != 2 - grid.axis)
    ready = prepared(thick, grid.fine, pixel_mm, keep=consistency, cancel=cancel)
    start = stage("Aligning the slices", 0.05, start)
    report = None if progress is None else (lambda share: progress(0.05 + 0.87 * share, "Filling in slices"))
    try:
        fine = super_resolve(
            loaded.module,
            ready.slices,
            grid.fine,
            noise=ready.noise,
            device=loaded.device,
            progress=report,
            cancel=cancel,
        )
    except (RuntimeError, MemoryError) as error:
        raise Failed(
            "memory",
            "There is not enough memory for this volume.",
            "Close other programs, choose a coarser spacing, or the device cpu.",
        ) from error
    start = stage("Filling in slices", 0.92, start)
    values, residual = _in_units(fine, thick, scale, volume.array.dtype, float(volume.array.min()), consistency)
    stage("Writing the input's units", 0.97, start)
    provenance = _provenance(volume, grid, seconds) | {
        "model": {
            "name": loaded.manifest.name,
            "version": loaded.manifest.version,
            "sha256": loaded.manifest.sha256,
            "weights": loaded.weights,
        },
        "device": {"name": str(loaded.device), "reason": loaded.reason},
        "precision": {"name": "float32", "reason": ""},
        "parameters": {"spacing_mm": spacing, "axis": axis, "consistency": consistency, "device": device},
        "consistency": round(residual, 6),
        "noise": round(ready.measured, 6),
        "moved_mm": round(ready.moved_mm, 3),
        "warnings": [_DISAGREE.format(residual)] if residual > TOLERANCE and not consistency else [],
    }
    if progress is not None:
        progress(1.0, "Done")
    note = {"Comment": SYNTHETIC, SYNTHETIC_KEY: SYNTHETIC, PROVENANCE_KEY: json.dumps(provenance, sort_keys=True)}
    thin = Volume(unstacked(values, grid.axis), grid.ijk_to_ras(volume.ijk_to_ras), note)
    return Respaced(thin, residual, provenance)


def _in_units(
    fine: np.ndarray, thick: np.ndarray, scale: Scale, dtype: np.dtype, least: float, consistency: bool
) -> tuple[np.ndarray, float]:
    """Fine slices in the input's units and type, and the consistency of just these values.

    What was never negative stays so, and whole numbers stay within their type: clipped and projected in turn.
    """
    whole = dtype.kind in "iu"
    low = 0.0 if least >= 0 else -np.inf
    high = np.inf
    if whole:
        low, high = max(low, float(np.iinfo(dtype).min)), float(np.iinfo(dtype).max)
    bounds = ((low - scale.low) / scale.spread, (high - scale.low) / scale.spread)
    for _ in range(_CLIPPINGS if consistency else 0):
        fine = np.clip(profile.project(fine, thick), *bounds)
    values = np.clip(scale.values(fine), low, high)
    # float64 keeps its type but not more than float32's digits: the networks compute in these.
    values = np.rint(values).astype(dtype) if whole else values.astype(dtype if dtype.itemsize >= 4 else np.float32)
    return values, profile.residual(scale.shares(values), thick)


def _provenance(volume: Volume, grid: Plan, seconds: dict[str, float]) -> dict[str, Any]:
    """The provenance of the result. No names and no paths: files are often named after patients."""
    from USMRISynthesisLib.io.provenance import described, software

    return {
        "notice": SYNTHETIC,
        "operation": "respace",
        "software": software(),
        "input": {
            **described(volume),
            "synthetic": SYNTHETIC_KEY in volume.metadata,
        },
        "slices": {
            "axis": grid.name,
            "before": grid.thick,
            "after": grid.fine,
            "spacing_mm": [round(mm, 6) for mm in grid.spacing_mm],
        },
        "seconds": seconds,
    }
