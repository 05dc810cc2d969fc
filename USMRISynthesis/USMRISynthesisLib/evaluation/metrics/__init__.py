"""Measures of images, deformation and distributions."""
