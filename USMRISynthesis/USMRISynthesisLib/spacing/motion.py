"""Motion between the slices of one stack: single slices moved in their plane are put back before anything else.

A fetus moves from slice to slice. What moved shows as a shift against the prediction from the neighbouring slices, what
differs otherwise (anatomy, noise) does not look like a shift. Both are separated by how much of the difference a shift
explains, locally, so that no brain mask is needed: the mother does not move along with the fetus.

Local least squares of a shift (Lucas and Kanade 1981) with a prior on it, several times over. Turns in the plane are
shifts that differ from place to place. What moved across the plane stays where it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from USMRISynthesisLib.callbacks import Cancel
from USMRISynthesisLib.errors import Cancelled
from USMRISynthesisLib.spacing.noise import noise_of
from USMRISynthesisLib.spacing.profile import CLEAN

STILL = 0.01  # noise of slices (`noise_of`) up to which they agree: nothing is moved then
_WINDOW_MM = 17.0  # sigma of the window in which one shift is sought
_STEP = 4  # pixels between the places where shifts are sought
_GRAIN_PIXELS = 1.0  # sigma of the blur before slices are compared
_PRIOR = 0.03  # of the shift against the residual: a shift of one pixel costs 3 % of it
_SHARE = 0.15  # of the difference that a shift explains, at which half of the shift is believed
_SWEEPS, _DAMPING = 5, 0.7
_LARGEST_MM = 3.4
_TINY = 1e-8
# Anatomy that changes from slice to slice counts as noise, too. With the whole of it, aligned real stacks come out
# smoother than stacks of another orientation show them: 0.01 to 0.02 of NCC (docs/what-did-not-help.md).
_NOISE_SHARE = 1 / 50


@dataclass(frozen=True, eq=False)
class Prepared:
    """What the super-resolution network gets of a stack.

    slices: (n, h, w) float32, put back where they had moved. noise: for the network. measured: how far the acquired
    slices disagree (`noise_of`). moved_mm: 95th percentile of the shifts.
    """

    slices: np.ndarray
    noise: float
    measured: float
    moved_mm: float


def prepared(
    thick: np.ndarray, m: int, pixel_mm: float, *, keep: bool = False, cancel: Cancel | None = None
) -> Prepared:
    """Thick slices (n, h, w) around 0-1, which are to become m, ready for `super_resolve`.

    keep: leave the slices where they were acquired, as a result must that is to equal them when degraded. Raises
    Cancelled.
    """
    measured = noise_of(thick, m)
    if measured <= STILL:
        return Prepared(thick, measured, measured, 0.0)
    slices, moved_mm = (thick, 0.0) if keep else aligned(thick, pixel_mm, measured, cancel=cancel)
    left = measured if keep else noise_of(slices, m)
    return Prepared(slices, max(CLEAN, _NOISE_SHARE * left), measured, moved_mm)


def aligned(
    thick: np.ndarray, pixel_mm: float, noise: float, *, cancel: Cancel | None = None
) -> tuple[np.ndarray, float]:
    """Thick slices (n, h, w) with those put back that moved in their plane, float32; and the size of the shifts in mm.

    The size is the 95th percentile over all pixels. Slices whose `noise` is at most `STILL` come back as they are, 0
    mm. The first and the last slice stay where they are: they have neighbours on one side only. Raises Cancelled.
    """
    if noise <= STILL or len(thick) < 3:
        return thick, 0.0
    n, h, w = thick.shape
    thick = np.asarray(thick, np.float32)
    shifts = np.zeros((2, n, -(-h // _STEP), -(-w // _STEP)), np.float32)
    prediction = _prediction(n)
    moved = thick
    for _ in range(_SWEEPS):
        if cancel is not None and cancel():
            raise Cancelled
        shifts += _DAMPING * _steps(moved, prediction, _WINDOW_MM / pixel_mm / _STEP)
        np.clip(shifts, -_LARGEST_MM / pixel_mm, _LARGEST_MM / pixel_mm, out=shifts)
        moved = _moved(thick, shifts, 1)
    size = float(np.percentile(np.hypot(*shifts), 95)) * pixel_mm
    return _moved(thick, shifts, 3), size


def _prediction(n: int) -> np.ndarray:
    """(n, n): each slice from its neighbours, cubic where there are two on either side; zeros for first and last."""
    matrix = np.zeros((n, n), np.float32)
    for k in range(1, n - 1):
        if 2 <= k < n - 2:
            matrix[k, [k - 2, k - 1, k + 1, k + 2]] = np.array([-1, 4, 4, -1]) / 6
        else:
            matrix[k, [k - 1, k + 1]] = 0.5
    return matrix


def _steps(slices: np.ndarray, prediction: np.ndarray, window: float) -> np.ndarray:
    """Shifts in pixels (2, n, h', w') that bring slices (n, h, w) nearer to their predictions, at every fourth pixel.

    A step is (A + l)^-1 b times e^2 / (e^2 + share^2): A and b of the window's gradients and differences, l the prior
    times the mean square difference, e the share of the latter that the shift explains.
    """
    predicted_from = prediction.any(axis=1)
    result = np.zeros((2, len(slices), -(-slices.shape[1] // _STEP), -(-slices.shape[2] // _STEP)), np.float32)
    blurred = ndimage.gaussian_filter(slices, (0, _GRAIN_PIXELS, _GRAIN_PIXELS))
    for k in np.flatnonzero(predicted_from):
        expected = np.tensordot(prediction[k], blurred, 1)
        difference = expected - blurred[k]
        down, right = np.gradient((expected + blurred[k]) / 2)
        products = (down * down, down * right, right * right, down * difference, right * difference, difference**2)
        a, b, c, u, v, square = (
            ndimage.gaussian_filter(_coarse(product), window, mode="nearest", truncate=2.5) for product in products
        )
        square = square + _TINY
        free_a, free_c = a + 1e-3 * square, c + 1e-3 * square
        explained = (u * (free_c * u - b * v) + v * (free_a * v - b * u)) / ((free_a * free_c - b * b) * square)
        believed = explained**2 / (explained**2 + _SHARE**2)
        a, c = a + _PRIOR * square, c + _PRIOR * square
        result[:, k] = believed * np.stack([c * u - b * v, a * v - b * u]) / (a * c - b * b)
    return result


def _coarse(image: np.ndarray) -> np.ndarray:
    """Means (h', w') of squares of an image (h, w), whose last rows and columns are repeated."""
    h, w = image.shape
    full = np.pad(image, ((0, -h % _STEP), (0, -w % _STEP)), mode="edge")
    return np.asarray(full.reshape(full.shape[0] // _STEP, _STEP, -1, _STEP).mean(axis=(1, 3)))


def _moved(slices: np.ndarray, shifts: np.ndarray, order: int) -> np.ndarray:
    """Slices (n, h, w) seen at places shifted by pixels (2, n, h', w'), by splines of this order."""
    _, h, w = slices.shape
    places = np.indices((h, w), dtype=np.float32)
    coarse = (places - (_STEP - 1) / 2) / _STEP
    result = np.empty(slices.shape, np.float32)
    for k, image in enumerate(slices):
        if not shifts[:, k].any():
            result[k] = image
            continue
        fine = np.stack([ndimage.map_coordinates(one, coarse, order=1, mode="nearest") for one in shifts[:, k]])
        result[k] = ndimage.map_coordinates(image, places + fine, order=order, mode="nearest")
    return result
