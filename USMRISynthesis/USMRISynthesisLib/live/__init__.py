"""Live synthesis: the MR-like image of the newest frame of a stream, beside the moving ultrasound."""
