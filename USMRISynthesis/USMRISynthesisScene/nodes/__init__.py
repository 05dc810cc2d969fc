"""Reading and writing the nodes of the scene."""
