"""The two images that come with the module, offered in Slicer's Sample Data module."""
from __future__ import annotations

import hashlib
from pathlib import Path

from slicer.i18n import tr as _

CATEGORY = "USMRISynthesis"
SIMULATED = "FetalHeadSimulated"
FRAME = "FetalHeadHC18"
FILES = {SIMULATED: "fetal-head-simulated.nrrd", FRAME: "fetal-head-hc18.nrrd"}


def sample_file(name: str) -> Path:
    """Path of a sample image, installed (beside the module) or in a source tree (its top folder)."""
    module = Path(__file__).resolve().parent.parent
    candidates = [folder / "Resources" / "SampleData" / FILES[name] for folder in (module, module.parent)]
    return next((path for path in candidates if path.is_file()), candidates[0])


def register_sample_data() -> None:
    """Tell the Sample Data module about them. They are files of this installation: nothing is downloaded."""
    import SampleData  # another module of Slicer, which may not be there

    logic = SampleData.SampleDataLogic
    if hasattr(logic, "registerCustomSampleDataCategory"):   # Slicer 5.12 and later
        logic.registerCustomSampleDataCategory(CATEGORY, title=_("MR-like images from fetal ultrasound"))
    icons = Path(__file__).resolve().parent.parent / "Resources" / "Icons"
    for name in FILES:
        path = sample_file(name)
        if not path.is_file():
            continue
        # Slicer copies the file into its cache; the checksum keeps a copy from an older version out of use.
        checksum = hashlib.sha256(path.read_bytes()).hexdigest()
        thumbnail = icons / f"{name}.png"
        logic.registerCustomSampleDataSource(
            category=CATEGORY, sampleName=name, uris=path.as_uri(), fileNames=path.name, nodeNames=name,
            checksums=f"SHA256:{checksum}",
            thumbnailFileName=str(thumbnail) if thumbnail.is_file() else None)
