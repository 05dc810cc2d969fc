"""Layouts, marks and overlays in the views."""
