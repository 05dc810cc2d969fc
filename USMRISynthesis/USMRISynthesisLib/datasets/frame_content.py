"""What the frame content network learns from: real frames with what they show, split by patient.

Brain frames with their plane (`fetal-planes/`), head-circumference planes of HC18, where thalamic and ventricular are
not told apart, frames that show no brain (`not-brain/`), and slices of MR, which are no ultrasound of one. All pass the
same way: grey values to even numbers (two of the sources have only those), the fan, and the square about it. So neither
the grey values, nor text, nor the picture's size says which source a frame is from.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import zipfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from USMRISynthesisLib.alignment.common.pyramid import Pyramid
from USMRISynthesisLib.alignment.frame.content import NO_BRAIN
from USMRISynthesisLib.alignment.frame.outline import square
from USMRISynthesisLib.datasets.frames import annotated, rows_of
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.geometry.ellipse import Ellipse
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.simulation.dataset import frame_volume, split_of
from USMRISynthesisLib.ultrasound.fan import find_fan

AXIAL = "axial"  # a brain; which of the axial planes is not known
_PLANES = {
    "Trans-thalamic": "trans-thalamic",
    "Trans-ventricular": "trans-ventricular",
    "Trans-cerebellum": "trans-cerebellum",
    "Other": "other brain plane",
}
SOURCES = ("fetal-planes", "hc18", "not-brain", "african", "mr")
BRAIN_SOURCES = ("fetal-planes", "hc18")
# Cells along the side of the square that is kept of each frame.
CELLS = 160
# MR that may be trained on (CC0), and how many slices of each volume are taken along each axis that is fine enough.
_MR = ("fetal-mr-atlas/*/t2.nii.gz", "fetal-mr-stacks/stacks/*.nii.gz", "fetal-mr-stacks-crl/*.nii.gz")
_MR_SLICES = 5
# First-trimester frames of `not-brain/` that do show a head.
_SHOW_A_HEAD = (
    "fp_Patient00168_Plane1_10_of_23", "fp_Patient00168_Plane1_4_of_23", "fp_Patient00168_Plane1_7_of_23",
    "fp_Patient00168_Plane1_8_of_23", "fp_Patient01212_Plane1_1_of_1", "fp_Patient01387_Plane1_1_of_1",
    "fp_Patient01690_Plane1_1_of_1",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class ContentRow:
    """One frame of a source. shows: a plane of `content.PLANES`, `AXIAL` or `NO_BRAIN`; part: in the source's
    own words. ellipse: of the head in pixels, where annotated. cut: of a volume, the axis of the array across which
    a slice is taken, and where, 0-1."""

    path: Path
    source: str
    patient: str
    shows: str
    part: str
    pixel_mm: float = 0.5
    ellipse: Ellipse | None = None
    cut: tuple[int, float] | None = None

    @property
    def split(self) -> str:
        """ "train", "val" or "test" (70/15/15), the same for all frames of a patient in all sources."""
        if self.source == "hc18":
            return split_of(self.path.name)
        share = int(hashlib.sha256(f"patient {self.patient}".encode()).hexdigest(), 16) % 100
        return "train" if share < 70 else "val" if share < 85 else "test"


@dataclass(frozen=True, eq=False)
class ContentPicture:
    """A frame as it is trained on.

    images: (n, CELLS, CELLS) uint8, the square about the fan, as it is and after speckle-reducing filters; 0 outside
    the fan. ellipse: the head's in the square's own coordinates (-1 and 1 at its sides), where it is known.
    """

    row: ContentRow
    images: np.ndarray
    ellipse: Ellipse | None


def content_rows(data: Path) -> list[ContentRow]:
    """All frames of the three sources. Raises Refused where one of them is missing."""
    rows = []
    for item in _read(data / "fetal-planes"):
        shows = _PLANES[item["plane"]]
        rows.append(
            ContentRow(data / "fetal-planes" / item["file"], "fetal-planes", item["patient"], shows, item["plane"])
        )
    for split in ("train", "val", "test"):
        for item in rows_of(data, split):
            rows.append(
                ContentRow(
                    data / "hc18" / "images" / item["file"], "hc18", item["file"].split("_")[0], AXIAL,
                    "head circumference", float(item["pixel_size_mm"]), annotated(item),
                )
            )  # fmt: skip
    for item in _read(data / "not-brain"):
        path = data / "not-brain" / item["file"]
        if path.stem not in _SHOW_A_HEAD:
            source = "african" if item["file"].startswith("african") else "not-brain"
            rows.append(ContentRow(path, source, item["patient"], NO_BRAIN, item["shows"]))
    return rows + mr_rows(data, _MR)


def mr_rows(data: Path, patterns: Sequence[str]) -> list[ContentRow]:
    """Slices through the middle half of every MR volume that the patterns find."""
    rows = []
    for path in sorted(path for pattern in patterns for path in data.glob(pattern)):
        patient = path.parent.name if path.name == "t2.nii.gz" else path.relative_to(data).parts[0]
        for axis in (0, 1, 2) if path.name == "t2.nii.gz" else (0,):  # stacks are thick across the others
            for share in np.linspace(0.3, 0.7, _MR_SLICES):
                rows.append(ContentRow(path, "mr", patient, NO_BRAIN, "mr", cut=(axis, float(share))))
    return rows


def content_pictures(rows: Sequence[ContentRow], cache: Path | None = None) -> list[ContentPicture]:
    """The frames of these rows. With a file as `cache` they are kept there, and taken from it the next time."""
    names = np.array([f"{row.source} {row.path.name} {row.cut}" for row in rows])
    try:
        with np.load(cache) if cache is not None else nullcontext({}) as kept:
            images, units = kept["images"], kept["units"]
            found = np.array_equal(kept["names"], names)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        found = False
    if not found:
        squares = [_square_of(row) for row in rows]
        images, units = (np.stack([one[part] for one in squares]) for part in (0, 1))
        if cache is not None:
            np.savez(cache, names=names, images=images, units=units)
    return [_picture(row, image, unit) for row, image, unit in zip(rows, images, units, strict=True)]


def _picture(row: ContentRow, images: np.ndarray, unit: np.ndarray) -> ContentPicture:
    if row.ellipse is None:
        return ContentPicture(row, images, None)
    to_plane = np.diag([row.pixel_mm, row.pixel_mm, 1.0])
    return ContentPicture(row, images, row.ellipse.moved(np.linalg.inv(unit) @ to_plane))


def _square_of(row: ContentRow) -> tuple[np.ndarray, np.ndarray]:
    """A frame's square and its filtered copies (n, CELLS, CELLS), and `unit_to_plane` (3, 3) of the square."""
    volume = read_frame(row)
    pyramid = Pyramid(volume, find_fan(volume.array, volume.spacing))
    unit = square(pyramid.extent, pyramid.centre, 0.0, False)
    image = _as_bytes(pyramid.cut(unit, CELLS)[0, 0].numpy())
    smoothed = [np.where(image > 0, smooth(image).clip(1), 0) for smooth in FILTERS.values()]
    return np.stack([image, *smoothed]).astype(np.uint8), unit


