"""An image and where it lies in the patient: reading and writing without losing either.

Arrays are ``(k, j, i)``; ``ijk_to_ras`` takes voxel indices ``(i, j, k, 1)`` to RAS millimetres. Files are
LPS inside SimpleITK; this is the only place that converts.

What each format keeps:

======================  ==================================  ============================================
format                  geometry                            metadata
======================  ==================================  ============================================
NRRD  .nrrd .nhdr       any affine                          every key
MetaImage .mha .mhd     any affine                          every key
NIfTI .nii .nii.gz      any affine, single precision        ``Comment`` only (``descrip``, 79 characters)
======================  ==================================  ============================================

``Comment`` is the key that all three carry: it is where "SYNTHETIC - not for diagnosis" goes.
"""

from __future__ import annotations

import logging
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from USMRISynthesisLib.errors import Failed, Refused
from USMRISynthesisLib.geometry.canonical import LPS_RAS
from USMRISynthesisLib.io import nifti

log = logging.getLogger(__name__)

COMMENT = "Comment"
VOLUME_FORMATS = (".nrrd", ".nhdr", ".nii", ".nii.gz", ".mha", ".mhd")
PICTURE_FORMATS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


@dataclass(frozen=True, eq=False)
class Volume:
    """A scalar image on a grid; a 2D frame is a volume of one slice.

    Attributes:
        array: ``(k, j, i)``.
        ijk_to_ras: ``(4, 4)`` float64, mm, RAS; any invertible affine: oblique, left-handed,
            anisotropic, sheared.
        metadata: free text that travels with the file.

    Raises:
        ValueError: the array is not three-dimensional or the matrix is not an invertible affine.
    """

    array: np.ndarray
    ijk_to_ras: np.ndarray
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        array = np.asarray(self.array)
        matrix = np.array(self.ijk_to_ras, dtype=np.float64)
        if array.ndim != 3:
            raise ValueError(f"a volume's array is (k, j, i), not of shape {array.shape}")
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or (matrix[3] != (0, 0, 0, 1)).any():
            raise ValueError("ijk_to_ras must be a finite 4x4 affine matrix")
        if np.linalg.det(matrix[:3, :3]) == 0:
            raise ValueError("ijk_to_ras must be invertible")
        object.__setattr__(self, "array", array)
        object.__setattr__(self, "ijk_to_ras", matrix)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along ``(k, j, i)``."""
        k, j, i = self.array.shape
        return k, j, i

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size along ``(i, j, k)`` in mm."""
        i, j, k = np.linalg.norm(self.ijk_to_ras[:3, :3], axis=0)
        return float(i), float(j), float(k)

    @property
    def is_frame(self) -> bool:
        """Whether this is a single 2D frame."""
        return self.array.shape[0] == 1

    @property
    def extent_mm(self) -> tuple[float, float, float]:
        """Size of the grid along ``(i, j, k)`` in mm, voxel edge to voxel edge."""
        i, j, k = (n * s for n, s in zip(self.array.shape[::-1], self.spacing, strict=True))
        return i, j, k

    @classmethod
    def read(
        cls, path: str | os.PathLike[str], *, frame: int | None = None, pixel_size_mm: float | None = None
    ) -> Volume:
        """Read a volume or a frame.

        Args:
            path: NRRD, NIfTI or MetaImage; or a PNG, JPEG, TIFF or BMP frame, which needs ``pixel_size_mm``.
            frame: which time point of a 4D file, from 0.
            pixel_size_mm: pixel size of a 2D frame, instead of the one in the file.

        Raises:
            Refused: missing, unreadable or truncated file, unknown format, colour, several time points and no
                ``frame``, a picture without ``pixel_size_mm``.
        """
        path = Path(path)
        suffix = _suffix(path)
        _check_readable(path, suffix, pixel_size_mm)
        image = _read_image(path)
        image = _time_point(image, frame)
        array = sitk.GetArrayFromImage(image)
        if array.ndim == 2:
            array = array[None]
        matrix = _matrix_of(image)
        metadata = {
            key: image.GetMetaData(key) for key in image.GetMetaDataKeys() if not key.startswith(("NRRD_", "ITK_"))
        }
        if suffix in (".nii", ".nii.gz"):
            comment, sform = nifti.header(path)
            metadata = {COMMENT: comment} if comment else {}
            matrix = matrix if sform is None else sform
        elif suffix in (".mha", ".mhd"):
            metadata.update(_metaimage_comment(path))
        if pixel_size_mm is not None:
            if array.shape[0] != 1:
                raise Refused(
                    "pixel-size",
                    f"{path.name} is a 3D volume: a pixel size does not apply to it.",
                    "Leave --pixel-size out, or correct the spacing in the file.",
                )
            matrix[:3, :2] *= pixel_size_mm / np.linalg.norm(matrix[:3, :2], axis=0)
        try:
            return cls(array, matrix, metadata)
        except ValueError as error:
            raise Refused(
                "geometry",
                f"The position and orientation stored in {path.name} are not usable.",
                "Open it in 3D Slicer, check spacing and directions, and save it again.",
            ) from error

    def write(
        self, path: str | os.PathLike[str], *, compress: bool = True, metadata: Mapping[str, str] | None = None
    ) -> None:
        """Write to NRRD, NIfTI or MetaImage, by the file name's ending; all or nothing.

        Args:
            path: target; an existing file is replaced.
            compress: gzip the voxels (``.nii.gz`` always is, ``.nii`` never).
            metadata: added to, and winning over, the volume's own. Line breaks become spaces.

        Raises:
            Failed: unknown ending, missing folder, no permission, disk full. Then no partial file is left.
        """
        path = Path(path)
        suffix = _suffix(path)
        if suffix not in VOLUME_FORMATS:
            raise Failed(
                "format",
                f"Volumes cannot be written as {path.name}.",
                f"Use one of these endings: {', '.join(VOLUME_FORMATS)}.",
            )
        if not path.parent.is_dir():
            raise Failed("folder", f"The folder for {path.name} does not exist.", "Create it or choose another one.")
        texts = {key: " ".join(str(value).splitlines()) for key, value in {**self.metadata, **(metadata or {})}.items()}
        image = self._image()
        for key, value in texts.items():
            image.SetMetaData(key, value)
        # Header and detached voxel file are written under their final names into a folder of their own on
        # the same disk, then moved: the header names the voxel file, and nothing partial is ever visible.
        folder = None
        try:
            folder = Path(tempfile.mkdtemp(prefix=".writing-", dir=path.parent))
            staged = folder / path.name
            if suffix in (".nii", ".nii.gz"):
                nifti.write(image, staged, self.ijk_to_ras, texts.get(COMMENT, ""))
            else:
                sitk.WriteImage(image, str(staged), useCompression=compress)
            for part in sorted(folder.iterdir(), key=lambda part: part == staged):  # the header last
                os.replace(part, path.parent / part.name)
        except (OSError, RuntimeError) as error:
            log.debug("writing failed", exc_info=True)
            reason = (error.strerror if isinstance(error, OSError) else None) or "it could not be saved"
            raise Failed(
                "write", f"Writing {path.name} failed: {reason}.", "Check free space and permissions of the folder."
            ) from error
        finally:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)

    def _image(self) -> sitk.Image:
        array = np.ascontiguousarray(self.array)
        if array.dtype == bool:
            array = array.astype(np.uint8)
        elif array.dtype == np.float16:
            array = array.astype(np.float32)
        image = sitk.GetImageFromArray(array.astype(array.dtype.newbyteorder("="), copy=False))
        matrix = LPS_RAS @ self.ijk_to_ras
        image.SetSpacing(self.spacing)
        image.SetDirection((matrix[:3, :3] / self.spacing).ravel().tolist())
        image.SetOrigin(matrix[:3, 3].tolist())
        return image


