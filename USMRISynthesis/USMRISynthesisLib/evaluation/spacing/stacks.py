"""Real thick stacks, without a truth: views before and after, and agreement with orthogonal stacks of the same fetus.

The fetus moves between stacks and between slices. One rigid registration for each pair of stacks, of the input and not
of any method's result, leaves motion between slices in: all NCC here are limited by it, alike for every method.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.evaluation.metrics.image import ncc
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.spacing import profile
from USMRISynthesisLib.spacing.grid import Plan, plan, stacked, unstacked
from USMRISynthesisLib.spacing.inference import super_resolve
from USMRISynthesisLib.spacing.intensity import Scale
from USMRISynthesisLib.spacing.model import LoadedModel
from USMRISynthesisLib.spacing.noise import noise_of

RUNS = {2: (4, 6), 4: (2, 6), 6: (2, 4)}  # run -> orthogonal runs; runs 1, 3, 5 are what the shipped weights saw
STACK_SHAPE = (22, 320, 320)
_SHOWN = 110  # pixels of a picture's side


def seconds_of_a_stack(loaded: LoadedModel) -> tuple[float, float]:
    """Seconds for a 320x320x22 stack at 3.3 -> 1.1 mm, without reading and writing: wall clock, and of all processors.

    The second is what remains comparable on a machine that is busy with other work.
    """
    thick = np.random.default_rng(0).random(STACK_SHAPE, dtype=np.float32)
    started, used = time.perf_counter(), time.process_time()
    super_resolve(loaded.module, thick, 3 * STACK_SHAPE[0], device=loaded.device)
    return time.perf_counter() - started, time.process_time() - used


def compare_stacks(data: Path, loaded: LoadedModel, pictures: Path | None = None) -> dict[str, dict[str, float]]:
    """Stack -> method -> mean NCC, inside both brain masks, with the orthogonal stacks.

    Each result is degraded to how the orthogonal stack would see it: sampled along a Gaussian of that stack's profile
    at its voxels, after rigid registration of the thick inputs. Raises Refused without the stacks.
    """
    folder = data / "fetal-mr-stacks"
    if not (folder / "stacks").is_dir():
        raise Refused("data", "There are no real stacks.", "Give the folder that holds fetal-mr-stacks/ with --data.")
    volumes = {run: Volume.read(folder / "stacks" / f"sub-01_run-{run}_T2w.nii.gz") for run in RUNS}
    masks = {run: Volume.read(folder / "masks" / f"sub-01_run-{run}_T2w_desc-brain_mask.nii.gz") for run in RUNS}
    result: dict[str, dict[str, float]] = {}
    for run, others in RUNS.items():
        volume, grid = volumes[run], plan(volumes[run])
        made = respaced(volume, grid, loaded)
        moved = {other: register(volumes[other], volume, masks[other], masks[run]) for other in others}
        result[f"run-{run}"] = {
            name: float(
                np.mean(
                    [
                        _agreement(
                            fine,
                            grid.ijk_to_ras(volume.ijk_to_ras),
                            masks[run],
                            volumes[other],
                            masks[other],
                            moved[other],
                        )
                        for other in others
                    ]
                )
            )
            for name, fine in made.items()
        }
        if pictures is not None:
            pictures.mkdir(parents=True, exist_ok=True)
            draw(pictures / f"run-{run}.png", volume, masks[run], grid, made)
    return result


def respaced(volume: Volume, grid: Plan, loaded: LoadedModel) -> dict[str, np.ndarray]:
    """Method -> (k, j, i) float32 on the fine grid, shares of the input's range."""
    thick = Scale.of(volume.array).shares(stacked(volume.array, grid.axis))
    ours = super_resolve(loaded.module, thick, grid.fine, device=loaded.device)
    fine = {
        "cubic B-spline": profile.apply(profile.interpolation(grid.thick, grid.fine, 3), thick),
        "best linear estimate": profile.apply(
            profile.estimation(grid.thick, grid.fine, noise_of(thick, grid.fine)), thick),
        "ours": ours, "ours, consistent": profile.project(ours, thick),
    }  # fmt: skip
    return {name: unstacked(slices, grid.axis) for name, slices in fine.items()}


