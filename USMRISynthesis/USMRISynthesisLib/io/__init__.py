"""Volumes, transforms, provenance, DICOM and reports: what is read from and written to disk."""
