"""Comparison pictures: ultrasound, MR-like and fused panels at one physical scale, marked as synthetic.

    compare([Case("3D head", ultrasound, mr, ras_to_canonical), Case("2D frame", us, mr)], "compare.png")

With `ras_to_canonical` a volume is cut along the fetus's own axes and shown as radiologists expect it: the
right side on the left of the picture, anterior or superior up. Without it the cuts follow the file's axes,
and no letters are shown: a probe's axes are not anatomy. numpy, SimpleITK and PIL only.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image, ImageDraw

from USMRISynthesisLib.io.style import BACKGROUND, DIM, NOTICE, TEXT, font
from USMRISynthesisLib.io.synthetic import SYNTHETIC
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.synthesis.result import DOUBT, GRAVE_DOUBT

PIXEL_MM = 0.4
_MARGIN, _GAP, _HEADER, _TITLE = 24, 10, 40, 34
_STRIP = 22
_COLUMNS = ("Ultrasound", "MR-like", "Fused", "MR-like, unreliable marked")
_ATLAS = "Fitted atlas: no image of this fetus"
# Viewing axis of a picture (RAS), then the axes to the right and up; -1 turns the right hand to the left.
_PLANES = {"axial": (2, (0, -1), (1, 1)), "coronal": (1, (0, -1), (2, 1)), "sagittal": (0, (1, -1), (2, 1))}
_LETTERS = (("L", "R"), ("P", "A"), ("I", "S"))


@dataclass(frozen=True, eq=False)
class Case:
    """One image to show: the MR-like image lies on the ultrasound's grid."""

    title: str
    ultrasound: Volume
    mr: Volume
    ras_to_canonical: np.ndarray | None = None
    reliability: Volume | None = None  # probability of being right on the same grid: a further panel
    atlas: Volume | None = None  # the fitted atlas on the same grid: the last panel


def compare(cases: Sequence[Case], path: str | os.PathLike[str]) -> None:
    """Write one PNG with a block of rows for each case: three planes for a volume, one row for a frame."""
    blocks = [
        (
            case.title,
            [(name, letters, [_with_strip(panel) for panel in panels]) for name, letters, panels in _rows(case)],
        )
        for case in cases
    ]
    width = max(sum(panel.width for panel in panels) for _, rows in blocks for _, _, panels in rows)
    width += 2 * _MARGIN + len(_COLUMNS) * _GAP
    height = 2 * _MARGIN + sum(
        _TITLE + _HEADER + sum(panels[0].height + _GAP for _, _, panels in rows) for _, rows in blocks
    )
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    y = _MARGIN
    for case, (title, rows) in zip(cases, blocks, strict=True):
        draw.text((_MARGIN, y), title, font=font(20), fill=TEXT)
        names = [*_COLUMNS[: 3 if case.reliability is None else 4], *([] if case.atlas is None else [_ATLAS])]
        y += _TITLE
        for number, (name, letters, panels) in enumerate(rows):
            total = sum(panel.width for panel in panels) + (len(panels) - 1) * _GAP
            x = (width - total) // 2
            for column, panel in zip(names, panels, strict=True):
                if number == 0:
                    draw.text((x, y), column, font=font(15), fill=DIM)
                top = y + (_HEADER - 14 if number == 0 else 0)
                sheet.paste(panel, (x, top))
                _annotate(
                    draw, (x, top, x + panel.width, top + panel.height), name, letters, synthetic=column != _COLUMNS[0]
                )
                x += panel.width + _GAP
            y += panels[0].height + _GAP + (_HEADER - 14 if number == 0 else 0)
        y += 14
    part = Path(path).with_name(f".{Path(path).name}.part")
    try:
        sheet.save(part, format="PNG", optimize=True)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _rows(case: Case) -> list[tuple[str, tuple[str, str, str, str], list[Image.Image]]]:
    """For each plane: its name, the letters left, right, top and bottom, and the three panels."""
    volumes = [case.ultrasound, case.mr, *(one for one in (case.reliability, case.atlas) if one is not None)]
    kinds = _Kinds(case.reliability is not None, case.atlas is not None)
    us_level = _window(case.ultrasound.array)
    if case.ultrasound.is_frame:
        si, sj, _ = case.ultrasound.spacing
        flat = [_scaled(volume.array[0].astype(np.float32), (sj, si)) for volume in volumes]
        return [("frame", ("", "", "", ""), _panels(flat, us_level, kinds))]
    if case.ras_to_canonical is not None:
        turned = case.ras_to_canonical.copy()  # along the fetus's axes, at its true size
        turned[:3] /= np.cbrt(abs(np.linalg.det(turned[:3, :3])))
        volumes = [replace(volume, ijk_to_ras=turned @ volume.ijk_to_ras) for volume in volumes]
    grid = _ras_grid(volumes[1])
    # Between a doubtful and an unseen voxel there is no half: the reliability map's own voxels are shown.
    nearest = 2 if kinds.reliability else -1
    arrays = [_resampled(volume, grid, linear=n != nearest) for n, volume in enumerate(volumes)]
    centre = _centre(arrays[1])
    rows = []
    for name, (normal, right, up) in _PLANES.items():
        cut = [_plane(array, normal, right, up, centre[normal]) for array in arrays]
        letters = (
            ("", "", "", "")
            if case.ras_to_canonical is None
            else (
                _LETTERS[right[0]][right[1] < 0],
                _LETTERS[right[0]][right[1] > 0],
                _LETTERS[up[0]][1],
                _LETTERS[up[0]][0],
            )
        )
        rows.append((name, letters, _panels(cut, us_level, kinds)))
    # Volumes differ in extent along each axis: one width for all rows keeps the columns straight.
    widest = max(panel.width for _, _, panels in rows for panel in panels)
    return [(name, letters, [_padded(panel, widest) for panel in panels]) for name, letters, panels in rows]


