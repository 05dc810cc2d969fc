"""An image and where it lies in the patient: reading and writing without losing either.

Arrays are ``(k, j, i)``; ``ijk_to_ras`` takes voxel indices ``(i, j, k, 1)`` to RAS millimetres. Files are
LPS; ``header_nrrd.py``, ``header_nifti.py`` and ``header_metaimage.py`` convert.

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

import errno
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from USMRISynthesisLib.errors import Failed, memory_shortage
from USMRISynthesisLib.io.header import COMMENT, Forms, wrong_geometry
from USMRISynthesisLib.io.picture import PICTURE_FORMATS
from USMRISynthesisLib.io.reading import VOLUME_FORMATS, ending_of, read_image
from USMRISynthesisLib.io.saving import save

__all__ = ["COMMENT", "PICTURE_FORMATS", "VOLUME_FORMATS", "Volume"]

log = logging.getLogger(__name__)

# Of a box with sides of 1: below it the three directions lie in one plane.
_FLAT = 1e-9


@dataclass(frozen=True, eq=False)
class Volume:
    """A scalar image on a grid; a 2D frame is a volume of one slice.

    Attributes:
        array: ``(k, j, i)``.
        ijk_to_ras: ``(4, 4)`` float64, mm, RAS; any invertible affine: oblique, left-handed,
            anisotropic, sheared.
        metadata: free text that travels with the file.
        forms: the two placements in the NIfTI file that it was read from. A NIfTI file on the same grid carries both.
        files: what it was read from: the image's file, or the DICOM files of its slices.

    Raises:
        ValueError: the array is not three-dimensional or the matrix is not an invertible affine.
    """

    array: np.ndarray
    ijk_to_ras: np.ndarray
    metadata: Mapping[str, str] = field(default_factory=dict)
    forms: Forms | None = None
    files: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        array = np.asarray(self.array)
        matrix = np.array(self.ijk_to_ras, dtype=np.float64)
        if array.ndim != 3:
            raise ValueError(f"a volume's array is (k, j, i), not of shape {array.shape}")
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or (matrix[3] != (0, 0, 0, 1)).any():
            raise ValueError("ijk_to_ras must be a finite 4x4 affine matrix")
        with np.errstate(all="ignore"):  # the sides may be as small or large as they like, the directions may not
            volume = np.linalg.det(matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0))
        if not abs(volume) > _FLAT:
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
        cls,
        path: str | os.PathLike[str],
        *,
        frame: int | None = None,
        pixel_size_mm: float | None = None,
        voxel_size_mm: Sequence[float] | None = None,
        series: str | None = None,
        region: int | None = None,
    ) -> Volume:
        """Read a volume or a frame.

        Args:
            path: NRRD, NIfTI or MetaImage; DICOM: a file, a folder or a DICOMDIR; or a PNG, JPEG, TIFF or BMP frame,
                which needs ``pixel_size_mm``.
            frame: which time point of a 4D file, frame of a recorded sequence or film, or page of a TIFF, from 0. A
                tracked frame has its own place and texts.
            pixel_size_mm: pixel size of a 2D frame, instead of the one in the file.
            voxel_size_mm: voxel size of a volume along (i, j, k), or one for all, instead of the one in the file.
            series: which of several DICOM images: its number in the list that the refusal shows, or its series' UID.
            region: which of several B-mode regions of a DICOM picture, from 1.

        Raises:
            Refused: missing, unreadable or truncated file, unknown format, colour, several time points and no
                ``frame``, a picture without ``pixel_size_mm``, a volume that states no voxel size, a placement that no
                image has, voxels outside the file's folder, more voxels than memory holds; several DICOM images and
                none chosen, an ultrasound picture without a 2D B-mode region.
            Failed: DICOM without the package pydicom.
        """
        image = read_image(
            Path(path),
            frame=frame,
            pixel_size_mm=pixel_size_mm,
            voxel_size_mm=voxel_size_mm,
            series=series,
            region=region,
        )
        try:
            return cls(image.array, image.ijk_to_ras, image.metadata, image.forms, image.files)
        except ValueError as error:
            raise wrong_geometry(Path(path).name) from error

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
        ending = ending_of(path)
        if ending not in VOLUME_FORMATS:
            raise Failed(
                "format",
                f"Volumes cannot be written as {path.name}.",
                f"Use one of these endings: {', '.join(VOLUME_FORMATS)}.",
            )
        if not path.parent.is_dir():
            raise Failed("folder", f"The folder for {path.name} does not exist.", "Create it or choose another one.")
        texts = {key: " ".join(str(value).splitlines()) for key, value in {**self.metadata, **(metadata or {})}.items()}
        # Header and detached voxel file are written under their final names into a folder of their own on
        # the same disk, then moved: the header names the voxel file, and nothing partial is ever visible.
        folder = None
        try:
            folder = Path(tempfile.mkdtemp(prefix=".writing-", dir=path.parent))
            parts = save(
                folder, path.name, ending, self.array, self.ijk_to_ras, texts, compress=compress, forms=self.forms
            )
            beside = [path.parent / part.name for part in parts[:-1]]
            if not os.path.lexists(path) and any(os.path.lexists(one) for one in beside):
                raise FileExistsError(errno.EEXIST, f"{beside[0].name} exists already")  # it belongs to another image
            for part in parts:
                _settle(part)
            for part in parts:  # the header last
                os.replace(part, path.parent / part.name)
        except (OSError, ValueError, MemoryError) as error:
            log.debug("writing failed", exc_info=True)
            reason = (error.strerror if isinstance(error, OSError) else None) or "it could not be saved"
            raise memory_shortage(error) or Failed(
                "write", f"Writing {path.name} failed: {reason}.", "Check free space and permissions of the folder."
            ) from error
        finally:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)

    def with_values(self, array: np.ndarray, metadata: Mapping[str, str] | None = None) -> Volume:
        """Other voxels, (k, j, i), on this grid: a NIfTI file of them lies where this one's file does."""
        return Volume(array, self.ijk_to_ras, metadata or {}, self.forms)


def _settle(file: Path) -> None:
    """Have the disk take what was written; a network drive may only now say that it is full. Raises OSError."""
    with open(file, "rb+") as opened:
        os.fsync(opened.fileno())
