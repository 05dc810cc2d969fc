"""Fetal brain MR volumes into canonical space."""
