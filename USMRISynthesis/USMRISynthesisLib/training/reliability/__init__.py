"""Training of the reliability map."""
