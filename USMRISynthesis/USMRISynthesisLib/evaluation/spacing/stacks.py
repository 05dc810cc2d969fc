"""Real thick stacks, without a truth: views before and after, and agreement with orthogonal stacks of the same fetus.

The fetus moves between stacks and between slices. Every slice of the orthogonal stack is registered on its own with
what cubic interpolation makes of the other one (`slices`), and the same moves hold for all methods. The slices of the
stack that is made thinner stay where they were acquired: what moved among them is each method's own affair.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.evaluation.metrics.image import ncc
from USMRISynthesisLib.evaluation.spacing.slices import image_of, moves_of_slices
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.spacing import profile
from USMRISynthesisLib.spacing.grid import Plan, plan, stacked, unstacked
from USMRISynthesisLib.spacing.inference import super_resolve
from USMRISynthesisLib.spacing.intensity import Scale
from USMRISynthesisLib.spacing.model import LoadedModel
from USMRISynthesisLib.spacing.motion import prepared

# The bundled weights saw slices of runs 1, 3 and 5 of this fetus, and constants were chosen on these.
ORIENTATION_OF_RUN = {2: "axial", 4: "coronal", 6: "sagittal"}
CUBIC, CUBIC_ALIGNED = "cubic B-spline", "cubic B-spline, slices aligned"
STACK_SHAPE = (22, 320, 320)
_SHOWN = 110  # pixels of a picture's side
_MARGIN = 32  # pixels around the brain that the networks get
_BOOTSTRAPS = 4000


def seconds_of_a_stack(loaded: LoadedModel) -> tuple[float, float]:
    """Seconds for a 320x320x22 stack at 3.3 -> 1.1 mm, without reading and writing: wall clock, and of all processors.

    The second is what remains comparable on a machine that is busy with other work.
    """
    thick = np.random.default_rng(0).random(STACK_SHAPE, dtype=np.float32)
    started, used = time.perf_counter(), time.process_time()
    super_resolve(loaded.module, thick, 3 * STACK_SHAPE[0], device=loaded.device)
    return time.perf_counter() - started, time.process_time() - used


@dataclass(frozen=True)
class Agreement:
    """NCC of a thinner run with an orthogonal one: `aligned` slice by slice, or moved as a whole (`rigid`)."""

    run: int
    other: int
    method: str
    aligned: float
    rigid: float


def compare_stacks(
    data: Path, loaded: LoadedModel, pictures: Path | None = None, progress: Callable[[float, str], None] | None = None
) -> dict[str, Any]:
    """Agreement inside both brain masks of each run with all orthogonal ones.

    Each result is degraded to how the orthogonal stack would see it: sampled along a Gaussian of that stack's profile
    at its voxels. The result: "real_stacks", method -> "ncc" and "ahead_of_cubic", [mean, low, high] over stacks, and
    "ncc_one_rigid_move"; "real", every pair. Raises Refused without the stacks.
    """
    folder = data / "fetal-mr-stacks"
    if not (folder / "stacks").is_dir():
        raise Refused("data", "There are no real stacks.", "Give the folder that holds fetal-mr-stacks/ with --data.")
    volumes = {run: Volume.read(folder / "stacks" / f"sub-01_run-{run}_T2w.nii.gz") for run in ORIENTATION_OF_RUN}
    masks = {
        run: Volume.read(folder / "masks" / f"sub-01_run-{run}_T2w_desc-brain_mask.nii.gz")
        for run in ORIENTATION_OF_RUN
    }
    rows: list[Agreement] = []
    for number, run in enumerate(ORIENTATION_OF_RUN):
        if progress is not None:
            progress(number / len(ORIENTATION_OF_RUN), f"Real stack, run {run}")
        volume, grid = volumes[run], plan(volumes[run])
        made = respaced(volume, masks[run], grid, loaded)
        thin_to_ras = grid.ijk_to_ras(volume.ijk_to_ras)
        reference = Volume(made[CUBIC], thin_to_ras)
        for other in (one for one, name in ORIENTATION_OF_RUN.items() if name != ORIENTATION_OF_RUN[run]):
            rigid = register(volumes[other], volume, masks[other], masks[run])
            moves = moves_of_slices(volumes[other], masks[other], reference, masks[run], rigid)
            same = np.broadcast_to(rigid, moves.shape)
            for name, fine in made.items():
                thin = Volume(fine, thin_to_ras)
                figures = (_agreement(thin, masks[run], volumes[other], masks[other], m) for m in (moves, same))
                rows.append(Agreement(run, other, name, *figures))
        if pictures is not None:
            pictures.mkdir(parents=True, exist_ok=True)
            draw(pictures / f"run-{run}.png", volume, masks[run], grid, made)
    return {
        "real_stacks": summary(rows),
        "real": {
            f"run-{row.run} with run-{row.other}": {
                one.method: one.aligned for one in rows if (one.run, one.other) == (row.run, row.other)
            }
            for row in rows
        },
    }


def summary(rows: Sequence[Agreement]) -> dict[str, dict[str, Any]]:
    """Method -> its figures. Intervals are drawn over the stacks that were made thinner, not over pairs."""
    runs = sorted({row.run for row in rows})

    def of_runs(method: str, key: str) -> np.ndarray:
        return np.array(
            [np.mean([getattr(row, key) for row in rows if row.method == method and row.run == run]) for run in runs]
        )

    cubic = of_runs(CUBIC, "aligned")
    return {
        method: {
            "ncc": _interval(of_runs(method, "aligned")),
            "ahead_of_cubic": _interval(of_runs(method, "aligned") - cubic),
            "ncc_one_rigid_move": float(of_runs(method, "rigid").mean()),
        }
        for method in dict.fromkeys(row.method for row in rows)
    }


def _interval(values: np.ndarray) -> list[float]:
    """[mean, low, high]: 95 %, bootstrap."""
    draws = np.random.default_rng(0).integers(0, len(values), (_BOOTSTRAPS, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
    return [float(values.mean()), float(low), float(high)]


def respaced(volume: Volume, mask: Volume, grid: Plan, loaded: LoadedModel) -> dict[str, np.ndarray]:
    """Method -> (k, j, i) float32 on the fine grid, shares of the input's range; 0 far from the brain.

    What `respace` does, but that the networks get the brain and its surroundings alone.
    """
    thick = Scale.of(volume.array).shares(stacked(volume.array, grid.axis))
    pixel_mm = min(side for number, side in enumerate(volume.spacing) if number != 2 - grid.axis)
    free, kept = (prepared(thick, grid.fine, pixel_mm, keep=keep) for keep in (False, True))
    brain = np.argwhere(stacked(mask.array, grid.axis) > 0)[:, 1:]
    low, high = np.maximum(brain.min(0) - _MARGIN, 0), brain.max(0) + 1 + _MARGIN
    box = (slice(None), slice(low[0], high[0]), slice(low[1], high[1]))
    cubic = profile.interpolation(grid.thick, grid.fine, 3)
    linear = profile.estimation(grid.thick, grid.fine, kept.measured)
    left = super_resolve(loaded.module, kept.slices[box], grid.fine, noise=kept.noise, device=loaded.device)
    fine = {
        CUBIC: profile.apply(cubic, thick[box]),
        CUBIC_ALIGNED: profile.apply(cubic, free.slices[box]),
        "best linear estimate": profile.apply(linear, thick[box]),
        "ours, slices not aligned": left,
        "ours": super_resolve(loaded.module, free.slices[box], grid.fine, noise=free.noise, device=loaded.device),
        "ours, consistent": profile.project(left, thick[box]),
    }
    result = {}
    for name, slices in fine.items():
        whole = np.zeros((grid.fine, *thick.shape[1:]), np.float32)
        whole[box] = slices
        result[name] = unstacked(whole, grid.axis)
    return result


def register(fixed: Volume, moving: Volume, fixed_mask: Volume, moving_mask: Volume) -> np.ndarray:
    """(4, 4): RAS of `fixed` to RAS of `moving`, rigid, Mattes mutual information inside the fixed brain mask."""
    a, b = (sitk.Cast(image_of(v), sitk.sitkFloat32) for v in (fixed, moving))
    start = sitk.Euler3DTransform()
    centre = _centre(fixed_mask)
    start.SetCenter((centre * (-1, -1, 1)).tolist())
    start.SetTranslation(((_centre(moving_mask) - centre) * (-1, -1, 1)).tolist())
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricFixedMask(image_of(fixed_mask, np.uint8))
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(0.5, 1)  # seeded: without, the figures differ from run to run
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 150)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([2, 1])
    method.SetSmoothingSigmasPerLevel([2.0, 1.0])
    method.SetInitialTransform(start, inPlace=True)
    method.SetNumberOfThreads(1)
    method.Execute(a, b)
    moved = np.eye(4)
    moved[:3, :3] = np.reshape(start.GetMatrix(), (3, 3))
    origin = np.array(start.TransformPoint((0.0, 0.0, 0.0)))
    moved[:3, 3] = origin
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    return np.asarray(flip @ moved @ flip)


def _agreement(thin: Volume, mask: Volume, other: Volume, other_mask: Volume, moves: np.ndarray) -> float:
    """NCC of `thin`, degraded as the other stack is, with the other stack inside both masks.

    moves: (slices, 4, 4), RAS of each slice of the other stack to RAS of `thin`.
    """
    inside = np.argwhere(other_mask.array > 0)
    grid = plan(other)
    of_voxel = moves[inside[:, grid.axis]]
    ijk = np.c_[inside[:, ::-1], np.ones(len(inside))].T
    ras = np.einsum("nab,bn->an", of_voxel, other.ijk_to_ras @ ijk)
    along = np.einsum("nab,b->an", of_voxel[:, :3, :3], other.ijk_to_ras[:3, 2 - grid.axis])
    to_own = np.linalg.inv(mask.ijk_to_ras)
    own = (to_own @ ras)[2::-1]
    both = ndimage.map_coordinates(mask.array.astype(np.float32), own, order=0, mode="constant") > 0.5
    to_thin = np.linalg.inv(thin.ijk_to_ras)
    places, steps = (to_thin @ ras)[2::-1], (to_thin[:3, :3] @ along)[::-1]
    offsets = np.linspace(-1, 1, 13)  # in slices of the other stack
    weights = np.exp(-(offsets**2) / (2 * profile.SIGMA_OF_FWHM**2))
    seen = np.zeros(len(inside))
    for offset, weight in zip(offsets, weights / weights.sum(), strict=True):
        seen += weight * ndimage.map_coordinates(thin.array, places + offset * steps, order=1, mode="nearest")
    values = other.array[tuple(inside.T)].astype(np.float64)
    return ncc(seen, values, both)


def draw(path: Path, volume: Volume, mask: Volume, grid: Plan, made: Mapping[str, np.ndarray]) -> None:
    """A PNG: columns are nearest (as acquired), then the methods; rows are a thin slice half-way between two thick ones
    and the two reformatted views."""
    from PIL import Image

    thick = Scale.of(volume.array).shares(stacked(volume.array, grid.axis))
    nearest = profile.apply(profile.interpolation(grid.thick, grid.fine, 0), thick)
    columns = [nearest, *(stacked(fine, grid.axis) for fine in made.values())]
    middle, row, column = (int(n) for n in np.argwhere(stacked(mask.array, grid.axis) > 0).mean(0))
    between = round((middle + 1) * grid.factor - 0.5)
    half = _SHOWN // 2
    rows_shown = slice(max(0, row - half), row + half)
    columns_shown = slice(max(0, column - half), column + half)
    sheet = np.vstack(
        [
            np.hstack([np.pad(np.clip(cut(slices), 0, 1), ((2, 2), (2, 2))) for slices in columns])
            for cut in (
                lambda s: s[::-1, row, columns_shown],
                lambda s: s[::-1, rows_shown, column],
                lambda s: s[between, rows_shown, columns_shown],
            )
        ]
    )
    image = Image.fromarray((sheet * 255).astype(np.uint8))
    image.resize((sheet.shape[1] * 3, sheet.shape[0] * 3), Image.Resampling.NEAREST).save(path)


def _centre(mask: Volume) -> np.ndarray:
    inside = np.argwhere(mask.array > 0).mean(0)[::-1]
    return np.asarray((mask.ijk_to_ras @ [*inside, 1.0])[:3])
