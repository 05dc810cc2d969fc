"""Admission of MR for the slice spacing: checks of the header and of the values."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.synthetic import SYNTHETIC_KEY
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.ultrasound import gate

_MODALITY_KEYS = ("0008|0060", "DICOM.Modality", "Modality", "modality")
_LABELS = 32  # so few different whole numbers are labels, not intensities
_HOUNSFIELD_AIR = -900
_GRAIN_PIXELS = 0.8  # sigma of the blur that takes the noise of MR away, and leaves speckle


def admit(volume: Volume) -> None:
    """Raise Refused for what is no MR: another modality by its header, CT by its values, a segmentation, NaN, speckle.

    Speckle is checked only if the header names no modality: an image with modality MR is accepted as MR.
    """
    modality = next((volume.metadata[key].strip().upper() for key in _MODALITY_KEYS if volume.metadata.get(key)), "")
    if modality not in ("", "MR", "MRI") and SYNTHETIC_KEY not in volume.metadata:
        raise Refused("modality", f"The modality in the file is {modality}, not MR.", "Choose an MR volume.")
    array = volume.array
    if array.dtype.kind not in "iuf":
        raise Refused("modality", "The image holds no grey levels.", "Choose an MR volume.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Refused(
            "values", "The image holds values that are not numbers.", "Replace them (NaN, infinity) and save it again."
        )
    sample = array.reshape(-1)[:: 1 + array.size // 300_000]
    if array.dtype.kind != "f" or np.array_equal(sample, np.rint(sample)):
        levels = len(np.unique(sample))
        if 1 < levels <= _LABELS:
            raise Refused(
                "labels",
                f"The image has {levels} different values only: it looks like a segmentation.",
                "Choose an MR volume.",
            )
    if float(np.min(sample)) <= _HOUNSFIELD_AIR and float(np.percentile(sample, 10)) < -200:
        raise Refused("modality", "The values look like CT (Hounsfield units), not MR.", "Choose an MR volume.")
    if not modality and SYNTHETIC_KEY not in volume.metadata and speckled(volume):
        raise Refused(
            "modality",
            "The image has the speckle of ultrasound, and no modality in its header.",
            "Choose an MR volume; if this is one, load it from DICOM or save it with Modality = MR.",
        )


def speckled(volume: Volume) -> bool:
    """Whether the gate of the synthesis accepts it as ultrasound, also after a slight blur in the plane of the slices.

    The gate was made to separate ultrasound from smooth MR, and noisy MR is grainy as well. But noise is grainy from
    pixel to pixel, and speckle is as wide as the beam.
    """
    fan = gate.find_fan(volume.array, volume.spacing)
    if not fan.any() or not _has_speckle(volume, fan):
        return False
    sides = volume.spacing[::-1]
    sigmas = [0.0 if side == max(sides) else _GRAIN_PIXELS for side in sides]
    blurred = ndimage.gaussian_filter(volume.array.astype(np.float32), sigmas)
    return _has_speckle(Volume(blurred, volume.ijk_to_ras), fan)


def _has_speckle(volume: Volume, fan: np.ndarray) -> bool:
    evidence = gate.speckle_evidence(volume, fan)
    return bool(np.isfinite(evidence)) and evidence >= gate.MIN_SPECKLE_EVIDENCE
