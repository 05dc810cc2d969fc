"""The MR-like volume as DICOM that cannot be taken for a scan: a derived, synthetic image for each slice.

The class is Secondary Capture: no MR class may describe what no MR scanner made. Every file says what it is in Image
Type (DERIVED), Synthetic Data (YES), Content Qualification (RESEARCH) and its descriptions. Place and orientation are
in the same frame of reference as the source, where that is DICOM too; patient and study come from there as well.

    write_dicom("folder", mr_volume, provenance, source="ultrasound.dcm")

pydicom, which Slicer brings, is imported when something is written.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from USMRISynthesisLib.errors import Failed, Refused
from USMRISynthesisLib.geometry.canonical import LPS_RAS
from USMRISynthesisLib.io.dicom_file import pydicom as pydicom_package
from USMRISynthesisLib.io.dicom_file import quiet, save_dataset, whole
from USMRISynthesisLib.io.synthetic import MADE_BY, SYNTHETIC
from USMRISynthesisLib.io.volume import Volume

log = logging.getLogger(__name__)

SERIES = "MR-like from ultrasound, SYNTHETIC"
_CARRIED = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "StudyDescription",
    "AccessionNumber",
    "ReferringPhysicianName",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
)


# What places an image in its frame of reference.
_PLACED = ("ImagePositionPatient", "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence")
# Without these a reference to the source cannot be written, or it is a directory and no image.
_IDENTITY = ("SOPClassUID", "SOPInstanceUID")


def write_dicom(
    folder: str | os.PathLike[str],
    mr: Volume,
    provenance: Mapping[str, Any],
    *,
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
) -> list[Path]:
    """Write one file a slice into a folder, all or none.

    Args:
        folder: must exist; files of the same names are replaced.
        mr: greyscale, 0 or above; integers are kept, other numbers are rounded by a rescale slope to 16 bits.
        provenance: of the result; model, versions and hashes go into the derivation description.
        source: a DICOM file of the ultrasound, or all of them; each is referred to. Patient and study of the first are
            carried over, and its frame of reference where it lies in it. Text is written as UTF-8 (ISO_IR 192),
            whatever character set the source declares; where it declares none and is not ASCII, its bytes are kept and
            none is declared either: nobody knows what they mean.

    Returns:
        The files, in the order of the slices.

    Raises:
        Refused: the grid is sheared; the source is not DICOM, is no image, or its text cannot be read with the
            character set that it declares.
        Failed: pydicom is missing, or the folder cannot be written.
    """
    target = Path(folder)
    if not target.is_dir():
        raise Failed("folder", f"The folder {target.name} does not exist.", "Create it or choose another one.")
    slices = derived_slices(mr, provenance, source=source)
    staged = None
    try:
        staged = Path(tempfile.mkdtemp(prefix=".writing-", dir=target))
        names = [f"synthetic-{index + 1:04d}.dcm" for index in range(mr.shape[0])]
        for one, name in zip(slices, names, strict=True):
            save_dataset(one, staged / name)
        for name in names:
            os.replace(staged / name, target / name)
    except OSError as error:
        raise Failed(
            "write",
            f"Writing DICOM failed: {error.strerror or 'it could not be saved'}.",
            "Check free space and permissions of the folder.",
        ) from error
    finally:
        if staged is not None:
            shutil.rmtree(staged, ignore_errors=True)
    return [target / name for name in names]


def derived_slices(
    mr: Volume,
    provenance: Mapping[str, Any],
    *,
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    frame: int | None = None,
) -> Iterator[Any]:
    """The data sets that `write_dicom` writes, slice by slice.

    frame: which frame of the source was used, from 0, where it has several. Raises what `write_dicom` does, at once.
    """
    files = [] if source is None else [source] if isinstance(source, (str, os.PathLike)) else list(source)
    sources = [_source(file) for file in files]
    common = _common(mr, provenance, sources, frame)
    stored, slope = _stored(mr.array)
    return (_slice(common, mr, stored[index], slope, index) for index in range(mr.shape[0]))


def _source(path: str | os.PathLike[str]) -> Any:
    pydicom = pydicom_package()
    name, remedy = Path(path).name, "Choose a DICOM file of the ultrasound, or none."
    try:
        with quiet():
            source = pydicom.dcmread(path, stop_before_pixels=True)
            empty = [key for key in _IDENTITY if not str(source.get(key, "")).strip()]
            if not empty:
                _check_text(source)
    except (OSError, pydicom.errors.InvalidDicomError) as error:
        raise Refused("source", f"{name} is not a readable DICOM file.", remedy) from error
    except UnicodeError as error:
        raise Refused(
            "source",
            f"The text in {name} does not fit the character set that it declares.",
            "Correct Specific Character Set in the file, or export without a source.",
        ) from error
    except Exception as error:  # pydicom raises what it meets in a damaged file
        log.debug("the DICOM source cannot be used (%s)", type(error).__name__)  # its text may quote the file's
        raise Refused("source", f"{name} is a damaged DICOM file.", remedy) from None
    if empty:
        raise Refused("source", f"{name} is no complete DICOM image: it lacks {_named(empty)}.", remedy)
    return source


def _character_set(source: Any) -> str | None:
    """What is declared for the text that comes from the source."""
    carried = "".join(str(source[name].value) for name in _CARRIED if source is not None and name in source)
    return "ISO_IR 192" if source is None or source.get("SpecificCharacterSet") or carried.isascii() else None


def _check_text(source: Any) -> None:
    """Decode what is carried over; raises UnicodeError where the declared character set does not fit."""
    declared = source.get("SpecificCharacterSet") or "ISO_IR 6"
    codecs = pydicom_package().charset.convert_encodings(list(declared) if not isinstance(declared, str) else declared)
    for name in _CARRIED:
        if name not in source:
            continue
        raw = source.get_item(name)
        value = getattr(raw, "value", None)
        # pydicom replaces what it cannot decode by marks, with a warning only.
        if isinstance(value, bytes) and len(codecs) == 1:
            value.decode(codecs[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            text = str(source[name].value)
        if "\ufffd" in text:
            raise UnicodeError(name)


def _named(keys: list[str]) -> str:
    """SOPInstanceUID -> SOP Instance UID, as DICOM's dictionary has it."""
    dictionary = pydicom_package().datadict
    return ", ".join(dictionary.dictionary_description(dictionary.tag_for_keyword(key)) for key in keys)


