"""Where the slices of one stack lie in another stack of the same fetus: each slice registered on its own.

The reference is what cubic interpolation makes of the other stack, whatever method is measured afterwards: if the
alignment favours a method, then cubic interpolation.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.spacing.grid import plan

_LEAST_PIXELS = 300  # of brain, for a slice to be registered; the others follow the stack
_ANCHORS = 3  # every third slice corrects the move of the whole stack first
_FARTHEST_MM, _FARTHEST_DEG = 10.0, 15.0  # of a slice from its stack; more is taken for a failure
_MARGIN_MM = {"slice": 5.0, "reference": 20.0}
_FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS to LPS and back


def moves_of_slices(
    stack: Volume, mask: Volume, reference: Volume, reference_mask: Volume, rigid: np.ndarray
) -> np.ndarray:
    """(slices, 4, 4): RAS of each slice of `stack` to RAS of `reference`.

    Rigid in 3D, by normalised correlation inside the slice's brain mask. `rigid` is where the whole stack lies, (4, 4);
    a mean over every third slice corrects it before all slices are registered. Slices that show little brain, and those
    that ended too far away, follow the stack.
    """
    axis = 2 - plan(stack).axis
    slices, inside = _cropped(stack, mask, _MARGIN_MM["slice"])
    moving, _ = _cropped(reference, reference_mask, _MARGIN_MM["reference"])
    count = slices.GetSize()[axis]
    anchors = [_register(slices, inside, moving, axis, number, rigid) for number in range(0, count, _ANCHORS)]
    found = [move for move in anchors if move is not None]
    start = _mean(found, _centre(mask)) if len(found) > 1 else rigid
    moves = [_register(slices, inside, moving, axis, number, start) for number in range(count)]
    return np.stack([start if move is None else move for move in moves])


def _register(
    slices: sitk.Image, inside: sitk.Image, moving: sitk.Image, axis: int, number: int, start: np.ndarray
) -> np.ndarray | None:
    """(4, 4) of one slice, or None: too little brain, or no move that can be believed."""
    size, index = list(slices.GetSize()), [0, 0, 0]
    size[axis], index[axis] = 1, number
    fixed, mask = (sitk.RegionOfInterest(image, size, index) for image in (slices, inside))
    pixels = np.argwhere(sitk.GetArrayViewFromImage(mask) > 0)
    if len(pixels) < _LEAST_PIXELS:
        return None
    centre = np.array(fixed.TransformContinuousIndexToPhysicalPoint(pixels.mean(0)[::-1].tolist()))
    move = _euler(start, centre)
    before = np.array(move.GetParameters())
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsCorrelation()
    method.SetMetricFixedMask(mask)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 3e-3, 80)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(move, inPlace=True)
    method.SetNumberOfThreads(1)
    try:
        method.Execute(fixed, moving)
    except RuntimeError:  # nothing of the slice lies inside the reference
        return None
    changed = np.array(move.GetParameters()) - before
    far = np.linalg.norm(changed[3:]) > _FARTHEST_MM or np.rad2deg(np.abs(changed[:3]).max()) > _FARTHEST_DEG
    return None if far else _matrix(move)


def _mean(moves: list[np.ndarray], centre: np.ndarray) -> np.ndarray:
    """(4, 4): the mean rotation, and the median of where the centre (RAS mm) goes."""
    rotation = Rotation.from_matrix(np.stack(moves)[:, :3, :3]).mean().as_matrix()
    place = np.median([(move @ np.r_[centre, 1.0])[:3] for move in moves], axis=0)
    result = np.eye(4)
    result[:3, :3], result[:3, 3] = rotation, place - rotation @ centre
    return result


def _cropped(volume: Volume, mask: Volume, margin_mm: float) -> tuple[sitk.Image, sitk.Image]:
    """Volume (float32) and mask around the brain with a margin in the plane; all slices.

    The grids of volume and mask may differ; the mask is resampled.
    """
    whole = sitk.Cast(image_of(volume), sitk.sitkFloat32)
    brain = sitk.Resample(image_of(mask, np.uint8), whole, sitk.Transform(), sitk.sitkNearestNeighbor)
    filled = np.argwhere(sitk.GetArrayViewFromImage(brain) > 0)[:, ::-1]
    margin = np.ceil(margin_mm / np.array(volume.spacing)).astype(int)
    low = np.maximum(filled.min(0) - margin, 0)
    high = np.minimum(filled.max(0) + 1 + margin, whole.GetSize())
    along = int(np.argmax(mask.spacing))
    low[along], high[along] = 0, whole.GetSize()[along]
    size, index = (high - low).tolist(), low.tolist()
    return sitk.RegionOfInterest(whole, size, index), sitk.RegionOfInterest(brain, size, index)


def _euler(move: np.ndarray, centre: np.ndarray) -> sitk.Euler3DTransform:
    """A move between RAS systems as a transform about a centre in LPS."""
    lps = _FLIP @ move @ _FLIP
    result = sitk.Euler3DTransform()
    result.SetCenter(centre.tolist())
    result.SetMatrix(lps[:3, :3].ravel().tolist(), 1e-6)
    result.SetTranslation((lps[:3, :3] @ centre + lps[:3, 3] - centre).tolist())
    return result


def _matrix(move: sitk.Euler3DTransform) -> np.ndarray:
    """(4, 4) between RAS systems."""
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(move.GetMatrix(), (3, 3))
    lps[:3, 3] = move.TransformPoint((0.0, 0.0, 0.0))
    return np.asarray(_FLIP @ lps @ _FLIP)


def image_of(volume: Volume, kind: type | None = None) -> sitk.Image:
    """A volume as SimpleITK has it; `kind`: of a mask, whose values become 0 and 1."""
    array = volume.array if kind is None else (volume.array > 0).astype(kind)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    lps = _FLIP @ volume.ijk_to_ras
    image.SetSpacing(volume.spacing)
    image.SetDirection((lps[:3, :3] / volume.spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def _centre(mask: Volume) -> np.ndarray:
    inside = np.argwhere(mask.array > 0).mean(0)[::-1]
    return np.asarray((mask.ijk_to_ras @ [*inside, 1.0])[:3])