@dataclass(frozen=True)
class _Kinds:
    """What there is besides ultrasound and MR."""

    reliability: bool
    atlas: bool


def _panels(slices: Sequence[np.ndarray], us_level: tuple[float, float], kinds: _Kinds) -> list[Image.Image]:
    """The panels from slices (h, w) of ultrasound, MR, and of reliability map and fitted atlas where there are some.

    Fused, the MR is laid over where it is not 0.
    """
    us, mr = slices[:2]
    low, high = us_level
    grey = np.clip((us - low) / (high - low), 0, 1)
    bright = np.clip(mr / _mr_white(mr), 0, 1)
    warm = np.stack([bright, bright**1.4, bright**2.2], axis=-1)
    share = 0.6 * (mr > 0)[..., None]
    fused = (1 - share) * grey[..., None] + share * warm
    pictures = [grey, bright, fused]
    if kinds.reliability:
        pictures.append(_doubted(bright, slices[2], mr > 0))
    if kinds.atlas:
        pictures.append(np.clip(slices[-1] / _mr_white(slices[-1]), 0, 1))
    return [Image.fromarray((255 * picture).astype(np.uint8)).convert("RGB") for picture in pictures]


def _doubted(bright: np.ndarray, reliability: np.ndarray, made: np.ndarray) -> np.ndarray:
    """The MR-like slice (h, w), (h, w, 3) in colour: covered where it is unreliable, red is worst."""
    yellow = np.clip((reliability - GRAVE_DOUBT) / (DOUBT - GRAVE_DOUBT), 0, 1)
    colour = np.stack([np.ones_like(reliability), yellow, np.zeros_like(reliability)], axis=-1)
    share = 0.55 * ((reliability < DOUBT) & (reliability > 0) & made)[..., None]
    return (1 - share) * bright[..., None] + share * colour


def _mr_white(mr: np.ndarray) -> float:
    inside = mr[mr > 0]
    return float(max(np.percentile(inside, 99.5), 1.0)) if inside.size else 1000.0


