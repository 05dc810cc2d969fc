"""How well the network says what a frame shows."""
