"""Alignment of 3D volumes: detection, coarse orientation and refinement by networks."""
