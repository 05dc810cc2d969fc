"""Compressed frames of DICOM: run lengths by pydicom, all other kinds by GDCM through SimpleITK.

GDCM is C++, and a crafted frame may crash it, keep it busy or have it fill the memory. So it runs in a process of its
own, which ends at a limit of time and memory. That process is given the frame alone, in a file without patient data.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.dicom_file import guarded, pydicom, save_dataset
from USMRISynthesisLib.io.header import damaged

RLE = "1.2.840.10008.1.2.5"
# JPEG baseline to lossless, JPEG-LS and JPEG 2000: what GDCM unpacks. The rest is video.
GDCM = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81, 90, 91))
# What GDCM and pydicom must know of a frame; frames that agree in it are unpacked together.
ALIKE = ("SamplesPerPixel", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
           "PhotometricInterpretation", "PlanarConfiguration")  # fmt: skip
_SECONDS, _SECONDS_PER_VOXEL = 60, 2e-7
_LEAST_MEMORY, _MEMORY_PER_VOXEL = 2 << 30, 64
_CHILD = """
import sys
try:
    import resource
    for what, most in ((resource.RLIMIT_AS, int(sys.argv[3])), (resource.RLIMIT_CPU, int(sys.argv[4])),
                       (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(what, (most, most))
except (ImportError, ValueError, OSError):
    pass
import numpy
import SimpleITK
SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
reader = SimpleITK.ImageFileReader()
reader.SetImageIO("GDCMImageIO")
reader.SetFileName(sys.argv[1])
numpy.save(sys.argv[2], SimpleITK.GetArrayFromImage(reader.Execute()), allow_pickle=False)
"""


def frames_of(value: bytes, frames: Sequence[int], count: int, name: str) -> list[bytes]:
    """The bytes of some frames in a compressed pixel data element.

    Args:
        value: the element's value: items with fragments.
        frames: which, from 0, ascending.
        count: how many the file states.
        name: of the file, for the sentences.

    Raises:
        Refused: damaged, or cut short.
    """
    with guarded(name):
        encaps = pydicom().encaps
        if hasattr(encaps, "generate_frames"):  # pydicom 3
            found = encaps.generate_frames(value, number_of_frames=count)
        else:
            found = encaps.generate_pixel_data_frame(value, count)
        wanted = set(frames)
        parts = [bytes(part) for index, part in enumerate(islice(found, max(frames) + 1)) if index in wanted]
        if len(parts) != len(frames):
            raise damaged(name, "it is cut short: it holds fewer frames than it announces")
        return parts


def unpack(parts: Sequence[bytes], header: Any, syntax: str, name: str) -> np.ndarray:
    """Unpack frames, of one file or of several that are alike.

    Args:
        parts: the frames.
        header: the data set of their file, or of one of them.
        syntax: UID of its transfer syntax.
        name: of the file, for the sentences.

    Returns:
        (n, j, i) or (n, j, i, 3); stored values. Of JPEG in YBR, RGB; of run lengths, what the header names.

    Raises:
        Refused: damaged, or of a kind that is not read here.
    """
    if syntax != RLE and syntax not in GDCM:
        raise Refused(
            "encoding",
            f"{name} is compressed in a way that is not read here.",
            "Export it uncompressed, or open it in 3D Slicer and save it as NRRD.",
        )
    with guarded(name):
        one = _dataset(header, parts, syntax)
        pixels = _by_pydicom(one) if syntax == RLE else _by_gdcm(one, name)
        shape: tuple[int, ...] = (len(parts), int(header.Rows), int(header.Columns))
        shape += (3,) * (int(header.SamplesPerPixel) == 3)
        if pixels.size != np.prod(shape):
            raise damaged(name)
        return pixels.reshape(shape)


def _dataset(header: Any, parts: Sequence[bytes], syntax: str) -> Any:
    """A data set with these frames and what is needed to unpack them."""
    package = pydicom()
    one = package.Dataset()
    for key in ALIKE:
        if key in header:
            setattr(one, key, header.get(key))
    # Palettes and inverted greys are applied to what comes out; run lengths are left in their colours.
    if one.SamplesPerPixel == 1:
        one.PhotometricInterpretation = "MONOCHROME2"
    elif syntax == RLE:
        one.PhotometricInterpretation = "RGB"
    one.NumberOfFrames = len(parts)
    one.PixelData = package.encaps.encapsulate([part + b"\0" * (len(part) % 2) for part in parts])
    one["PixelData"].is_undefined_length = True
    one["PixelData"].VR = "OB"
    one.SOPClassUID, one.SOPInstanceUID = package.uid.SecondaryCaptureImageStorage, package.uid.generate_uid()
    meta = package.dataset.FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = package.uid.UID(syntax), one.SOPClassUID
    meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
    one.file_meta = meta
    if int(package.__version__.split(".")[0]) < 3:
        one.is_implicit_VR, one.is_little_endian = False, True
    return one


def _by_pydicom(one: Any) -> np.ndarray:
    return np.asarray(one.pixel_array)


def _by_gdcm(one: Any, name: str) -> np.ndarray:
    voxels = int(one.NumberOfFrames) * int(one.Rows) * int(one.Columns)
    seconds = int(_SECONDS + voxels * _SECONDS_PER_VOXEL)
    with tempfile.TemporaryDirectory(prefix="usmri-") as folder:
        source, target = Path(folder) / "frames.dcm", Path(folder) / "frames.npy"
        save_dataset(one, source)
        limits = [str(_LEAST_MEMORY + voxels * _MEMORY_PER_VOXEL), str(seconds)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(place for place in sys.path if os.path.isabs(place))}
        try:
            ended = subprocess.run(
                [sys.executable, "-c", _CHILD, str(source), str(target), *limits],
                cwd=folder,  # nothing is imported from where the user happens to be
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise damaged(name, "its pixels could not be unpacked in time") from None
        if ended.returncode != 0 or not target.is_file():
            raise damaged(name, "its pixels could not be unpacked")
        return np.asarray(np.load(target, allow_pickle=False))
