"""Evaluation of the simulator against real frames."""
