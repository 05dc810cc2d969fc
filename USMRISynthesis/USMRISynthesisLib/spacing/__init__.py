"""Slice-spacing reduction (after Xuan 2021): thick MR slices in, thin ones out. Arrays here are (slices, h, w)."""
