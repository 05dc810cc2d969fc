"""Files: export, marks in saved files, DICOM, sample data, Kretz."""
