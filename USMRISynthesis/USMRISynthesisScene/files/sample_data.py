"""The sample images of the module, for Slicer's Sample Data module."""

from __future__ import annotations

from pathlib import Path

from slicer.i18n import tr as _

CATEGORY = "USMRISynthesis"
SIMULATED = "FetalHeadSimulated"
REAL = "FetalHeadReal"
FRAME = "FetalHeadHC18"
FILES = {REAL: "fetal-head-ucl.nrrd", SIMULATED: "fetal-head-simulated.nrrd", FRAME: "fetal-head-hc18.nrrd"}


# SHA-256 of the files: Slicer copies them into its cache, and a copy from an older version must not be used.
CHECKSUMS = {
    REAL: "cbc8851b0b687a1398063dec2666bb8d3b983983ecbe599be37ee7794ab29175",
    SIMULATED: "c55a0dce2ef2095dd1a75ad3e7d4f9b184d37f3692352cd0073136e843b7a0c0",
    FRAME: "515cb7d47733e5ce4c489340c946c7584ca498eb7cac18ada679f662754fd976",
}


def sample_file(name: str) -> Path:
    """Path of a sample image, installed (beside the module) or in a source tree (its top folder)."""
    module = Path(__file__).resolve().parents[2]
    candidates = [folder / "Resources" / "SampleData" / FILES[name] for folder in (module, module.parent)]
    return next((path for path in candidates if path.is_file()), candidates[0])


def register_sample_data() -> None:
    """Register the images in the Sample Data module. They are installed files: nothing is downloaded."""
    import SampleData  # a module of Slicer that may be switched off

    logic = SampleData.SampleDataLogic
    if hasattr(logic, "registerCustomSampleDataCategory"):  # Slicer 5.12 and later
        logic.registerCustomSampleDataCategory(CATEGORY, title=_("MR-like images from fetal ultrasound"))
    icons = Path(__file__).resolve().parents[2] / "Resources" / "Icons"
    for name in FILES:
        path = sample_file(name)
        if not path.is_file():
            continue
        thumbnail = icons / f"{name}.png"
        logic.registerCustomSampleDataSource(
            category=CATEGORY,
            sampleName=name,
            uris=path.as_uri(),
            fileNames=path.name,
            nodeNames=name,
            checksums=f"SHA256:{CHECKSUMS[name]}",
            thumbnailFileName=str(thumbnail) if thumbnail.is_file() else None,
        )