def read_frame(row: ContentRow, *, even: bool = True) -> Volume:
    """A row's frame as inference gets it; `even`: its grey values even numbers as in the coarsest source."""
    if row.cut is not None:
        volume = _slice_of(row.path, *row.cut)
    elif row.source == "hc18":
        volume = frame_volume(row.path.parents[2], {"file": row.path.name, "pixel_size_mm": str(row.pixel_mm)})
    else:
        from PIL import Image

        with Image.open(row.path) as image:
            grey = np.asarray(image.convert("L"))
        volume = Volume(grey[None], np.diag([-row.pixel_mm, -row.pixel_mm, row.pixel_mm, 1.0]))
    return volume.with_values(volume.array & np.uint8(254)) if even else volume


def _slice_of(path: Path, axis: int, share: float) -> Volume:
    """A slice of a volume as an 8-bit frame."""
    array, spacing = _stored(path)
    image = array.take(int(share * (array.shape[axis] - 1)), axis)
    high = max(float(np.percentile(image, 99.5)), 1e-6)
    grey = (image.clip(0, high) * (255 / high)).astype(np.uint8)
    sides = [spacing[2 - other] for other in range(3) if other != axis]  # of a row's step, then a column's
    return Volume(grey[None], np.diag([-sides[1], -sides[0], sides[0], 1.0]))


@functools.lru_cache(maxsize=1)
def _stored(path: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    volume = Volume.read(path)
    return np.nan_to_num(volume.array.astype(np.float32)), tuple(volume.spacing)


def _median(grey: np.ndarray) -> np.ndarray:
    return _back(sitk.Median(sitk.GetImageFromArray(grey), [1, 1]))


def _diffusion(grey: np.ndarray) -> np.ndarray:
    return _back(sitk.CurvatureAnisotropicDiffusion(sitk.GetImageFromArray(grey.astype(np.float32)), 0.1, 3.0, 1, 5))


FILTERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "median": _median, "diffusion": _diffusion,
}  # fmt: skip


def _back(image: sitk.Image) -> np.ndarray:
    return np.clip(np.rint(sitk.GetArrayFromImage(image)), 0, 255).astype(np.uint8)


def _as_bytes(x: np.ndarray) -> np.ndarray:
    """[-1, 1], -1 outside the fan, as 0-255; 0 outside."""
    return np.asarray(np.rint((x + 1) * 127.5).clip(0, 255).astype(np.uint8))


def _read(folder: Path) -> list[dict[str, str]]:
    index = folder / "index.csv"
    if not index.is_file():
        raise Refused(
            "data", f"There are no frames of {folder.name}.", f"Give the folder that holds {folder.name}/ and hc18/."
        )
    with open(index, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
