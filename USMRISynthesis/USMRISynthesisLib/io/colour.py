"""Grey images that are stored in colour, as screenshots and many exports are: made grey, or refused.

Colour in the tissue is a measurement (Doppler, elastography, a tint) and is refused. Small coloured marks of the
scanner's screen - logo, focus mark, orientation dot, callipers - are taken out.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from USMRISynthesisLib.errors import Refused

# A grey image stored as RGB differs between its channels by compression only; Doppler and overlays are strong colours.
_COLOURFUL = 40 / 255
# A mark is as thin as a line or lies on black; what lies in tissue and is thicker than this share of the picture's side
# is an overlay.
_LEAST_THICK, _SIDES_THICK = 3, 80
_MAX_THICK_SHARE = 0.001
# More colour than this is no mark, wherever it lies.
_MAX_SHARE = 0.05
_BLACK = 12 / 255
_AROUND = 6
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def to_grey(colours: np.ndarray) -> np.ndarray:
    """The grey image in an image with several values a pixel.

    Args:
        colours: (..., j, i, c): grey and alpha (c = 2), RGB (3) or RGBA (4), of any real type. Frames along the axes
            before the last three are converted one by one.

    Returns:
        (..., j, i) of the same type: the luminance; a coloured mark in the tissue has the grey of its surroundings,
        one outside it is black.

    Raises:
        Refused: real colour, kind "colour"; another number of values, too.
    """
    colours = np.asarray(colours)
    if colours.ndim < 3 or colours.shape[-1] not in (2, 3, 4) or colours.dtype.kind not in "uif":
        raise several_values(colours.shape[-1] if colours.ndim else 1)
    frames = colours.reshape(-1, *colours.shape[-3:])
    grey = np.empty(frames.shape[:-1], dtype=colours.dtype)
    white = _full(colours.dtype, frames)
    for index, frame in enumerate(frames):
        made = _grey_frame(frame, white)
        if made is None:
            raise _real_colour(frames, white)
        grey[index] = made
    return grey.reshape(colours.shape[:-1])


def several_values(count: int) -> Refused:
    """The refusal of voxels with several values that are no colours."""
    return Refused(
        "colour",
        f"The image is in colour or has {count} values at each voxel.",
        "Export it as greyscale without colour Doppler or overlays.",
    )


def _full(dtype: np.dtype, frames: np.ndarray) -> float:
    """The value of white."""
    brightest = float(np.nanmax(frames[..., :3])) if frames.size else 1.0
    if dtype == np.uint8:
        return 255.0
    return brightest if np.isfinite(brightest) and brightest > 0 else 1.0


def _real_colour(frames: np.ndarray, white: float) -> Refused:
    count = sum(int(_is_coloured(frame[..., :3].astype(np.float32), white).sum()) for frame in frames)
    share = 100 * count / frames[..., 0].size
    return Refused(
        "colour",
        f"{share:.1f} % of the image are in colour, like Doppler or an overlay.",
        "Export it as greyscale without colour Doppler or overlays.",
    )


def _is_coloured(values: np.ndarray, white: float) -> np.ndarray:
    return np.asarray(np.ptp(values, axis=-1) > _COLOURFUL * white)


def _grey_frame(frame: np.ndarray, white: float) -> np.ndarray | None:
    """(j, i), or None where the colour means something."""
    values = frame.astype(np.float32)
    if frame.shape[-1] in (2, 4):  # what is wholly transparent is not shown, unless the writer knew no transparency
        hidden = frame[..., -1:] == 0
        values = np.where(hidden & ~hidden.all(), 0, values)[..., :-1]
    if values.shape[-1] == 1:
        grey = values[..., 0]
    else:
        grey = values @ _LUMINANCE
        coloured = _is_coloured(values, white)
        if coloured.any():
            marked = _without_marks(grey, coloured, white)
            if marked is None:
                return None
            grey = marked
    return np.rint(grey).astype(frame.dtype) if frame.dtype.kind in "ui" else grey.astype(frame.dtype)


def _without_marks(grey: np.ndarray, coloured: np.ndarray, white: float) -> np.ndarray | None:
    """The grey picture without its coloured marks, or None where the colour is more than marks."""
    # Compression bleeds a mark's colour into its neighbours.
    marks = ndimage.binary_dilation(coloured, iterations=2)
    plain = np.where(marks, 0, grey)
    tissue = ndimage.uniform_filter((plain > _BLACK * white).astype(np.float32), 2 * _AROUND + 1)
    free = ndimage.uniform_filter((~marks).astype(np.float32), 2 * _AROUND + 1)
    parts, count = ndimage.label(marks)
    numbers = np.arange(1, count + 1)
    # The share of bright pixels around each mark, of those that belong to no mark.
    bright = ndimage.sum_labels(tissue, parts, numbers) / np.maximum(ndimage.sum_labels(free, parts, numbers), 1e-6)
    inside = np.concatenate([[False], bright > 0.5])[parts]
    side = max(_LEAST_THICK, 1 + min(coloured.shape) // _SIDES_THICK)
    thick = ndimage.binary_opening(coloured, np.ones((side, side), bool)) & inside
    if coloured.mean() > _MAX_SHARE or thick.mean() > _MAX_THICK_SHARE:
        return None
    known = np.where(marks, 0, grey)
    result = np.where(marks, float(grey[~marks].min()), grey)
    if inside.any():
        weight = ndimage.gaussian_filter((~marks).astype(np.float32), _AROUND)
        around = ndimage.gaussian_filter(known.astype(np.float32), _AROUND) / np.maximum(weight, 1e-6)
        result = np.where(inside, around, result)
    return result.astype(np.float32)
