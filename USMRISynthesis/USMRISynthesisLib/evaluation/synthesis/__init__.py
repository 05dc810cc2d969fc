"""Evaluation of the synthesis against truth, baselines and real frames."""
