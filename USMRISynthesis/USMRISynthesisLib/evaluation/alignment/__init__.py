"""Evaluation of the alignment."""
