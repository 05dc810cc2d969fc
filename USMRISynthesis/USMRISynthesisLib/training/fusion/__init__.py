"""Training of the 3D fusion of the three planes' outputs."""
