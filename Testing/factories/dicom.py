"""DICOM files made with pydicom: ultrasound stills and films, volumes, slices of a series, a DICOMDIR. A patient's data
are in each of them, so that a test can see that they go nowhere."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

US, US_FILM = "1.2.840.10008.5.1.4.1.1.6.1", "1.2.840.10008.5.1.4.1.1.3.1"
US_RETIRED, US_FILM_RETIRED = "1.2.840.10008.5.1.4.1.1.6", "1.2.840.10008.5.1.4.1.1.3"
ENHANCED_US, MR = "1.2.840.10008.5.1.4.1.1.6.2", "1.2.840.10008.5.1.4.1.1.4"
PATIENT = {
    "PatientName": "Muster^Maria", "PatientID": "ID-4711", "PatientBirthDate": "19900102", "AccessionNumber": "ACC-99",
    "ReferringPhysicianName": "Arzt^Anna", "StudyDescription": "Fetale Neurosonographie", "InstitutionName": "Klinik",
}  # fmt: skip
SECRETS = ("Muster", "Maria", "ID-4711", "19900102", "ACC-99", "Arzt", "Neurosonographie", "Klinik")
STUDY, FRAME_OF_REFERENCE = generate_uid(), generate_uid()


def dataset(sop_class: str, pixels: np.ndarray, **fields: Any) -> Any:
    """A data set with these pixels, (j, i), (n, j, i) or with three colours last; fields win over what there is."""
    colour = pixels.shape[-1] == 3 and pixels.ndim > 2
    plane = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    one = pydicom.Dataset()
    one.SOPClassUID, one.SOPInstanceUID = sop_class, generate_uid()
    one.StudyInstanceUID, one.SeriesInstanceUID = STUDY, generate_uid()
    one.Modality, one.SeriesNumber, one.InstanceNumber = "US", 1, 1
    one.Rows, one.Columns = plane
    if pixels.ndim - colour == 3:
        one.NumberOfFrames = len(pixels)
    one.SamplesPerPixel = 3 if colour else 1
    one.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        one.PlanarConfiguration = 0
    bits = pixels.dtype.itemsize * 8
    one.BitsAllocated, one.BitsStored, one.HighBit = bits, bits, bits - 1
    one.PixelRepresentation = int(pixels.dtype.kind == "i")
    for key, value in {**PATIENT, **fields}.items():
        setattr(one, key, value)
    one.PixelData = np.ascontiguousarray(pixels).tobytes()
    if len(one.PixelData) % 2:
        one.PixelData += b"\0"
    one["PixelData"].VR = "OW" if bits > 8 else "OB"
    return one


def save(one: Any, path: Path, syntax: str = ExplicitVRLittleEndian) -> Path:
    """Write a data set as a file."""
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = syntax, one.SOPClassUID
    meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
    one.file_meta = meta
    path.parent.mkdir(parents=True, exist_ok=True)
    if int(pydicom.__version__.split(".")[0]) < 3:
        one.is_implicit_VR, one.is_little_endian = False, True
        one.save_as(path, write_like_original=False)
    else:
        one.save_as(path, enforce_file_format=True)
    return path


def region(
    left: int, top: int, right: int, bottom: int, sides_cm: tuple[float, float] = (0.03, 0.03), **fields: Any
) -> Any:
    """A 2D tissue region; the last column and row belong to it."""
    one = pydicom.Dataset()
    one.RegionSpatialFormat, one.RegionDataType, one.RegionFlags = 1, 1, 2
    one.RegionLocationMinX0, one.RegionLocationMinY0 = left, top
    one.RegionLocationMaxX1, one.RegionLocationMaxY1 = right, bottom
    one.PhysicalUnitsXDirection = one.PhysicalUnitsYDirection = 3
    one.PhysicalDeltaX, one.PhysicalDeltaY = sides_cm
    for key, value in fields.items():
        setattr(one, key, value)
    return one


def series(folder: Path, array: np.ndarray, ijk_to_ras: np.ndarray, **fields: Any) -> list[Path]:
    """A slice a file of a volume (k, j, i) at (4, 4) RAS mm; names say nothing of the order."""
    lps = np.diag([-1.0, -1, 1, 1]) @ ijk_to_ras
    sides = np.linalg.norm(lps[:3, :3], axis=0)
    along = (lps[:3, :3] / sides).T
    uid = generate_uid()
    files = []
    for index, plane in enumerate(array):
        place = (lps @ [0, 0, index, 1])[:3]
        one = dataset(
            fields.get("sop_class", MR),
            plane,
            InstanceNumber=index + 1,
            FrameOfReferenceUID=FRAME_OF_REFERENCE,
            ImagePositionPatient=[f"{value:.9g}" for value in place],
            ImageOrientationPatient=[f"{value:.9g}" for value in along[:2].ravel()],
            PixelSpacing=[f"{sides[1]:.9g}", f"{sides[0]:.9g}"],
            SliceThickness=f"{sides[2]:.9g}",
            **{
                "Modality": "MR",
                "SeriesInstanceUID": uid,
                **{key: value for key, value in fields.items() if key != "sop_class"},
            },
        )
        files.append(save(one, folder / f"IM{(index * 7919) % 10007:05d}"))
    return files


def enhanced(array: np.ndarray, ijk_to_ras: np.ndarray, *, patient: bool = False, times: int = 1, **fields: Any) -> Any:
    """An Enhanced US Volume of (times * k, j, i); the place is in the volume's frame of reference, or the patient's."""
    lps = np.diag([-1.0, -1, 1, 1]) @ ijk_to_ras
    sides = np.linalg.norm(lps[:3, :3], axis=0)
    along = (lps[:3, :3] / sides).T
    one = dataset(ENHANCED_US, array, **fields)
    shared = pydicom.Dataset()
    measures = pydicom.Dataset()
    measures.PixelSpacing = [f"{sides[1]:.9g}", f"{sides[0]:.9g}"]
    measures.SliceThickness = f"{sides[2]:.9g}"
    shared.PixelMeasuresSequence = [measures]
    turned, kind = pydicom.Dataset(), pydicom.Dataset()
    if patient:
        turned.ImageOrientationPatient = [f"{value:.9g}" for value in along[:2].ravel()]
        shared.PlaneOrientationSequence = [turned]
    else:
        turned.ImageOrientationVolume = [float(value) for value in along[:2].ravel()]
        shared.PlaneOrientationVolumeSequence = [turned]
    kind.DataType = "TISSUE_INTENSITY"
    shared.ImageDataTypeSequence = [kind]
    one.SharedFunctionalGroupsSequence = [shared]
    frames = []
    slices = len(array) // times
    for index in range(len(array)):
        frame, place, content = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        position = (lps @ [0, 0, index % slices, 1])[:3]
        if patient:
            place.ImagePositionPatient = [f"{value:.9g}" for value in position]
            frame.PlanePositionSequence = [place]
        else:
            place.ImagePositionVolume = [float(value) for value in position]
            frame.PlanePositionVolumeSequence = [place]
        content.TemporalPositionIndex = index // slices + 1
        frame.FrameContentSequence = [content]
        frames.append(frame)
    one.PerFrameFunctionalGroupsSequence = frames
    return one


def directory(folder: Path, files: Sequence[Path | Sequence[str]]) -> Path:
    """A DICOMDIR that lists files in a folder, or whatever names are given."""
    one = pydicom.Dataset()
    one.SOPClassUID, one.SOPInstanceUID = "1.2.840.10008.1.3.10", generate_uid()
    one.FileSetID = "MADE"
    records = []
    for file in files:
        record = pydicom.Dataset()
        record.DirectoryRecordType = "IMAGE"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # names that DICOM does not allow
            record.ReferencedFileID = list(file.relative_to(folder).parts) if isinstance(file, Path) else list(file)
        records.append(record)
    one.DirectoryRecordSequence = records
    return save(one, folder / "DICOMDIR")
