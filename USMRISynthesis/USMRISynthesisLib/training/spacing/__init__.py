"""Training of slice-spacing reduction (after Xuan 2021)."""