def _stored(array: np.ndarray) -> tuple[np.ndarray, float]:
    """uint16 voxels and the slope that turns them back into values."""
    highest = float(array.max(initial=0))
    if array.dtype.kind in "ui" and highest <= 65535:
        return np.clip(array, 0, None).astype(np.uint16), 1.0
    slope = highest / 65535 or 1.0
    return np.rint(np.clip(array, 0, None) / slope).astype(np.uint16), slope


def _common(mr: Volume, provenance: Mapping[str, Any], sources: Sequence[Any], frame: int | None) -> Any:
    """What all slices share."""
    pydicom = pydicom_package()
    directions = (LPS_RAS @ mr.ijk_to_ras)[:3, :3] / mr.spacing
    if np.abs(directions.T @ directions - np.eye(3)).max() > 1e-3:
        raise Refused(
            "shear",
            "The volume's axes are not at right angles, which DICOM images must be.",
            "Resample it to a plain grid first.",
        )
    source = sources[0] if sources else None
    one, uid = pydicom.Dataset(), pydicom.uid.generate_uid
    if character_set := _character_set(source):
        one.SpecificCharacterSet = character_set
    now = datetime.now()
    for name in (
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyID",
        "StudyDate",
        "StudyTime",
        "AccessionNumber",
        "ReferringPhysicianName",
    ):
        setattr(one, name, "")
    one.StudyInstanceUID, one.FrameOfReferenceUID, one.PositionReferenceIndicator = uid(), uid(), ""
    if source is not None:
        for name in _CARRIED:
            # An empty UID is none: the new one stays. So it does where the source has no place in its own frame.
            if name == "FrameOfReferenceUID" and not any(key in source for key in _PLACED):
                continue
            if name in source and (str(source[name].value).strip() or not name.endswith("UID")):
                setattr(one, name, getattr(source, name))
        one.SourceImageSequence = [_reference(file, frame) for file in sources]
    one.SOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    one.SeriesInstanceUID, one.Modality, one.ConversionType = uid(), "OT", "WSD"
    one.SeriesDescription, one.SeriesNumber = SERIES, 9001
    one.ImageType = ["DERIVED", "SECONDARY"]
    one.add_new(0x0008001C, "CS", "YES")  # Synthetic Data
    one.ContentQualification = "RESEARCH"
    one.ImageComments = SYNTHETIC
    one.BurnedInAnnotation = "NO"
    model, software = provenance.get("model", {}), provenance.get("software", {})
    one.DerivationDescription = (
        f"{SYNTHETIC}. Computed from ultrasound by {software.get('name', 'USMRISynthesis')} "
        f"{software.get('version', '')}, model {model.get('name', '')} {model.get('version', '')}, "
        f"SHA-256 {model.get('sha256', '')}"
    )[:1024]
    one.Manufacturer = MADE_BY
    one.SoftwareVersions = str(software.get("version", ""))
    one.ContentDate = one.SeriesDate = now.strftime("%Y%m%d")
    one.ContentTime = one.SeriesTime = now.strftime("%H%M%S")
    one.Laterality = ""  # of a paired body part, which a head is not
    one.PatientOrientation = [_letters(directions[:, 0]), _letters(directions[:, 1])]
    one.ImageOrientationPatient = [round(float(value), 9) for value in (*directions[:, 0], *directions[:, 1])]
    one.PixelSpacing = [_decimal(mr.spacing[1]), _decimal(mr.spacing[0])]
    one.SliceThickness = one.SpacingBetweenSlices = _decimal(mr.spacing[2])
    return one


