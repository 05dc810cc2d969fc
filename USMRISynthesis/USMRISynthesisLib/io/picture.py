"""Frames stored as pictures: PNG, JPEG, TIFF and BMP; upright as their EXIF entry says, grey where they are grey."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.colour import to_grey
from USMRISynthesisLib.io.header import damaged
from USMRISynthesisLib.io.voxels import opened

PICTURE_FORMATS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
# No screen and no scanner has as many pixels a side, or in all.
_MAX_SIDE, _MAX_PIXELS = 1 << 15, 1 << 26
_MAX_PAGES = 4096
_KINDS = ("PNG", "JPEG", "TIFF", "BMP", "MPO")


def read_picture(path: Path, page: int | None = None, *, stack: bool = False) -> np.ndarray:
    """The pixels of a picture.

    Args:
        path: of the file.
        page: which page of a TIFF of several, from 0.
        stack: all pages, as the slices of a volume.

    Returns:
        (k, j, i), k = 1 but for a stack.

    Raises:
        Refused: damaged, in colour, too large, or of several pages without one being chosen.
    """
    from PIL import Image, ImageOps  # here: reading volumes needs no Pillow

    with opened(path, path.name) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd entries in EXIF and TIFF; too many pixels are noticed below
        try:
            picture = Image.open(file, formats=_KINDS)
            count = int(getattr(picture, "n_frames", 1)) if picture.format == "TIFF" else 1
            chosen = _pages(path.name, count, page, stack)
            pages = []
            for index in chosen:
                if count > 1:
                    picture.seek(index)
                _check_size(picture.size, len(chosen), path.name)
                pages.append(_values(ImageOps.exif_transpose(picture), path.name))
        except Refused:
            raise
        except Exception as error:  # Pillow's readers raise whatever a damaged file leads them to
            raise damaged(path.name) from error
    if any(one.shape != pages[0].shape for one in pages):
        raise Refused("dimensions", f"The pages of {path.name} differ in size.", "Save one of them as a picture.")
    return np.stack(pages)


def count_pages(path: Path) -> int:
    """How many pages a picture has. Raises Refused where it is damaged."""
    from PIL import Image

    with opened(path, path.name) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            picture = Image.open(file, formats=_KINDS)
            return int(getattr(picture, "n_frames", 1)) if picture.format == "TIFF" else 1
        except Exception as error:
            raise damaged(path.name) from error


def _pages(name: str, count: int, page: int | None, stack: bool) -> range:
    if count > _MAX_PAGES:
        raise Refused("size", f"{name} has more than {_MAX_PAGES} pages.", "Save a part of it.")
    if stack:
        return range(count)
    if count > 1 and page is None:
        raise Refused(
            "time",
            f"{name} is a stack of {count} pages.",
            "Give the size of a voxel with --voxel-size I J K in mm if they are the slices of a volume, or choose one "
            f"with --frame N, N from 0 to {count - 1}, and --pixel-size MM.",
        )
    if not 0 <= (page or 0) < count:
        raise Refused(
            "time",
            f"There is no frame {page}: the file holds {count}.",
            f"Choose one from 0 to {count - 1} with --frame N.",
        )
    return range(page or 0, (page or 0) + 1)


def _check_size(size: tuple[int, int], pages: int, name: str) -> None:
    width, height = size
    if not (0 < width <= _MAX_SIDE and 0 < height <= _MAX_SIDE) or width * height > _MAX_PIXELS:
        raise Refused("size", f"{name} has {width} x {height} pixels, too many for a frame.", "Save a smaller picture.")
    if width * height * pages > 8 * _MAX_PIXELS:
        raise Refused("size", f"{name} has too many pixels for a volume.", "Crop it to the head, or save it as NRRD.")


def _values(picture, name: str) -> np.ndarray:  # type: ignore[no-untyped-def]
    """(j, i) of a Pillow image."""
    if picture.mode in ("1", "P", "PA", "CMYK", "YCbCr", "RGBX", "LAB", "HSV"):
        picture = picture.convert("L" if picture.mode == "1" else "RGBA" if "transparency" in picture.info else "RGB")
    values = np.asarray(picture)
    if picture.mode in ("LA", "La", "RGB", "RGBA", "RGBa"):
        return to_grey(values)
    if values.ndim != 2 or values.dtype.kind not in "uif":
        raise damaged(name)
    return values.astype(values.dtype.newbyteorder("="))
