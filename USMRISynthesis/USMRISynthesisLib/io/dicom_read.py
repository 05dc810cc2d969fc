"""Reading DICOM: one time point of an image, grey, in its place.

    read_dicom(Path("study"), series="2", frame=0)

What a study holds is sorted by `dicom_find.py`. Of ultrasound, the B-mode region is read, with its own pixel size. A
film is time, not a volume; a volume has the place that its header states. Of the header nothing else is passed on: no
patient data, no UID.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.dicom_file import guarded, read_dataset, text, vector
from USMRISynthesisLib.io.dicom_find import Item, chosen, items_at
from USMRISynthesisLib.io.dicom_geometry import Plane, Stack, plane_of, planes_of, stacked
from USMRISynthesisLib.io.dicom_pixels import Stored, frame_count, read_frames, rescaled
from USMRISynthesisLib.io.dicom_private import PrivateVolume, private_volume
from USMRISynthesisLib.io.dicom_regions import Region, b_mode_region
from USMRISynthesisLib.io.header import COMMENT, check_geometry
from USMRISynthesisLib.io.synthetic import SYNTHETIC, SYNTHETIC_KEY

_ENHANCED_VOLUME = "1.2.840.10008.5.1.4.1.1.6.2"


@dataclass(frozen=True, eq=False)
class DicomImage:
    """An image whose pixels are not read yet.

    Attributes:
        item: its files.
        name: for sentences.
        count: time points.
        body: a volume of planes, one in private elements, or the picture or film of a file.
        region: the part of a picture that is read; None for all of it.
        ijk_to_ras: (4, 4) mm; of a picture without a pixel size, with sides of 1 mm.
        states_spacing: whether the file says how large a pixel is.
    """

    item: Item
    name: str
    count: int
    body: Stack | PrivateVolume | Stored
    region: Region | None
    ijk_to_ras: np.ndarray
    states_spacing: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """(k, j, i) of a time point."""
        if isinstance(self.body, PrivateVolume):
            return self.body.shape
        if self.region is not None:
            return 1, self.region.bottom - self.region.top + 1, self.region.right - self.region.left + 1
        columns, rows = self.item.size
        return (len(self.body.times[0]) if isinstance(self.body, Stack) else 1), rows, columns

    def read(self, frame: int) -> np.ndarray:
        """(k, j, i) of one time point, with the rescale slope. Raises Refused where the pixels cannot be read."""
        if isinstance(self.body, PrivateVolume):
            return self.body.read(frame)
        if isinstance(self.body, Stack):
            planes = self.body.times[frame]
            parts = read_frames([plane.stored for plane in planes])
            return np.stack([_rescaled(part, plane, self.name) for part, plane in zip(parts, planes, strict=True)])
        header, part = self.body.header, self.body.part
        [values] = read_frames([Stored(self.body.path, header, frame, part)])
        with guarded(self.name):
            return np.ascontiguousarray(rescaled(values, header, self.name))[None]

    @property
    def texts(self) -> dict[str, str]:
        """What may be known of it elsewhere: the modality, and whether it is a synthetic image."""
        modality = {"Modality": self.item.modality} if self.item.modality else {}
        return modality | ({COMMENT: SYNTHETIC, SYNTHETIC_KEY: SYNTHETIC} if self.item.synthetic else {})


def open_dicom(
    path: Path, name: str, *, series: str | None = None, region: int | None = None, pixel_size_mm: float | None = None
) -> DicomImage:
    """The image in a DICOM file, folder or DICOMDIR, without its pixels.

    Args:
        path: of any of the three.
        name: for the sentences.
        series: which of several images: its number in the list, or the UID of its series.
        region: which of several B-mode regions of an ultrasound picture, from 1.
        pixel_size_mm: side of the pixels of a picture, instead of the file's.

    Raises:
        Refused: see `Volume.read`.
    """
    return open_item(chosen(items_at(path, name), series, name), name, region=region, pixel_size_mm=pixel_size_mm)


def open_item(item: Item, name: str, *, region: int | None = None, pixel_size_mm: float | None = None) -> DicomImage:
    """`open_dicom` for an image that was found already."""
    headers = [(path, read_dataset(path)) for path in item.files]
    path, header = headers[0]
    with guarded(name):
        private = private_volume(header, path)
        if private is not None:
            return DicomImage(item, name, private.count, private, None, private.ijk_to_ras, True)
        planes = _planes(headers, name)
        if planes:
            stack = stacked(planes, name)
            return DicomImage(item, name, len(stack.times), stack, None, stack.ijk_to_ras, True)
        if len(headers) > 1:
            raise Refused("geometry", f"Some slices of {name} do not state their place.", "Export the series again.")
        part = b_mode_region(header, name, region, size_given=pixel_size_mm is not None)
        sides = part.sides if part is not None else _sides(header)
        if pixel_size_mm is not None:
            sides = pixel_size_mm, pixel_size_mm
        matrix = np.diag([-1.0, -1.0, 1.0, 1.0])
        if sides is not None:
            matrix = np.diag([-sides[0], -sides[1], 1.0, 1.0])
            check_geometry(matrix, name, flat=True)
        if part is not None:  # it stays where it is in the whole picture
            matrix[:3, 3] = (matrix @ [part.left, part.top, 0, 0])[:3]
        window = (slice(None), slice(None))
        if part is not None:
            window = slice(part.top, part.bottom + 1), slice(part.left, part.right + 1)
        stored = Stored(path, header, part=window)
        return DicomImage(item, name, frame_count(header), stored, part, matrix, sides is not None)


def _planes(headers: list[tuple[Path, object]], name: str) -> list[Plane]:
    """The planes of an image; empty where it is a picture or a film. Raises Refused for a volume without its places."""
    [(path, header), *others] = headers
    if not others and frame_count(header) > 1:
        planes = planes_of(header, Stored(path, header))
        if not planes and text(header, "SOPClassUID") == _ENHANCED_VOLUME:
            raise Refused(
                "geometry",
                f"{name} is an ultrasound volume that does not state where its slices lie.",
                "Load it in 3D Slicer with the extension SlicerHeart, and save it as NRRD.",
            )
        return planes
    if not others and ("SequenceOfUltrasoundRegions" in header or "PixelSpacing" not in header):  # type: ignore[operator]
        return []
    found = [plane_of(one, Stored(file, one)) for file, one in headers]
    return [one for one in found if one is not None] if all(one is not None for one in found) else []


def _sides(header: object) -> tuple[float, float] | None:
    spacing = vector(header, "PixelSpacing", 2)
    if spacing is None or not (spacing > 0).all():
        return None
    return float(spacing[1]), float(spacing[0])


def _rescaled(values: np.ndarray, plane: Plane, name: str) -> np.ndarray:
    with guarded(name):
        return rescaled(values, plane.values, name)


def kind_of(image: DicomImage) -> str:
    """What an image is, in words."""
    if image.shape[0] > 1:
        return "volume" if image.count == 1 else "volumes in time"
    return "frame" if image.count == 1 else "film"


def source_files(image: DicomImage) -> tuple[Path, ...]:
    """The files that an image was read from, in the order of its slices."""
    if isinstance(image.body, Stack):
        return tuple(dict.fromkeys(plane.stored.path for plane in image.body.times[0]))
    return image.item.files
