"""Behaviour of the widgets, section by section."""
