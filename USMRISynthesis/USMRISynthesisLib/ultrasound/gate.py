"""The gate: which inputs are accepted, and for those that are not, why and what to do.

Colour, several time points, pictures without a pixel size and damaged files are refused where files are read
(``volume.py``). This module checks the voxels and the grid.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.header import check_geometry
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.ultrasound.fan import find_fan
from USMRISynthesisLib.ultrasound.fill import without_fill

__all__ = ["admit", "find_fan", "require_speckle", "speckle_evidence"]

# A fetal head from 10 weeks to term, with what lies around it, on any probe.
MIN_EXTENT_MM, MAX_EXTENT_MM = 30.0, 400.0
# Software writes spacing 1x1x1 if it has none: accepted only for sizes that probes produce.
MAX_UNIT_EXTENT_MM = 220.0
MIN_SLICES = 8
MIN_FRAME_PIXELS = 64
# Fewer distinct values than this are labels, not an image.
MIN_GREY_VALUES = 17
# Below this an image has the texture of MR or CT. A linear discriminant fitted to 999 real frames on one side
# and 15 averaged and 7 single-subject fetal MR volumes on the other; see speckle_evidence.
MIN_SPECKLE_EVIDENCE = -1.2
# Less than this above the darkest value, as a share of the image, is no image. Counted so many voxels at a time.
_MIN_SHARE = 0.005
_COUNTED = 1 << 24
# Grey values beyond this, or so close together, are none: float32 squares them.
_MAX_VALUE, _MIN_RANGE = 1e15, 1e-15
# Speckle of slices that lie far apart has nothing in common in a volume; of frames of one place it is the same.
_MAX_SLICE_CORRELATION = 0.6


def admit(volume: Volume, *, texture: bool = True) -> np.ndarray:
    """Accept an ultrasound volume or frame of a fetal head, or raise the reason.

    Args:
        volume: any grid; a frame has one slice.
        texture: whether an image without speckle is refused, as MR and CT are.

    Returns:
        The fan, (k, j, i) bool.

    Raises:
        Refused: with kind "empty", "type", "nan", "constant", "slices", "geometry", "spacing", "extent", "labels",
            "fan", "time" or "modality", a sentence and its remedy.
    """
    array = without_fill(volume.array)
    if array is not volume.array:
        volume = volume.with_values(array)
    _check_voxels(array)
    _check_grid(volume)
    _check_content(array)
    fan = find_fan(volume.array, volume.spacing)
    if fan.mean() < _MIN_SHARE:
        raise _black()
    values = volume.array[fan]
    sample = values[:: max(1, values.size // 200_000)]
    few = sample[:: 1 + sample.size // 4000]  # enough for an ultrasound; only labels are counted in full
    if np.unique(few).size < MIN_GREY_VALUES and np.unique(sample).size < MIN_GREY_VALUES:
        raise Refused(
            "labels",
            "The image holds only a few distinct values, like a segmentation.",
            "Choose the ultrasound image itself.",
        )
    if texture:
        require_speckle(volume, fan)
    if _shows_one_place(volume, fan):
        raise Refused(
            "time",
            "The slices show one and the same place: they are frames in time (a cine), not a volume.",
            "Save one frame as an image of its own, or load the cine as a sequence in 3D Slicer.",
        )
    return fan


def require_speckle(volume: Volume, fan: np.ndarray) -> None:
    """Raise Refused (modality) for an image with the texture of MR or CT; a strongly filtered ultrasound has it too."""
    if speckle_evidence(volume, fan) < MIN_SPECKLE_EVIDENCE:
        raise Refused(
            "modality",
            "The image has no speckle, so it is probably no ultrasound (MR or CT?).",
            "Choose a B-mode ultrasound image, not smoothed or filtered; or go on with --any-content.",
        )


def _black() -> Refused:
    return Refused(
        "fan",
        "No ultrasound fan was found: almost the whole image is black.",
        "Check that the right image was chosen and that its gain is not zero.",
    )


def _check_content(array: np.ndarray) -> None:
    """Refused where almost all voxels are as dark as the darkest; in pieces, before anything takes more memory."""
    flat, lowest = array.reshape(-1), array.min()
    above = sum(int((flat[at : at + _COUNTED] > lowest).sum()) for at in range(0, flat.size, _COUNTED))
    if above < _MIN_SHARE * flat.size:
        raise _black()


def _check_voxels(array: np.ndarray) -> None:
    if array.size == 0:
        raise Refused("empty", "The image has no voxels.", "Export it again.")
    if array.dtype.kind not in "uif":
        raise Refused("type", "The voxels are not greyscale numbers.", "Export the image as greyscale.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Refused(
            "nan",
            "The image contains voxels that are not numbers (NaN or infinity).",
            "Replace them by 0, or export the image again.",
        )
    lowest, highest = float(array.min()), float(array.max())
    if array.dtype.kind == "f" and max(-lowest, highest) > _MAX_VALUE:
        raise Refused(
            "nan",
            f"The image contains values that are no grey values (up to {max(-lowest, highest):.3g}).",
            "Replace what stands for no data by 0, or export the image again.",
        )
    if lowest == highest or highest - lowest < _MIN_RANGE:
        raise Refused("constant", "All voxels have the same value.", "Check that the right image was chosen.")


def _check_grid(volume: Volume) -> None:
    _, j, i = volume.shape
    check_geometry(volume.ijk_to_ras, "the image", flat=volume.is_frame)
    extent = max(volume.extent_mm[:2] if volume.is_frame else volume.extent_mm)
    unit = np.allclose(volume.spacing[:2] if volume.is_frame else volume.spacing, 1.0, atol=1e-6)
    if volume.is_frame and min(j, i) < MIN_FRAME_PIXELS:
        raise Refused(
            "slices",
            f"The frame has only {i} x {j} pixels.",
            f"Export it with at least {MIN_FRAME_PIXELS} pixels on each side.",
        )
    if not volume.is_frame and min(volume.shape) < MIN_SLICES:
        raise Refused(
            "slices",
            f"The volume has only {min(volume.shape)} slices along one direction.",
            f"Give a volume of at least {MIN_SLICES} slices each way, or one single frame.",
        )
    if unit and extent > MAX_UNIT_EXTENT_MM:
        raise Refused(
            "spacing",
            f"The image seems to carry no voxel size: at 1 mm it would be {extent:.0f} mm wide.",
            "Give the pixel size with --pixel-size MM, or export the frame with it."
            if volume.is_frame
            else "Enter the true spacing in 3D Slicer's Volumes module, or export it with the volume.",
        )
    if not MIN_EXTENT_MM <= extent <= MAX_EXTENT_MM:
        raise Refused(
            "extent",
            f"The image is {extent:.3g} mm wide, which does not fit a fetal head.",
            f"Check the voxel size: {MIN_EXTENT_MM:.0f} to {MAX_EXTENT_MM:.0f} mm are accepted.",
        )


def _shows_one_place(volume: Volume, fan: np.ndarray) -> bool:
    """Whether the volume's slices (along k) are frames of one place: far apart, they have the same speckle."""
    count = volume.shape[0]
    if volume.is_frame:
        return False
    found = []
    for first, second in ((0.15, 0.65), (0.25, 0.75), (0.35, 0.85)):
        a, b = int(first * count), int(second * count)
        both = fan[a] & fan[b]
        if both.sum() < 500:
            continue
        one, other = (_speckle_of(volume.array[k], fan[k])[both] for k in (a, b))
        spread = float(one.std() * other.std())
        found.append(float(((one - one.mean()) * (other - other.mean())).mean()) / spread if spread > 0 else 0.0)
    return bool(found) and float(np.median(found)) > _MAX_SLICE_CORRELATION