def _reference(source: Any, frame: int | None) -> Any:
    """A reference to a source, and to its frame where it has several."""
    one = pydicom_package().Dataset()
    one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    if frame is not None and whole(source, "NumberOfFrames", 1) > 1:
        one.ReferencedFrameNumber = frame + 1
    return one


def _slice(common: Any, mr: Volume, voxels: np.ndarray, slope: float, index: int) -> Any:
    """The data set of one slice."""
    pydicom = pydicom_package()
    one = pydicom.Dataset()
    one.update(common)
    one.SOPInstanceUID, one.InstanceNumber = pydicom.uid.generate_uid(), index + 1
    place = (LPS_RAS @ mr.ijk_to_ras @ [0, 0, index, 1])[:3]
    one.ImagePositionPatient = [_decimal(value) for value in place]
    one.Rows, one.Columns = voxels.shape
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.BitsAllocated = one.BitsStored = 16
    one.HighBit, one.PixelRepresentation = 15, 0
    one.RescaleIntercept, one.RescaleSlope, one.RescaleType = 0, _decimal(slope), "US"
    one.WindowCenter, one.WindowWidth = 500, 1000
    one.PixelData = voxels.astype("<u2").tobytes()
    one.file_meta = pydicom.dataset.FileMetaDataset()
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
    one.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    return one


def _letters(direction: np.ndarray) -> str:
    """A direction in LPS, (3,), as DICOM writes it: "L", "PH", the nearest letters first."""
    order = sorted(range(3), key=lambda axis: -abs(direction[axis]))
    return "".join("RAF"[axis] if direction[axis] < 0 else "LPH"[axis] for axis in order if abs(direction[axis]) > 0.1)


def _decimal(value: float) -> str:
    """A decimal string of at most 16 characters, exact to a millionth of a millimetre or better."""
    return f"{float(value):.9g}"
