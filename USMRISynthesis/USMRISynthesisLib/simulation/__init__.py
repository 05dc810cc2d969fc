"""Simulated fetal head ultrasound with its truth: anatomy variation, acquisition, data sets.

Every figure and picture that comes from here is simulated, and is called simulated.
"""
