"""Following a head from frame to frame: a rigid registration in the plane to the frame in which it was found.

    template = Template.of(frame, found.alignment, found.fan)
    followed = follow(template, frame, guess)
    followed.ijk_to_canonical, followed.similarity, followed.brightness

Inverse compositional Gauss-Newton (Baker and Matthews, 2004) on a coarse, smoothed image of the head: about 3 ms a
frame. Always against the frame in which the networks found the head, so that no drift adds up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from USMRISynthesisLib.geometry.canonical import resample
from USMRISynthesisLib.geometry.head import Alignment
from USMRISynthesisLib.io.volume import Volume

CELLS, CELL_MM = 80, 1.2
# Beyond the grain of speckle, which changes from frame to frame.
_SMOOTHING_CELLS = 1.5
_MARGIN = 1.15  # of the outline: the skull and its contrast to what lies outside count
_MOST_STEPS = 8
_SETTLED = 0.02  # cells
# A smaller motion of the outline is none: the image would tremble, and it need not be resampled again.
STILL_MM = 0.3
# Below it, the position is looked for by correlation before it is refined.
_NEAR = 0.8
_AXIS = (np.arange(CELLS) - (CELLS - 1) / 2) * CELL_MM
_RADIUS_MM = 44.0


@dataclass(frozen=True, eq=False)
class Template:
    """The head in the frame in which it was found, in canonical space.

    Attributes:
        image: (80, 80) float32, smoothed, of mean 0 and norm 1 under the weight.
        weight: (80, 80) float32, 1 about the head where the fan is.
        ijk_to_canonical: (4, 4), of the frame in which the head was found.
        brightness: mean grey under the weight, above the frame's darkest.
    """

    image: np.ndarray
    weight: np.ndarray
    ijk_to_canonical: np.ndarray
    brightness: float
    _slopes: np.ndarray
    _solver: np.ndarray

    @classmethod
    def of(cls, frame: Volume, alignment: Alignment, fan: np.ndarray) -> Template:
        """frame: (1, j, i); fan: (1, j, i) bool."""
        matrix = alignment.ras_to_canonical @ frame.ijk_to_ras
        raw = _sampled(frame.array[0], matrix)
        seen = resample(fan[0], _cells_to_pixels(matrix), (CELLS, CELLS), 0, 0.0) > 0.5
        y, x = np.meshgrid(_AXIS, _AXIS, indexing="ij")
        to_unit = (alignment.rotation[:2, :2] / (_MARGIN * alignment.semi_axes[:2])).T
        inside = ((to_unit @ (np.stack([x.ravel(), y.ravel()]) - alignment.centre[:2, None])) ** 2).sum(axis=0) < 1
        weight = (inside.reshape(CELLS, CELLS) & seen).astype(np.float32)
        image = _normalised(raw, weight)
        down, along = np.gradient(image)
        columns, rows = (part / CELL_MM for part in (x, y))
        slopes = np.stack([along, down, columns * down - rows * along])  # of a motion along x, along y, a turn
        flat = (slopes * weight).reshape(3, -1)
        solver = np.linalg.pinv(flat @ slopes.reshape(3, -1).T)
        return cls(image, weight, matrix, _brightness(raw, weight, frame.array), slopes, solver)


@dataclass(frozen=True, eq=False)
class Followed:
    """Where the head lies in a later frame.

    Attributes:
        ijk_to_canonical: (4, 4).
        similarity: correlation with the template, -1 to 1.
        brightness: of the head over its brightness in the template's frame.
    """

    ijk_to_canonical: np.ndarray
    similarity: float
    brightness: float


def follow(template: Template, frame: Volume, guess: np.ndarray) -> Followed:
    """Register a frame of the same size and spacing to the template.

    guess: (4, 4) ijk_to_canonical of a frame shortly before. Returned as it is where the head has not moved.
    """
    raw = _sampled(frame.array[0], guess)
    smooth = ndimage.gaussian_filter(raw, _SMOOTHING_CELLS)
    motion, similarity = _refined(template, smooth, np.eye(3))
    if similarity < _NEAR:
        shifted, other = _refined(template, smooth, _shift_by_correlation(template, smooth))
        if other > similarity:
            motion, similarity = shifted, other
    at_rest = _similarity(template, smooth, np.eye(3))
    brightness = _brightness(raw, template.weight, frame.array) / max(template.brightness, 1e-6)
    if _largest_motion_mm(motion) < STILL_MM or similarity <= at_rest:
        return Followed(guess, at_rest, brightness)
    step = np.eye(4)  # in mm: the warp moves cells of the template to where they are found now
    step[:2, :2], step[:2, 3] = motion[:2, :2], motion[:2, 2] * CELL_MM
    return Followed(np.linalg.inv(step) @ guess, similarity, brightness)


def _cells_to_pixels(ijk_to_canonical: np.ndarray) -> np.ndarray:
    """(3, 3) from a cell (column, row) of the template's grid to a pixel (i, j)."""
    grid = np.array([[CELL_MM, 0, _AXIS[0]], [0, CELL_MM, _AXIS[0]], [0, 0, 1.0]])
    return np.asarray(np.linalg.inv(ijk_to_canonical[np.ix_([0, 1, 3], [0, 1, 3])]) @ grid)


