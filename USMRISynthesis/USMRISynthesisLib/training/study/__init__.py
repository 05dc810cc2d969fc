"""Methods and ablations trained on the same data."""
