"""Evaluation of slice-spacing reduction."""