def _suffix(path: Path) -> str:
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()


def _check_readable(path: Path, suffix: str, pixel_size_mm: float | None) -> None:
    if not path.is_file():
        raise Refused("missing", f"There is no file {path.name} at that place.", "Check the path.")
    if suffix == ".vol":
        raise Refused(
            "format",
            f"{path.name} looks like a Kretz file, which cannot be read here.",
            "If it is compressed, save it uncompressed on the scanner; then open it in Slicer with "
            "SlicerHeart and save it as NRRD.",
        )
    if suffix not in VOLUME_FORMATS + PICTURE_FORMATS:
        raise Refused(
            "format",
            f"{path.name} is not in a format that can be read here.",
            f"Save it as one of these: {', '.join(VOLUME_FORMATS)}.",
        )
    if path.stat().st_size == 0:
        raise Refused("unreadable", f"{path.name} is empty.", "Export or copy it again.")
    if suffix in PICTURE_FORMATS and pixel_size_mm is None:
        raise Refused(
            "pixel-size",
            f"{path.name} is a picture without a pixel size.",
            "Give the size of a pixel with --pixel-size MM, or export the frame as NRRD or NIfTI.",
        )
    if pixel_size_mm is not None and not (np.isfinite(pixel_size_mm) and pixel_size_mm > 0):
        raise Refused(
            "pixel-size", "The pixel size must be a positive number of millimetres.", "Correct --pixel-size MM."
        )


