"""Training of the alignment networks."""