def _speckle_of(image: np.ndarray, fan: np.ndarray) -> np.ndarray:
    """(j, i) float32: the fine detail alone, without the course of the grey with depth."""
    inside = fan.astype(np.float32)
    values = image.astype(np.float32) * inside
    values /= max(float(np.abs(values).max()), 1e-30)

    def blurred(sigma: float) -> np.ndarray:
        return np.asarray(ndimage.gaussian_filter(values, sigma) / (ndimage.gaussian_filter(inside, sigma) + 1e-6))

    return blurred(0.7) - blurred(4.0)


def speckle_evidence(volume: Volume, fan: np.ndarray) -> float:
    """Evidence of speckle in the texture inside the fan: positive for ultrasound, negative for MR or CT.

    Speckle is grainy at 1 mm wherever there is signal, and the skull leaves a long bright tail. MR is smooth at
    1 mm inside each tissue and varies at larger scales. So three figures are combined: the 10th percentile of
    the relative local variation at 1 mm (in the calmest tissue), its 25th percentile at 2 mm, and the skewness
    of the grey values. Independent of gain and of the value range.

    Args:
        volume: any grid.
        fan: (k, j, i) bool.

    Returns:
        Mean evidence over nine slices across the fan (three each way), or of the frame itself. Plus infinity
        if no slice has enough tissue.
    """
    si, sj, sk = volume.spacing
    if volume.is_frame:
        slices = [(volume.array[0], fan[0], (sj, si))]
    else:
        slices = []
        for axis, size in enumerate([(sj, si), (sk, si), (sk, sj)]):
            seen = np.flatnonzero(fan.any(axis=tuple(a for a in range(3) if a != axis)))
            for share in (0.3, 0.5, 0.7):
                index = int(seen[0] + share * (seen[-1] - seen[0]))
                slices.append((volume.array.take(index, axis), fan.take(index, axis), size))
    evidence = [e for e in (_evidence(*s) for s in slices) if e is not None]
    return float(np.mean(evidence)) if evidence else float("inf")


def _evidence(image: np.ndarray, fan: np.ndarray, spacing: tuple[float, float]) -> float | None:
    """The discriminant for one 2D image (rows, columns) with its pixel size in mm."""
    if fan.sum() < 500:
        return None
    image = image.astype(np.float32)
    lowest, highest = float(image.min()), float(np.percentile(image[fan], 99.5))
    if highest <= lowest:
        return None
    image = np.clip((image - lowest) / (highest - lowest), 0.0, 1.0)
    values = image[fan]
    fine = _local_variation(image, fan, 1.0, spacing)
    coarse = _local_variation(image, fan, 2.0, spacing)
    if min(fine.size, coarse.size) <= 50:
        return None
    grain, texture = np.percentile(fine, 10), np.percentile(coarse, 25)
    away = values - values.mean()
    skewness = np.mean(away * away * away) / values.std() ** 3  # a power takes ten times as long
    grain, texture = float(np.log(max(grain, 0.005))), float(np.log(max(texture, 0.005)))
    return float(11.57 * grain - 8.31 * texture + 1.304 * skewness + 14.25)


def _local_variation(image: np.ndarray, fan: np.ndarray, sigma_mm: float, spacing: tuple[float, float]) -> np.ndarray:
    """Standard deviation over mean in a Gaussian window, at the pixels inside the fan that carry signal."""

    def blurred(values: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(values, [sigma_mm / s for s in spacing])

    inside = fan.astype(np.float32)
    weight = blurred(inside) + 1e-6
    mean = blurred(image * inside) / weight
    variance = np.maximum(blurred(image * image * inside) / weight - mean**2, 0.0)
    tissue = fan & (weight > 0.9) & (mean > 0.12)
    return np.sqrt(variance[tissue]) / mean[tissue]
