"""Training of the network that outlines the head in frames."""
