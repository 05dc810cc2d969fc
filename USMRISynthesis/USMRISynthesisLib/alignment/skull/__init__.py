"""Alignment by fitting a skull template, without networks: the baseline, and the outline for a given pose."""
