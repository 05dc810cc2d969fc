"""Is it MR? What can be told from the file's own words and from the values; the rest is the user's to know."""
from __future__ import annotations

import numpy as np

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.synthesis.result import SYNTHETIC_KEY
from USMRISynthesisLib.volume import Volume

_MODALITY_KEYS = ("0008|0060", "DICOM.Modality", "Modality", "modality")
_LABELS = 32            # so few different whole numbers are labels, not intensities
_HOUNSFIELD_AIR = -900


def admit(volume: Volume) -> None:
    """Raise Refused for what is no MR: another modality by its header, CT by its values, a segmentation, NaN.

    Ultrasound without a modality in its header cannot be told from its values and passes.
    """
    said = next((volume.metadata[key].strip().upper() for key in _MODALITY_KEYS if volume.metadata.get(key)), "")
    if said not in ("", "MR", "MRI") and SYNTHETIC_KEY not in volume.metadata:
        raise Refused("modality", f"The file says that the image is {said}, not MR.", "Choose an MR volume.")
    array = volume.array
    if array.dtype.kind not in "iuf":
        raise Refused("modality", "The image holds no grey levels.", "Choose an MR volume.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Refused("values", "The image holds values that are not numbers.",
                      "Replace them (NaN, infinity) and save it again.")
    sample = array.reshape(-1)[:: 1 + array.size // 300_000]
    if array.dtype.kind != "f" or np.array_equal(sample, np.rint(sample)):
        levels = len(np.unique(sample))
        if 1 < levels <= _LABELS:
            raise Refused("labels", f"The image has {levels} different values only: it looks like a segmentation.",
                          "Choose an MR volume.")
    if float(np.min(sample)) <= _HOUNSFIELD_AIR and float(np.percentile(sample, 10)) < -200:
        raise Refused("modality", "The values look like CT (Hounsfield units), not MR.", "Choose an MR volume.")
