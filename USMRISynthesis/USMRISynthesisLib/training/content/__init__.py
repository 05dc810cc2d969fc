"""Training of the network that says what a frame shows."""
