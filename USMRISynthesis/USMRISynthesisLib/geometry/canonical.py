"""Canonical space, and resampling into it and back.

Canonical space is RAS along the fetal anatomy, in mm, with its origin at the skull's centre on the midline,
on a grid of 160^3 voxels of 0.6 mm. ``ras_to_canonical`` is a 4x4 matrix from the world (RAS mm) to it; both
directions use the same matrix, so a place in the head comes back to where it was whatever the input's grid.

A 2D frame occupies the plane that ``ras_to_canonical`` gives it (z = ``HC_PLANE_Z_MM`` after alignment) and
goes through in the plane only.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

SIZE = 160
SPACING_MM = 0.6
HC_PLANE_Z_MM = 0.0
HEAD_LENGTH_MM = 88.0
# Homogeneous LPS mm (ITK, DICOM) to RAS mm (Slicer, this library), and back: it is its own inverse.
LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

_INTERPOLATORS = {0: sitk.sitkNearestNeighbor, 1: sitk.sitkLinear, 3: sitk.sitkBSpline}


def canonical_ijk_to_ras() -> np.ndarray:
    """The canonical grid's own 4x4 ``ijk_to_ras`` (mm): voxel (79.5, 79.5, 79.5) lies at the origin."""
    matrix = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
    matrix[:3, 3] = -SPACING_MM * (SIZE - 1) / 2
    return matrix


def canonical_axis_mm() -> np.ndarray:
    """Coordinates (160,) in mm of the canonical voxels along any one axis."""
    return (np.arange(SIZE) - (SIZE - 1) / 2) * SPACING_MM


def to_canonical(
    array: np.ndarray, ijk_to_ras: np.ndarray, ras_to_canonical: np.ndarray, *, order: int = 1, fill: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Sample a volume or a frame on the canonical grid.

    Args:
        array: (k, j, i); a frame has k = 1.
        ijk_to_ras: (4, 4), the array's grid in RAS mm.
        ras_to_canonical: (4, 4), RAS mm to canonical mm.
        order: 0 nearest (masks, labels), 1 linear, 3 cubic spline. Above 0, a much finer input is
            averaged first.
        fill: value outside the input.

    Returns:
        slices (K, 160, 160) float32 and their z in canonical mm (K,); K = 160, or 1 for a frame.

    Raises:
        ValueError: the matrices cannot be inverted, or a frame stands upright in canonical space.
    """
    to_grid = np.asarray(ras_to_canonical, dtype=np.float64) @ ijk_to_ras  # input voxel -> canonical mm
    grid = canonical_ijk_to_ras()
    if array.shape[0] != 1:
        canonical_to_input = _inverse(to_grid) @ grid
        return resample(array, canonical_to_input, (SIZE, SIZE, SIZE), order, fill), canonical_axis_mm()
    canonical_to_input = _inverse(_in_plane(to_grid)) @ _in_plane(grid)
    middle = to_grid @ [(array.shape[2] - 1) / 2, (array.shape[1] - 1) / 2, 0.0, 1.0]
    slices = resample(array[0], canonical_to_input, (SIZE, SIZE), order, fill)
    return slices[None], np.array([middle[2]])


def from_canonical(
    slices: np.ndarray,
    ras_to_canonical: np.ndarray,
    ijk_to_ras: np.ndarray,
    shape: tuple[int, ...],
    *,
    order: int = 1,
    fill: float = 0.0,
) -> np.ndarray:
    """Sample canonical slices on an input's grid: the inverse of :func:`to_canonical`.

    Args:
        slices: (160, 160, 160), or (1, 160, 160) for a frame.
        ras_to_canonical: (4, 4), RAS mm to canonical mm, as given to :func:`to_canonical`.
        ijk_to_ras: (4, 4), the target grid in RAS mm.
        shape: (k, j, i) of the target grid.
        order, fill: as in :func:`to_canonical`.

    Returns:
        (k, j, i) float32.

    Raises:
        ValueError: a single slice cannot fill a volume, or the matrices cannot be inverted.
    """
    to_grid = np.asarray(ras_to_canonical, dtype=np.float64) @ ijk_to_ras
    grid = canonical_ijk_to_ras()
    if slices.shape[0] == SIZE:
        return resample(slices, _inverse(grid) @ to_grid, shape, order, fill)
    if slices.shape[0] != 1 or shape[0] != 1:
        raise ValueError(f"{slices.shape[0]} canonical slices cannot fill a grid of {shape[0]} slices")
    return resample(slices[0], _inverse(_in_plane(grid)) @ _in_plane(to_grid), shape[1:], order, fill)[None]


def _in_plane(matrix: np.ndarray) -> np.ndarray:
    """(3, 3): the x and y rows and columns of a 4x4, dropping z."""
    return matrix[np.ix_([0, 1, 3], [0, 1, 3])]


def _inverse(matrix: np.ndarray) -> np.ndarray:
    try:
        return np.linalg.inv(matrix)
    except np.linalg.LinAlgError as error:
        raise ValueError("the transform between the input and canonical space cannot be inverted") from error


def resample(array: np.ndarray, out_to_in: np.ndarray, shape: tuple[int, ...], order: int, fill: float) -> np.ndarray:
    """Sample ``array`` at ``out_to_in`` (voxel to voxel, x first) of every voxel of ``shape``."""
    n = array.ndim
    # The image keeps its unit grid: SimpleITK's physical space is here the input's voxel index.
    # Cast by SimpleITK, not before: a float32 copy of the array beside that of the image costs 67 MB at 256^3.
    kept = array.view(np.uint8) if array.dtype == bool else array
    if n == 2 or kept.dtype not in (np.uint8, np.int16, np.uint16):
        kept = kept.astype(np.float32, copy=False)
    image = sitk.GetImageFromArray(np.ascontiguousarray(kept))
    if n == 3:
        image = sitk.Cast(image, sitk.sitkFloat32)
    if order > 0:
        # Input voxels for one output step, along each input axis: two or more are averaged.
        steps = np.linalg.norm(out_to_in[:n, :n], axis=1)
        bins = [int(min(max(step, 1), size)) for step, size in zip(steps, image.GetSize(), strict=True)]
        if max(bins) > 1:
            shrink = sitk.BinShrinkImageFilter()
            shrink.SetShrinkFactors(bins)
            _share_out(shrink, n)
            image = shrink.Execute(image)
    transform = sitk.AffineTransform(out_to_in[:n, :n].ravel().tolist(), out_to_in[:n, n].tolist())
    resampler = sitk.ResampleImageFilter()
    _share_out(resampler, n)
    resampler.SetSize([int(size) for size in shape[::-1]])
    resampler.SetTransform(transform)
    resampler.SetInterpolator(_INTERPOLATORS[order])
    resampler.SetDefaultPixelValue(float(fill))
    return sitk.GetArrayFromImage(resampler.Execute(image))


def _share_out(work: sitk.ProcessObject, dimensions: int) -> None:
    """A frame is done by the calling thread: on a busy machine, waiting for others takes longer than the work."""
    if dimensions == 2:
        work.SetNumberOfWorkUnits(1)
