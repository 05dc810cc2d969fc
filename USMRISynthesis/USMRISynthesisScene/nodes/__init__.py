"""Nodes of the scene: made, read, related to each other."""