def _read_image(path: Path) -> sitk.Image:
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # ITK would print to the user's terminal
    try:
        return nifti.read(path) if _suffix(path) in (".nii", ".nii.gz") else sitk.ReadImage(str(path))
    except (RuntimeError, OSError, EOFError, zlib.error, struct.error) as error:
        log.debug("reading failed", exc_info=True)
        raise Refused(
            "unreadable",
            f"{path.name} could not be read: it is damaged, truncated or not an image.",
            "Export or copy it again.",
        ) from error
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


def _time_point(image: sitk.Image, frame: int | None) -> sitk.Image:
    """The 2D or 3D scalar image of one time point."""
    components = image.GetNumberOfComponentsPerPixel()
    kinds = [image.GetMetaData(key) for key in image.GetMetaDataKeys() if key.startswith("NRRD_kinds")]
    is_list = components > 1 and "list" in kinds  # Slicer's sequences: time is stored as vector components
    if "complex" in image.GetPixelIDTypeAsString() or (components > 1 and not is_list):
        raise Refused(
            "colour",
            f"The image is in colour or has {components} values at each voxel.",
            "Export it as greyscale without colour Doppler or overlays.",
        )
    if image.GetDimension() > 4 or (image.GetDimension() == 4 and is_list):
        raise Refused("dimensions", "The image has more than three dimensions and time.", "Save one 3D volume of it.")
    count = components if is_list else image.GetSize()[3] if image.GetDimension() == 4 else 1
    if frame is None and count > 1:
        raise Refused(
            "time", f"The file holds {count} time points.", f"Choose one with --frame N, N from 0 to {count - 1}."
        )
    index = frame or 0
    if not 0 <= index < count:
        raise Refused(
            "time",
            f"There is no frame {index}: the file holds {count}.",
            f"Choose one from 0 to {count - 1} with --frame N.",
        )
    if is_list:
        return sitk.VectorIndexSelectionCast(image, index)
    return image[:, :, :, index] if image.GetDimension() == 4 else image


def _matrix_of(image: sitk.Image) -> np.ndarray:
    """``ijk_to_ras`` (4, 4) of a 2D or 3D SimpleITK image; a 2D image lies in the plane z = 0."""
    n = image.GetDimension()
    lps = np.eye(4)
    lps[:n, :n] = np.reshape(image.GetDirection(), (n, n)) * image.GetSpacing()
    lps[:n, 3] = image.GetOrigin()
    return LPS_RAS @ lps


def _metaimage_comment(path: Path) -> dict[str, str]:
    """MetaIO writes ``Comment`` but does not hand it back."""
    with open(path, "rb") as file:
        for line in file.read(65536).split(b"\n"):
            key, _, value = line.partition(b"=")
            if key.strip() == b"Comment":
                return {COMMENT: value.strip().decode("utf-8", "replace")}
            if key.strip() == b"ElementDataFile":
                break
    return {}
