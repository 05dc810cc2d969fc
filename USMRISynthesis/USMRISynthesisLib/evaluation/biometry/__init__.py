"""Biometry from the fitted skull, against annotated frames and simulated heads."""