def _window(array: np.ndarray) -> tuple[float, float]:
    inside = array[array > array.min()]
    if not inside.size:
        return 0.0, 1.0
    high = float(np.percentile(inside[:: max(1, inside.size // 200_000)], 99.7))
    low = float(array.min())
    return low, max(high, low + 1e-6)


def _ras_grid(mr: Volume) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Lowest corner (3,) in mm and size (x, y, z) of an upright grid around the MR, with a margin."""
    inside = np.argwhere(mr.array > 0)[:, ::-1]
    if not len(inside):
        inside = np.array([[0, 0, 0], np.array(mr.shape[::-1]) - 1])
    low, high = inside.min(axis=0), inside.max(axis=0)
    corners = np.stack(np.meshgrid(*zip(low, high, strict=True), indexing="ij")).reshape(3, -1)
    world = mr.ijk_to_ras[:3, :3] @ corners + mr.ijk_to_ras[:3, 3:]
    start, stop = world.min(axis=1) - 12.0, world.max(axis=1) + 12.0
    nx, ny, nz = (int(n) for n in np.ceil((stop - start) / PIXEL_MM) + 1)
    return start, (nx, ny, nz)


def _resampled(volume: Volume, grid: tuple[np.ndarray, tuple[int, int, int]], *, linear: bool = True) -> np.ndarray:
    """The volume on an RAS grid: (z, y, x) float32. Index space throughout, so that any affine will do."""
    start, size = grid
    to_voxel = np.linalg.inv(volume.ijk_to_ras)
    step = to_voxel[:3, :3] * PIXEL_MM
    offset = to_voxel[:3, :3] @ start + to_voxel[:3, 3]
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array, dtype=np.float32))
    transform = sitk.AffineTransform(step.ravel().tolist(), offset.tolist())
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize(list(size))
    resampler.SetTransform(transform)
    resampler.SetInterpolator(sitk.sitkLinear if linear else sitk.sitkNearestNeighbor)
    return sitk.GetArrayFromImage(resampler.Execute(image))


def _centre(mr: np.ndarray) -> tuple[int, int, int]:
    """Index (x, y, z) of the middle of what was synthesised; beside the midline, where the brain is."""
    inside = np.argwhere(mr > 0)
    z, y, x = (inside.min(axis=0) + inside.max(axis=0)) // 2 if len(inside) else np.array(mr.shape) // 2
    aside = round(8.0 / PIXEL_MM)
    return int(min(x + aside, mr.shape[2] - 1)), int(y), int(z)


def _plane(array: np.ndarray, normal: int, right: tuple[int, int], up: tuple[int, int], index: int) -> np.ndarray:
    """One slice (h, w) of a (z, y, x) array, first row on top."""
    picture = array.transpose(2, 1, 0).take(index, axis=normal)  # the two other axes, in the order x, y, z
    if right[0] < up[0]:
        picture = picture.T
    return picture[:: -up[1], :: right[1]]


def _scaled(picture: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
    """A frame (h, w) at PIXEL_MM, as it is stored: first row on top."""
    height, width = (max(1, round(n * s / PIXEL_MM)) for n, s in zip(picture.shape, spacing, strict=True))
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))


def _padded(panel: Image.Image, width: int) -> Image.Image:
    wide = Image.new("RGB", (width, panel.height))
    wide.paste(panel, ((width - panel.width) // 2, 0))
    return wide


def _with_strip(panel: Image.Image) -> Image.Image:
    """Space for the notice below the image: it must cover nothing."""
    taller = Image.new("RGB", (panel.width, panel.height + _STRIP), BACKGROUND)
    taller.paste(panel, (0, 0))
    return taller


def _annotate(
    draw: ImageDraw.ImageDraw,
    box: tuple[int, int, int, int],
    name: str,
    letters: tuple[str, str, str, str],
    *,
    synthetic: bool,
) -> None:
    """Plane and directions on a panel; on a synthetic one what it is, burnt in."""
    left, top, right, bottom = box
    small = font(13)
    draw.text((left + 8, top + 6), name, font=small, fill=DIM)
    middle, centre = (top + bottom - _STRIP) // 2, (left + right) // 2
    for letter, place, anchor in zip(
        letters,
        ((left + 8, middle), (right - 8, middle), (centre, top + 6), (centre, bottom - _STRIP - 4)),
        ("lm", "rm", "mt", "mb"),
        strict=True,
    ):
        draw.text(place, letter, font=small, fill=TEXT, anchor=anchor)
    if synthetic:
        draw.rectangle((left, bottom - _STRIP, right - 1, bottom - 1), fill=(0, 0, 0))
        size = 13
        while size > 7 and draw.textlength(SYNTHETIC, font=font(size)) > right - left - 8:
            size -= 1
        draw.text((centre, bottom - 11), SYNTHETIC, font=font(size), fill=NOTICE, anchor="mm")