def register(fixed: Volume, moving: Volume, fixed_mask: Volume, moving_mask: Volume) -> np.ndarray:
    """(4, 4): RAS of `fixed` to RAS of `moving`, rigid, Mattes mutual information inside the fixed brain mask."""
    a, b = (sitk.Cast(_image(v), sitk.sitkFloat32) for v in (fixed, moving))
    start = sitk.Euler3DTransform()
    centre = _centre(fixed_mask)
    start.SetCenter((centre * (-1, -1, 1)).tolist())
    start.SetTranslation(((_centre(moving_mask) - centre) * (-1, -1, 1)).tolist())
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricFixedMask(_image(fixed_mask, np.uint8))
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


def _agreement(
    fine: np.ndarray, fine_ijk_to_ras: np.ndarray, mask: Volume, other: Volume, other_mask: Volume, moved: np.ndarray
) -> float:
    """NCC of `fine`, degraded as the other stack is, with the other stack inside both masks."""
    inside = np.argwhere(other_mask.array > 0)
    ijk = np.c_[inside[:, ::-1], np.ones(len(inside))].T
    ras = moved @ other.ijk_to_ras @ ijk
    axis = 2 - plan(other).axis
    along = moved[:3, :3] @ other.ijk_to_ras[:3, axis]
    offsets = np.linspace(-1, 1, 13)  # in slices of the other stack
    weights = np.exp(-(offsets**2) / (2 * profile.SIGMA_OF_FWHM**2))
    seen = np.zeros(len(inside))
    for offset, weight in zip(offsets, weights / weights.sum(), strict=True):
        places = ras.copy()
        places[:3] += offset * along[:, None]
        at = (np.linalg.inv(fine_ijk_to_ras) @ places)[2::-1]
        seen += weight * ndimage.map_coordinates(fine, at, order=1, mode="nearest")
    own = (np.linalg.inv(mask.ijk_to_ras) @ ras)[2::-1]
    both = ndimage.map_coordinates(mask.array.astype(np.float32), own, order=0, mode="constant") > 0.5
    values = other.array[tuple(inside.T)].astype(np.float64)
    return ncc(seen, values, both)


def draw(path: Path, volume: Volume, mask: Volume, grid: Plan, made: Mapping[str, np.ndarray]) -> None:
    """A PNG: columns are nearest (as acquired), then the methods; rows are the two reformatted views."""
    from PIL import Image

    thick = Scale.of(volume.array).shares(stacked(volume.array, grid.axis))
    nearest = profile.apply(profile.interpolation(grid.thick, grid.fine, 0), thick)
    columns = [nearest, *(stacked(fine, grid.axis) for fine in made.values())]
    _, row, column = (int(n) for n in np.argwhere(stacked(mask.array, grid.axis) > 0).mean(0))
    half = _SHOWN // 2
    rows = []
    for cut in (
        lambda s: s[:, row, max(0, column - half) : column + half],
        lambda s: s[:, max(0, row - half) : row + half, column],
    ):
        rows.append(np.hstack([np.pad(np.clip(cut(slices), 0, 1), ((2, 2), (2, 2))) for slices in columns]))
    sheet = (np.vstack(rows) * 255).astype(np.uint8)[::-1]
    Image.fromarray(sheet).resize((sheet.shape[1] * 3, sheet.shape[0] * 3), Image.Resampling.NEAREST).save(path)


def _image(volume: Volume, kind: type | None = None) -> sitk.Image:
    array = volume.array if kind is None else (volume.array > 0).astype(kind)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.ijk_to_ras
    image.SetSpacing(volume.spacing)
    image.SetDirection((lps[:3, :3] / volume.spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def _centre(mask: Volume) -> np.ndarray:
    inside = np.argwhere(mask.array > 0).mean(0)[::-1]
    return np.asarray((mask.ijk_to_ras @ [*inside, 1.0])[:3])
