"""Training of all networks; not part of the Slicer package."""
