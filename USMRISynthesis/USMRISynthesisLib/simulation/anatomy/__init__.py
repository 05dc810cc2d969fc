"""Fetal heads deformed from MR averages, as label volumes."""
