"""Ultrasound images before any network: the fan, the intensities, and the gate."""
