"""Measures of what the product does.  Figures from simulated data are called simulated."""
