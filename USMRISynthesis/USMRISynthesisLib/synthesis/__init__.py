"""From canonical ultrasound slices to an MR-like image on the input's grid (Jiao 2019/2020)."""
