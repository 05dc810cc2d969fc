"""From labels to ultrasound: acoustics, beam, display."""
