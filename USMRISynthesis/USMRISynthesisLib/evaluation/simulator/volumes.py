"""Measures of a simulated volume against its own truth, of speckle, and of time.  All figures are simulated."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from USMRISynthesisLib.evaluation.simulator.appearance import near_over_far
from USMRISynthesisLib.geometry.canonical import SIZE, SPACING_MM, canonical_axis_mm
from USMRISynthesisLib.simulation.anatomy import atlas
from USMRISynthesisLib.simulation.anatomy.head import Anatomy, build
from USMRISynthesisLib.simulation.anatomy.labels import CHOROID
from USMRISynthesisLib.simulation.scanner.volume import simulate_canonical, speckle_phantom

_MIDDLE_MM = 4.0  # neither near nor far
_REACH_MM = 9.0  # tissue that far from a ventricle is compared with it
_WALL_VOXELS = 2  # 1.2 mm, the point spread's width: nearer to a wall or to choroid plexus their echoes fill the fluid
_CHOROID_VOXELS = 4
_FEW = 150  # voxels
_TISSUE = (1, 6)  # white matter, deep grey


def measure(head: Anatomy, seed: int, view: str | None = None) -> dict[str, Any]:
    """near_cnr, far_cnr: tissue minus ventricle over the root of both variances; near_far_tissue: mean grey of white
    matter near the probe over far from it; hemispheres: grey and contrast, near over far, in the head-circumference
    plane, where the probe stands beside it.  nan where the pyramid shows too little.

    Ventricles are their open fluid, 1.2 mm from the walls and 2.4 mm from choroid plexus; `*_cnr_whole` takes all that
    is labelled as ventricle, whatever the point spread brings into it."""
    us, fan, sweep = simulate_canonical(head, seed, view=view)
    return {"view": sweep.view, **contrasts(us, fan, head, sweep.beam.axes[2])}


def contrasts(us: np.ndarray, fan: np.ndarray, head: Anatomy, depth_axis: np.ndarray) -> dict[str, Any]:
    """The measures of a volume on the canonical grid; depth_axis: unit vector (3,) away from the probe."""
    axis = canonical_axis_mm() - head.centre[:, None]
    depth = (
        axis[2][:, None, None] * depth_axis[2] + axis[1][None, :, None] * depth_axis[1]
        + axis[0][None, None, :] * depth_axis[0]
    )  # fmt: skip
    whole = (head.labels == atlas.VENTRICLES) & fan
    choroid = ndimage.binary_dilation(head.labels == CHOROID, iterations=_CHOROID_VOXELS)
    ventricle = ndimage.binary_erosion(head.labels == atlas.VENTRICLES, iterations=_WALL_VOXELS) & fan & ~choroid
    around = ndimage.binary_dilation(ventricle, iterations=round(_REACH_MM / SPACING_MM))
    tissue = ndimage.binary_erosion(np.isin(head.labels, _TISSUE)) & fan & ~choroid
    white = (head.labels == atlas.WHITE_MATTER) & fan
    values: dict[str, Any] = {}
    means = {}
    for name, side in (("near", depth < -_MIDDLE_MM), ("far", depth > _MIDDLE_MM)):
        beside = us[tissue & around & side]
        values[f"{name}_cnr"] = cnr(beside, us[ventricle & side])
        values[f"{name}_cnr_whole"] = cnr(beside, us[whole & side])
        grey = us[white & side]
        means[name] = float(grey.mean()) if grey.size > _FEW else np.nan
    values["near_far_tissue"] = means["near"] / (means["far"] + 1e-3)
    in_plane = depth_axis[:2] / (np.linalg.norm(depth_axis[:2]) + 1e-9)
    values["hemispheres"] = [np.nan, np.nan]
    if abs(depth_axis[2]) < 0.5:
        skull = head.skull_distance[SIZE // 2] < 0
        across, along = ((np.ptp(np.flatnonzero(skull.any(axis=n))) + 1) / 2 * SPACING_MM for n in (0, 1))
        values["hemispheres"] = list(
            near_over_far(us[SIZE // 2], fan[SIZE // 2], (float(across), float(along)), -in_plane)
        )
    return values


def cnr(tissue: np.ndarray, fluid: np.ndarray) -> float:
    """Contrast-to-noise ratio of 8-bit greys: difference of the means over the root of the variances' sum."""
    if min(tissue.size, fluid.size) < _FEW:
        return float("nan")
    return float((tissue.mean(dtype=float) - fluid.mean(dtype=float)) / np.sqrt(tissue.var() + fluid.var() + 1e-6))


def envelope_snr(envelope: torch.Tensor, border: int = 8) -> float:
    """Mean over standard deviation of a linear envelope (depth, lateral, sweep), depth by depth: 1.91 is Rayleigh.

    Depth by depth, because the point spread widens; the border lacks neighbours.
    """
    inner = envelope[border:-border, border:-border, border:-border].flatten(1).double()
    return float((inner.mean(dim=1) / inner.std(dim=1)).median())


def speckle_snr(seeds: int = 4) -> list[float]:
    """`envelope_snr` of uniform scatterers before log compression and display, one for each of some settings."""
    return [envelope_snr(speckle_phantom(seed)) for seed in range(seeds)]


def seconds(atlas_: atlas.Atlas, *, threads: int = 2, repeats: int = 2) -> dict[str, float]:
    """Wall seconds of a 160^3 volume at 0.6 mm: acquisition with scan conversion, and the anatomy before it."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        anatomies, sweeps = [], []
        for seed in range(repeats):
            started = time.perf_counter()
            head = build(atlas_, seed)
            anatomies.append(time.perf_counter() - started)
            started = time.perf_counter()
            simulate_canonical(head, seed)
            sweeps.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(before)
    return {"acquisition": min(sweeps), "anatomy": min(anatomies)}
