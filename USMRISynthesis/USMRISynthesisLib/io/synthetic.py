"""The mark that every synthetic image carries. Standard library only: Slicer imports it at start-up."""

from __future__ import annotations

SYNTHETIC = "SYNTHETIC - not for diagnosis"
# Keys in the headers of NRRD and MetaImage files, and attributes of nodes in Slicer.
SYNTHETIC_KEY = "USMRISynthesis.Synthetic"
PROVENANCE_KEY = "USMRISynthesis.Provenance"
# How files begin their comment that this program made but that are no synthetic image: a resampled ultrasound, masks,
# transforms, pictures.
MADE_BY = "USMRISynthesis"