def _sampled(image: np.ndarray, ijk_to_canonical: np.ndarray) -> np.ndarray:
    """(80, 80) float32: the frame's grey on the template's grid."""
    return resample(image, _cells_to_pixels(ijk_to_canonical), (CELLS, CELLS), 1, float(image.min()))


def _normalised(raw: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return _scaled(ndimage.gaussian_filter(raw, _SMOOTHING_CELLS), weight)


def _scaled(image: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """With the mean 0 and the norm 1 under the weight."""
    away = image - (image * weight).sum() / max(float(weight.sum()), 1.0)
    return np.asarray(away / max(float(np.sqrt((away * away * weight).sum())), 1e-6), np.float32)


def _brightness(raw: np.ndarray, weight: np.ndarray, array: np.ndarray) -> float:
    return float((raw * weight).sum() / max(float(weight.sum()), 1.0)) - float(array.min())


def _warped(smooth: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """The image at `motion` (3, 3) of every cell (column, row), counted from the middle."""
    middle = np.full(2, (CELLS - 1) / 2)
    turned = motion[:2, :2][::-1, ::-1]  # rows first
    offset = middle + motion[1::-1, 2] - turned @ middle
    return np.asarray(ndimage.affine_transform(smooth, turned, offset, order=1, mode="nearest"))


def _similarity(template: Template, smooth: np.ndarray, motion: np.ndarray) -> float:
    now = _scaled(_warped(smooth, motion), template.weight)
    return float((now * template.image * template.weight).sum())


def _refined(template: Template, smooth: np.ndarray, motion: np.ndarray) -> tuple[np.ndarray, float]:
    """The motion of the template's cells that fits best near the given one, and the similarity there."""
    flat = (template._slopes * template.weight).reshape(3, -1)
    best, highest = motion, -1.0
    for _ in range(_MOST_STEPS):
        now = _scaled(_warped(smooth, motion), template.weight)
        similarity = float((now * template.image * template.weight).sum())
        if similarity > highest:
            best, highest = motion, similarity
        step = template._solver @ (flat @ (now - template.image).ravel())
        motion = motion @ np.linalg.inv(_rigid(*step))
        if max(abs(step[0]), abs(step[1]), abs(step[2]) * _RADIUS_MM / CELL_MM) < _SETTLED:
            break
    return best, highest


def _rigid(along: float, down: float, turn: float) -> np.ndarray:
    c, s = np.cos(turn), np.sin(turn)
    return np.array([[c, -s, along], [s, c, down], [0, 0, 1.0]])


def _shift_by_correlation(template: Template, smooth: np.ndarray) -> np.ndarray:
    """(3, 3): the shift at which the image is most like the template."""
    now = _scaled(smooth, np.ones_like(smooth))
    size = 2 * CELLS
    spectrum = np.fft.rfft2(now, (size, size)) * np.conj(np.fft.rfft2(template.image * template.weight, (size, size)))
    down, along = divmod(int(np.argmax(np.fft.irfft2(spectrum, (size, size)))), size)
    shift = [float(n - size if n > CELLS else n) for n in (along, down)]
    return _rigid(shift[0], shift[1], 0.0)


def _largest_motion_mm(motion: np.ndarray) -> float:
    """How far a point of the outline moves at most, about."""
    turn = abs(float(np.arctan2(motion[1, 0], motion[0, 0])))
    return float(np.hypot(*motion[:2, 2])) * CELL_MM + turn * _RADIUS_MM
