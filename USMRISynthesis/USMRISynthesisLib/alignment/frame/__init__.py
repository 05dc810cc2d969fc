"""Outline of the head in a 2D frame by a network."""
