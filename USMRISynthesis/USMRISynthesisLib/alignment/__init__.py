"""Where the head lies: from an ultrasound image to a similarity into canonical space."""
