"""Layouts, marks and what is drawn in the views."""
