"""Evaluation on heads simulated from averages of normal fetuses, of which nothing is trained."""
